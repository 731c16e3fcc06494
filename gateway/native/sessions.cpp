#include "gateway/native/api.hpp"
#include "gateway/native/object_reader.hpp"
#include "gateway/native/session_json.hpp"
#include "messages/ids.hpp"
#include "workspace/manifest_json.hpp"

#include <charconv>

namespace troupe::gateway {

namespace {

/// A manifest with inline files may be large; everything else of a create request is small.
constexpr uint64_t create_body_limit = 64 * 1024 * 1024;

/// The id that an idempotency key always gives, so that a repeat meets the session it made.
std::string id_of_key(const std::string& tenant, std::string_view key) {
  auto digest = workspace::sha256_hex(tenant + '\0' + std::string{key}).substr(0, 32);
  digest[12] = '8'; // a UUID of our own making (RFC 9562, version 8)
  digest[16] = 'a';
  for (size_t at : {8, 13, 18, 23})
    digest.insert(at, 1, '-');
  return digest;
}

bool within(const std::string& path, const std::vector<std::string>& roots) {
  return std::any_of(roots.begin(), roots.end(), [&](const std::string& root) {
    return path == root || path.substr(0, root.size() + 1) == root + "/";
  });
}

void answer_session(const call& c, const session_view& x) {
  c.answer(200, session_to_json(x));
}

} // namespace

void api::create(call c) {
  with_body(
    std::move(c),
    [this](call c2, const json& body) {
      auto spec = parse_create_request(body, context_->default_backend);
      if (!spec) {
        c2.fail(spec.error());
        return;
      }
      auto key = c2.head().headers.get("Idempotency-Key");
      spec->id = key ? id_of_key(c2.tenant, *key) : make_uuid();
      submit_create(std::move(c2), std::move(*spec), key.has_value());
    },
    create_body_limit);
}

void api::submit_create(call c, session_spec spec, bool idempotent) {
  spec.tenant = c.tenant;
  if (!context_->backends.contains(spec.state.type)) {
    auto name = std::string{to_string(spec.state.type)};
    c.fail(make_error(errc::backend_unavailable, op::create,
                      "the server does not allow the backend " + name)
             .with("backend", name));
    return;
  }
  const auto& snapshot = spec.state.snapshot;
  if (!context_->keys.empty() && snapshot.kind == snapshot_kind::local
      && !snapshot.base_path.empty() && !within(snapshot.base_path, context_->snapshot_roots)) {
    c.fail(make_error(errc::sandbox_config_invalid, op::create,
                      "`snapshot.base_path` is outside the folders that the server allows")
             .with("base_path", snapshot.base_path));
    return;
  }
  auto id = spec.id;
  auto supervisor = context_->supervisor_of(id);
  auto done = [this, c, id, idempotent, supervisor](result<session_view> x) {
    if (x) {
      c.answer(201, session_to_json(*x));
    } else if (idempotent && x.error().code == errc::conflict) {
      peek_session query{id, c.tenant};
      bridge_.ask<session_view>(
        supervisor,
        [c](result<session_view> first) {
          if (first)
            c.answer(200, session_to_json(*first));
          else
            c.fail(first.error());
        },
        std::move(query));
    } else {
      c.fail(x.error());
    }
  };
  if (spec.resumed)
    bridge_.ask<session_view>(supervisor, done, resume_session{std::move(spec)});
  else
    bridge_.ask<session_view>(supervisor, done, create_session{std::move(spec)});
}

void api::resume(call c) {
  with_body(
    std::move(c),
    [this](call c2, const json& body) {
      auto spec = parse_resume_request(body);
      if (!spec)
        c2.fail(spec.error());
      else if (!is_uuid(spec->id))
        c2.fail(make_error(errc::invalid_state, op::resume, "the state's session id is no UUID"));
      else
        submit_create(std::move(c2), std::move(*spec), false);
    },
    create_body_limit);
}

void api::list(call c) {
  auto page = page_of(c);
  if (!page) {
    c.fail(page.error());
    return;
  }
  list_sessions query;
  query.tenant = c.tenant;
  query.limit = page->first;
  query.cursor = page->second;
  if (auto text = c.query("status"); !text.empty()) {
    query.status = status_from_string(text);
    if (!query.status) {
      c.fail(make_error(errc::invalid_request, op::list, "unknown status")
               .with("field", "status")
               .with("value", text));
      return;
    }
  }
  for (auto label : c.head().query.all("label")) {
    auto colon = label.find(':');
    if (colon == std::string_view::npos) {
      c.fail(make_error(errc::invalid_request, op::list, "`label` must be name:value")
               .with("field", "label"));
      return;
    }
    query.labels.emplace(label.substr(0, colon), label.substr(colon + 1));
  }
  auto here = context_->node_id;
  if (auto node = c.query("node"); !node.empty() && node != here) {
    c.answer(200, {{"items", json::array()}, {"next_cursor", nullptr}});
    return;
  }
  bridge_.ask<session_page>(
    context_->registry(),
    [c, here](result<session_page> x) {
      if (!x) {
        c.fail(x.error());
        return;
      }
      json items = json::array();
      for (auto& record : x->items) {
        session_view view;
        view.record = std::move(record);
        view.node = here;
        items.push_back(session_to_json(view, false));
      }
      c.answer(200,
               {{"items", std::move(items)},
                {"next_cursor", x->next_cursor.empty() ? json(nullptr) : json(x->next_cursor)}});
    },
    std::move(query));
}

void api::get(call c) {
  // Also of a session that cannot be talked to.
  const auto& id = c.param("id");
  peek_session query{id, c.tenant};
  bridge_.ask<session_view>(
    context_->supervisor_of(id),
    [c](result<session_view> x) {
      if (x)
        answer_session(c, *x);
      else
        c.fail(x.error());
    },
    std::move(query));
}

void api::start(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    start_session request;
    if (auto text = in.text("on_conflict")) {
      request.on_conflict = conflict_from_string(*text);
      if (!request.on_conflict)
        in.fail("on_conflict", "\"snapshot_wins\", \"live_wins\" or \"fail\"");
    }
    if (auto ok = in.finish(); !ok)
      c2.fail(ok.error());
    else
      ask_session<session_view>(std::move(c2), request, answer_session);
  });
}

