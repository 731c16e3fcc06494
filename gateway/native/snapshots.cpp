#include "gateway/native/api.hpp"
#include "gateway/native/object_reader.hpp"
#include "gateway/native/session_json.hpp"
#include "messages/ids.hpp"

// Snapshots: a session's restore points and copies, and what a tenant has stored.

namespace troupe::gateway {

namespace {

constexpr int64_t max_forks = 1000;
constexpr size_t max_name_size = 1024;

/// "true", "false" or nothing.
result<bool> flag(const call& c, const std::string& name) {
  auto text = c.query(name);
  if (!text.empty() && text != "true" && text != "false")
    return unexpected(
      make_error(errc::invalid_request, op::request, '`' + name + "` must be true or false")
        .with("field", name));
  return text == "true";
}

} // namespace

// -- of a session

void api::checkpoint(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    checkpoint_session request;
    request.name = in.text("name").value_or("");
    if (request.name.size() > max_name_size)
      in.fail("name", "text of at most 1024 bytes");
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    ask_session<snapshot_outcome>(std::move(c2), std::move(request),
                                  [](const call& c3, const snapshot_outcome& x) {
                                    auto answer = snapshot_to_json(x.info);
                                    answer["warnings"] = x.warnings;
                                    c3.answer(201, answer);
                                  });
  });
}

void api::rewind(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    auto id = in.text("snapshot_id");
    if (!id)
      in.fail("snapshot_id", "text");
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    ask_session<session_view>(
      std::move(c2), rewind_session{*id},
      [](const call& c3, const session_view& x) { c3.answer(200, session_to_json(x)); });
  });
}

void api::diff(call c) {
  auto text = flag(c, "text");
  if (!text) {
    c.fail(text.error());
    return;
  }
  diff_session request{c.query("from"), c.query("to"), *text};
  ask_session<workspace_diff>(
    std::move(c), std::move(request),
    [](const call& c2, const workspace_diff& x) { c2.answer(200, diff_to_json(x)); });
}

namespace {

/// Copies of a session on their way: answered when all are there, or none.
struct forking {
  std::vector<std::optional<session_view>> made;
  std::vector<std::string> ids;
  std::vector<std::string> warnings;
  size_t waiting = 0;
  std::optional<error> failure;
};

} // namespace

void api::fork(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    auto count = in.integer("count", 1, max_forks).value_or(1);
    auto labels = read_labels(in);
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    auto all = std::make_shared<forking>();
    for (int64_t i = 0; i < count; ++i)
      all->ids.push_back(make_uuid());
    all->made.resize(all->ids.size());
    all->waiting = all->ids.size();
    fork_session request{all->ids};
    ask_session<fork_plan>(
      std::move(c2), std::move(request),
      [this, all, labels](const call& c3, const fork_plan& plan) {
        all->warnings = plan.warnings;
        all->warnings.insert(all->warnings.begin(), "processes do not come along");
        for (size_t i = 0; i < all->ids.size(); ++i) {
          auto spec = plan.spec;
          spec.id = all->ids[i];
          spec.state.snapshot.id = spec.id;
          spec.tenant = c3.tenant;
          spec.labels = labels;
          auto supervisor = context_->supervisor_of(spec.id);
          bridge_.ask<session_view>(
            supervisor,
            [this, c3, all, i](result<session_view> x) {
              if (x)
                all->made[i] = std::move(*x);
              else
                all->failure = std::move(x.error());
              if (--all->waiting > 0)
                return;
              if (all->failure) {
                for (const auto& id : all->ids)
                  bridge_.ask<void>(
                    context_->supervisor_of(id),
                    [this, id, tenant = c3.tenant](const result<void>&) {
                      bridge_.ask<void>(
                        context_->snapshots(), [](const result<void>&) {},
                        remove_snapshot{id, tenant});
                    },
                    remove_session{id, c3.tenant, false});
                c3.fail(*all->failure);
                return;
              }
              json items = json::array();
              for (const auto& view : all->made)
                items.push_back(session_to_json(*view));
              c3.answer(201, {{"items", std::move(items)}, {"warnings", all->warnings}});
            },
            resume_session{std::move(spec)});
        }
      });
  });
}

// -- of a tenant

void api::list_snapshots(call c) {
  auto page = page_of(c);
  if (!page) {
    c.fail(page.error());
    return;
  }
  troupe::list_snapshots query{c.tenant, "", page->first, page->second};
  bridge_.ask<snapshot_page>(
    context_->snapshots(),
    [c](result<snapshot_page> x) {
      if (!x) {
        c.fail(x.error());
        return;
      }
      json items = json::array();
      for (const auto& info : x->items)
        items.push_back(snapshot_to_json(info));
      c.answer(200,
               {{"items", std::move(items)},
                {"next_cursor", x->next_cursor.empty() ? json(nullptr) : json(x->next_cursor)}});
    },
    std::move(query));
}

void api::get_snapshot(call c) {
  troupe::list_snapshots query{c.tenant, c.param("id"), 1, ""};
  bridge_.ask<snapshot_page>(
    context_->snapshots(),
    [c](result<snapshot_page> x) {
      if (!x)
        c.fail(x.error());
      else if (x->items.empty())
        c.fail(make_error(errc::not_found, op::request, "no such snapshot")
                 .with("snapshot_id", c.param("id")));
      else
        c.answer(200, snapshot_to_json(x->items.front()));
    },
    std::move(query));
}

void api::delete_snapshot(call c) {
  remove_snapshot request{c.param("id"), c.tenant};
  bridge_.ask<void>(
    context_->snapshots(),
    [c](const result<void>& x) {
      if (x)
        c.answer_empty();
      else
        c.fail(x.error());
    },
    std::move(request));
}

void api::verify_snapshot(call c) {
  troupe::verify_snapshot request{c.param("id"), c.tenant};
  bridge_.ask<void>(
    context_->snapshots(),
    [c](const result<void>& x) {
      if (x)
        c.answer(200, {{"id", c.param("id")}, {"sound", true}});
      else
        c.fail(x.error());
    },
    std::move(request));
}

void api::diff_snapshots(call c) {
  auto text = flag(c, "text");
  if (!text) {
    c.fail(text.error());
    return;
  }
  troupe::diff_snapshots request{c.tenant, c.param("id"), c.query("to"), *text};
  bridge_.ask<workspace_diff>(
    context_->snapshots(),
    [c](const result<workspace_diff>& x) {
      if (x)
        c.answer(200, diff_to_json(*x));
      else
        c.fail(x.error());
    },
    std::move(request));
}

void api::prune_snapshots(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    constexpr int64_t largest = int64_t{1} << 62;
    troupe::prune_snapshots request;
    request.tenant = c2.tenant;
    if (auto age = in.seconds("max_age_s"))
      request.max_age_ms = std::chrono::duration_cast<std::chrono::milliseconds>(*age).count();
    request.max_count = in.integer("max_count", 0, largest);
    request.max_bytes = in.integer("max_bytes", 0, largest);
    request.dry_run = in.boolean("dry_run").value_or(false);
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    bridge_.ask<prune_report>(
      context_->snapshots(),
      [c2](const result<prune_report>& x) {
        if (x)
          c2.answer(200, {{"removed", x->removed}});
        else
          c2.fail(x.error());
      },
      std::move(request));
  });
}

} // namespace troupe::gateway
