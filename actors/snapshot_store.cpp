#include "actors/snapshot_store.hpp"

#include "messages/ids.hpp"
#include "workspace/manifest_json.hpp"

namespace troupe::actors {

snapshot_store_state::snapshot_store_state(self_ptr<handle_type> self, services& shared)
  : self_(self), shared_(shared), running_(scope_, shared.config.snapshot_jobs) {}

snapshot_store_state::~snapshot_store_state() {
  stop_.request_stop();
}

snapshot_store_state::handle_type::behavior_type snapshot_store_state::make_behavior() {
  return {
    [this](const snapshot_restorable& x) { return respond(self_, scope_, restorable(x)); },
    [this](restore_snapshot& x) { return respond(self_, scope_, restore(std::move(x))); },
    [this](remove_snapshot& x) { return respond(self_, scope_, remove(std::move(x))); },
    [this](list_snapshots& x) -> caf::result<snapshot_page> {
      reply_to<snapshot_page> reply{self_};
      ask_then<snapshot_page>(
        self_, shared_.directory.registry(),
        [reply](result<snapshot_page> page) { reply.finish(std::move(page)); }, std::move(x));
      return reply;
    },
    [](action& work) { work(); },
    [this](persist_snapshot& x) { return respond(self_, scope_, persist(std::move(x))); },
    [this](compute_fingerprint& x) { return respond(self_, scope_, fingerprint(std::move(x))); },
  };
}

/// The semaphore of a snapshot lives as long as someone holds or awaits it.
class snapshot_store_state::place {
public:
  place(snapshot_store_state& owner, std::string id) : owner_(&owner), id_(std::move(id)) {
    auto& entry = owner.by_id_[id_];
    if (!entry)
      entry = std::make_shared<async_semaphore>(owner.scope_, 1);
    semaphore_ = entry;
    ++owner.queued_;
  }
  place(const place&) = delete;
  place& operator=(const place&) = delete;
  ~place() {
    --owner_->queued_;
    auto i = owner_->by_id_.find(id_);
    if (i != owner_->by_id_.end() && i->second.use_count() == 2) // the map's and ours
      owner_->by_id_.erase(i);
  }

  async_semaphore& one_at_a_time() {
    return *semaphore_;
  }

private:
  snapshot_store_state* owner_;
  std::string id_;
  std::shared_ptr<async_semaphore> semaphore_;
};

std::optional<error> snapshot_store_state::admit(op operation) {
  const auto& config = shared_.config;
  if (queued_ < config.snapshot_jobs + config.queued_snapshot_jobs)
    return std::nullopt;
  return make_error(errc::overloaded, operation, "too many snapshot jobs are queued already")
    .with("limit", static_cast<int64_t>(config.queued_snapshot_jobs));
}

co<result<snapshot_outcome>> snapshot_store_state::persist(persist_snapshot x) {
  if (auto refused = admit(op::snapshot_persist))
    co_return unexpected(std::move(*refused));
  place held{*this, x.ref.id};
  auto mine = co_await held.one_at_a_time().acquire();
  auto turn = co_await running_.acquire();
  auto work
    = [&repository = shared_.snapshots, x, stop = stop_.get_token()]() -> result<snapshot_outcome> {
    snapshot::persist_request request;
    request.ref = x.ref;
    request.session_id = x.session_id;
    request.tenant = x.tenant;
    request.root_fd = x.root->get();
    request.skip = x.skip;
    request.manifest_digest = workspace::manifest_digest(*x.manifest);
    return repository.persist(request, stop, x.report);
  };
  auto written = co_await offload<snapshot_outcome>(self_, shared_.cpu, x.tenant, work);
  if (!written)
    co_return written;
  put_snapshot entry{written->info};
  auto known = co_await ask<void>(self_, shared_.directory.registry(), std::move(entry));
  if (!known)
    co_return unexpected(std::move(known.error()));
  shared_.metrics.snapshots_persisted.fetch_add(1, std::memory_order_relaxed);
  co_return written;
}

co<result<void>> snapshot_store_state::restore(restore_snapshot x) {
  if (auto refused = admit(op::snapshot_restore))
    co_return unexpected(std::move(*refused));
  place held{*this, x.ref.id};
  auto mine = co_await held.one_at_a_time().acquire();
  auto turn = co_await running_.acquire();
  auto work = [&repository = shared_.snapshots, x, stop = stop_.get_token()] {
    return repository.restore({x.ref, x.root}, stop, {});
  };
  auto done = co_await offload<void>(self_, shared_.cpu, x.tenant, work);
  if (done)
    shared_.metrics.snapshots_restored.fetch_add(1, std::memory_order_relaxed);
  co_return done;
}

co<result<void>> snapshot_store_state::remove(remove_snapshot x) {
  list_snapshots query{x.tenant, x.id, 1, ""};
  auto found = co_await ask<snapshot_page>(self_, shared_.directory.registry(), std::move(query));
  if (!found)
    co_return unexpected(std::move(found.error()));
  bool known = !found->items.empty();
  place held{*this, x.id};
  auto mine = co_await held.one_at_a_time().acquire();
  snapshot_ref ref;
  ref.kind = snapshot_kind::local;
  ref.id = x.id;
  // One that was written, but not noted, is in the tenant's own folder.
  ref.base_path = known ? found->items.front().base_path : snapshot_dir(shared_.config, x.tenant);
  auto work = [&repository = shared_.snapshots, ref, known]() -> result<void> {
    bool ours = known || (is_uuid(ref.id) && repository.restorable(ref).value_or(false));
    if (!ours)
      return unexpected(make_error(errc::not_found, op::snapshot_persist, "no such snapshot")
                          .with("snapshot_id", ref.id));
    return repository.remove(ref);
  };
  auto removed = co_await offload<void>(self_, shared_.io, x.tenant, work);
  if (!removed)
    co_return removed;
  drop_snapshot_record entry{x.id};
  co_return co_await ask<void>(self_, shared_.directory.registry(), std::move(entry));
}

co<result<bool>> snapshot_store_state::restorable(snapshot_restorable x) {
  auto work = [&repository = shared_.snapshots, x] { return repository.restorable(x.ref); };
  co_return co_await offload<bool>(self_, shared_.io, "snapshots", work);
}

co<result<std::string>> snapshot_store_state::fingerprint(compute_fingerprint x) {
  if (auto refused = admit(op::snapshot_restore))
    co_return unexpected(std::move(*refused));
  auto turn = co_await running_.acquire();
  auto work = [x, stop = stop_.get_token()] {
    return snapshot::fingerprint(x.root->get(), x.skip, workspace::manifest_digest(*x.manifest),
                                 stop);
  };
  co_return co_await offload<std::string>(self_, shared_.cpu, x.tenant, work);
}

} // namespace troupe::actors