void api::without_members(call c, std::function<void(call)> next) {
  with_body(std::move(c), [next = std::move(next)](call c2, const json& body) {
    if (auto ok = object_reader{body}.finish(); !ok)
      c2.fail(ok.error());
    else
      next(std::move(c2));
  });
}

void api::stop(call c) {
  without_members(std::move(c), [this](call c2) {
    ask_session<session_view>(std::move(c2), stop_session{}, answer_session);
  });
}

void api::shutdown(call c) {
  without_members(std::move(c), [this](call c2) {
    ask_session<session_view>(std::move(c2), shutdown_session{}, answer_session);
  });
}

void api::close(call c) {
  without_members(std::move(c), [this](call c2) {
    ask_session<session_view>(std::move(c2), close_session{}, answer_session);
  });
}

void api::remove(call c) {
  const auto& id = c.param("id");
  auto keep = c.query("keep_snapshot");
  if (!keep.empty() && keep != "true" && keep != "false") {
    c.fail(make_error(errc::invalid_request, op::remove, "`keep_snapshot` must be true or false")
             .with("field", "keep_snapshot"));
    return;
  }
  remove_session request{id, c.tenant, keep == "true"};
  bridge_.ask<void>(
    context_->supervisor_of(id),
    [c](const result<void>& x) {
      if (x)
        c.answer_empty();
      else
        c.fail(x.error());
    },
    std::move(request));
}

void api::running(call c) {
  ask_session<bool>(std::move(c), session_running{}, [](const call& c2, bool alive) {
    c2.answer(200, {{"running", alive}});
  });
}

void api::describe(call c) {
  describe_session request;
  if (auto text = c.query("depth"); !text.empty()) {
    auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), request.depth);
    if (fault != std::errc{} || end != text.data() + text.size()) {
      c.fail(make_error(errc::invalid_request, op::request, "`depth` must be an integer")
               .with("field", "depth"));
      return;
    }
  }
  ask_session<std::string>(std::move(c), request, [](const call& c2, const std::string& text) {
    response x;
    x.headers.add("Content-Type", "text/plain; charset=utf-8");
    x.body = text;
    c2.http->respond(std::move(x));
  });
}

void api::add_hook(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    add_pre_stop_hook request;
    if (auto command = in.texts("command"); command && !command->empty())
      request.command = std::move(*command);
    else
      in.fail("command", "a list of texts with at least one");
    request.timeout = in.seconds("timeout_s");
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    ask_session<std::string>(std::move(c2), std::move(request),
                             [](const call& c3, const std::string& id) {
                               c3.answer(201, {{"hook_id", id}});
                             });
  });
}

void api::add_skip(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    auto path = in.text("path");
    if (!path)
      in.fail("path", "text");
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    ask_session<std::string>(std::move(c2), add_persist_skip{*path},
                             [](const call& c3, const std::string& normal) {
                               c3.answer(200, {{"path", normal}});
                             });
  });
}

void api::apply(call c) {
  with_body(
    std::move(c),
    [this](call c2, const json& body) {
      object_reader in{body};
      apply_manifest request;
      if (auto* value = in.any("manifest")) {
        auto parsed = workspace::parse_manifest(*value);
        if (!parsed) {
          c2.fail(parsed.error());
          return;
        }
        request.manifest = std::move(*parsed);
      }
      request.only_ephemeral = in.boolean("only_ephemeral").value_or(false);
      if (auto ok = in.finish(); !ok) {
        c2.fail(ok.error());
        return;
      }
      ask_session<materialized_files>(std::move(c2), std::move(request),
                                      [](const call& c3, const materialized_files& made) {
                                        json files = json::array();
                                        for (const auto& x : made.items)
                                          files.push_back({{"path", x.path}, {"sha256", x.sha256}});
                                        c3.answer(200, {{"files", std::move(files)}});
                                      });
    },
    create_body_limit);
}

} // namespace troupe::gateway
