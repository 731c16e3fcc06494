#include "actors/snapshot_store.hpp"

#include "messages/ids.hpp"
#include "workspace/manifest_json.hpp"

namespace troupe::actors {

namespace {

constexpr uint32_t transfers_at_once = 2;

/// Layers that a resume can do with, rather than wait until they are made one.
constexpr uint32_t longest_to_resume = 64;

/// With full queues; each tenant has one.
constexpr uint32_t tenants_at_once = 16;

/// Jobs that were running when a snapshot was removed have mostly ended by then.
constexpr auto collection_delay = std::chrono::seconds{1};

/// While jobs use what would have to go.
constexpr auto trim_retry = std::chrono::seconds{10};

/// Runs `work` with a token that stops when one of the two does.
template <class Work>
auto until_either(const std::stop_token& first, const std::stop_token& second, const Work& work) {
  std::stop_source both;
  auto stop = [&] { both.request_stop(); };
  std::stop_callback on_first{first, stop};
  std::stop_callback on_second{second, stop};
  return work(both.get_token());
}

/// What is held in the folder of `ref` for a workspace that lies on layers; else empty.
std::string held_below(const std::shared_ptr<const backends::layered_workspace>& layers,
                       const snapshot_ref& ref) {
  return layers && layers->held.base_path == ref.base_path ? layers->held.id : std::string{};
}

/// Of a workspace that lies on layers, only what lies above them need be looked at.
void look_above(const std::shared_ptr<const backends::layered_workspace>& layers,
                snapshot::persist_request& tree) {
  if (!layers)
    return;
  tree.upper_fd = layers->upper->get();
  tree.lower_layers = layers->below.digests;
  tree.held = held_below(layers, tree.ref);
}

} // namespace

snapshot_store_state::snapshot_store_state(self_ptr<handle_type> self, services& shared)
  : self_(self), shared_(shared),
    with_node_(shared.stopping.get_token(), [this] { stop_.request_stop(); }),
    running_(scope_, shared.config.snapshot_jobs), transfers_(scope_, transfers_at_once),
    looks_(scope_, 1) {}

snapshot_store_state::~snapshot_store_state() {
  stop_.request_stop();
}

snapshot_store_state::handle_type::behavior_type snapshot_store_state::make_behavior() {
  schedule_retention();
  return {
    [this](const snapshot_restorable& x) { return respond(self_, scope_, restorable(x)); },
    [this](restore_snapshot& x) {
      return respond(self_, scope_, explained(restore(x), x.ref, x.tenant));
    },
    [this](remove_snapshot& x) { return respond(self_, scope_, remove(std::move(x))); },
    [this](list_snapshots& x) -> caf::result<snapshot_page> {
      reply_to<snapshot_page> reply{self_};
      ask_then<snapshot_page>(
        self_, shared_.directory.registry(),
        [reply](result<snapshot_page> page) { reply.finish(std::move(page)); }, std::move(x));
      return reply;
    },
    [this](verify_snapshot& x) { return respond(self_, scope_, verify(std::move(x))); },
    [this](diff_snapshots& x) { return respond(self_, scope_, diff(std::move(x))); },
    [this](prune_snapshots& x) { return respond(self_, scope_, prune(std::move(x))); },
    [](action& work) { work(); },
    [this](hold_layers& x) { return respond(self_, scope_, explained(hold(x), x.ref, x.tenant)); },
    [this](persist_snapshot& x) { return respond(self_, scope_, persist(std::move(x))); },
    [this](compute_fingerprint& x) { return respond(self_, scope_, fingerprint(std::move(x))); },
    [this](diff_live_tree& x) {
      return respond(self_, scope_, explained(diff_live(x), x.from, x.tenant));
    },
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
  }
  place(const place&) = delete;
  place& operator=(const place&) = delete;
  ~place() {
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

/// Counts a tenant's job from when it is admitted until its end.
class snapshot_store_state::ticket {
public:
  ticket(snapshot_store_state& owner, std::string tenant)
    : owner_(&owner), tenant_(std::move(tenant)) {
    ++owner_->queued_;
    ++owner_->queued_of_[tenant_];
  }
  ticket(ticket&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)), tenant_(std::move(other.tenant_)) {}
  ticket& operator=(ticket&&) = delete;
  ~ticket() {
    if (owner_ == nullptr)
      return;
    --owner_->queued_;
    if (auto i = owner_->queued_of_.find(tenant_); --i->second == 0)
      owner_->queued_of_.erase(i);
  }

private:
  snapshot_store_state* owner_;
  std::string tenant_;
};

result<snapshot_store_state::ticket> snapshot_store_state::admit(op operation,
                                                                 const std::string& tenant) {
  const auto& config = shared_.config;
  auto limit = config.snapshot_jobs + config.queued_snapshot_jobs;
  auto mine = queued_of_.find(tenant);
  if (queued_ < tenants_at_once * limit && (mine == queued_of_.end() || mine->second < limit))
    return ticket{*this, tenant};
  return unexpected(
    make_error(errc::overloaded, operation, "too many snapshot jobs are queued already")
      .with("limit", static_cast<int64_t>(config.queued_snapshot_jobs)));
}

co<result<snapshot_outcome>> snapshot_store_state::persist(persist_snapshot x) {
  auto admitted = admit(op::snapshot_persist, x.tenant);
  if (!admitted)
    co_return unexpected(std::move(admitted.error()));
  place held{*this, x.ref.id};
  auto mine = co_await held.one_at_a_time().acquire();
  auto used = x.copies;
  used.push_back(x.base);
  auto pinned = pin_remote(x.ref, used);
  if (!x.layers) // what those are is held, and enough
    co_await fetch_base(x.ref, x.base, x.tenant);
  auto turn = co_await running_.acquire(x.tenant);
  const bool remote = is_remote(x.ref);
  auto work
    = [&repository = shared_.snapshots, x, stop = stop_.get_token()]() -> result<snapshot_outcome> {
    snapshot::persist_request request;
    request.ref = x.ref;
    request.session_id = x.session_id;
    request.tenant = x.tenant;
    request.root_fd = x.root->get();
    request.skip = x.skip;
    request.manifest_digest = workspace::manifest_digest(*x.manifest);
    request.base = x.base;
    request.name = x.name;
    request.settle = x.settle;
    look_above(x.layers, request);
    auto written = until_either(stop, x.stop, [&](std::stop_token either) {
      return repository.persist(request, std::move(either), x.report);
    });
    if (written && !x.copies.empty())
      if (auto linked = repository.link_all(x.ref, x.copies); !linked)
        written = unexpected(std::move(linked.error()));
    return written;
  };
  auto written = co_await offload<snapshot_outcome>(self_, shared_.cpu, x.tenant, work);
  turn.release();
  if (!written) {
    collect_later(x.ref.base_path); // layers that nothing refers to, on a disk that may be full
    co_return written;
  }
  auto ids = x.copies;
  ids.insert(ids.begin(), x.ref.id);
  if (x.is_new && x.stop.stop_requested()) {
    auto undo = [&repository = shared_.snapshots, ref = x.ref, ids]() mutable -> result<void> {
      for (const auto& id : ids) {
        ref.id = id;
        (void) repository.remove(ref); // what stays, a later start of the server notes
      }
      return {};
    };
    auto undone = co_await offload<void>(self_, shared_.io, x.tenant, undo);
    (void) undone;
    collect_later(x.ref.base_path);
    auto gone = make_error(errc::cancelled, op::snapshot_persist, "the session is gone");
    co_return unexpected(std::move(gone));
  }
  if (remote) {
    for (const auto& id : ids) {
      auto to = x.ref;
      to.id = id;
      auto sent = co_await publish(to, x.tenant);
      if (!sent)
        co_return unexpected(std::move(sent.error()));
    }
  }
  bool changed = written->new_bytes > 0 || x.ref.kind != snapshot_kind::local;
  if (!changed) {
    // One that was written before a crash, but not noted, is noted now.
    auto noted = co_await find(x.ref.id, x.tenant);
    changed = !noted;
  }
  if (changed) {
    put_snapshot entry{written->info};
    auto known = co_await ask<void>(self_, shared_.directory.registry(), std::move(entry));
    if (!known)
      co_return unexpected(std::move(known.error()));
  }
  for (const auto& id : x.copies) {
    put_snapshot copy{written->info};
    copy.info.id = id;
    copy.info.session_id = id;
    auto known = co_await ask<void>(self_, shared_.directory.registry(), std::move(copy));
    if (!known)
      co_return unexpected(std::move(known.error()));
  }
  if (written->new_bytes > 0 && written->info.layers > 1)
    launch<void>(scope_,
                 flatten(x.ref, x.tenant, written->info.layers, x.layers != nullptr,
                         held_below(x.layers, x.ref)),
                 [](const result<void>&) {});
  shared_.metrics.snapshots_persisted.fetch_add(1, std::memory_order_relaxed);
  co_return written;
}

co<result<void>> snapshot_store_state::restore(restore_snapshot x) {
  auto admitted = admit(op::snapshot_restore, x.tenant);
  if (!admitted)
    co_return unexpected(std::move(admitted.error()));
  give_way(x.ref.id);
  place held{*this, x.ref.id};
  auto mine = co_await held.one_at_a_time().acquire();
  auto pinned = pin_remote(x.ref);
  auto fetched = co_await fetch(x.ref, x.tenant);
  if (!fetched)
    co_return fetched;
  auto turn = co_await running_.acquire(x.tenant);
  auto work = [&repository = shared_.snapshots, x, stop = stop_.get_token()] {
    return repository.restore({x.ref, x.root}, stop, {});
  };
  auto done = co_await offload<void>(self_, shared_.cpu, x.tenant, work);
  if (done)
    shared_.metrics.snapshots_restored.fetch_add(1, std::memory_order_relaxed);
  co_return done;
}

co<result<layers_held>> snapshot_store_state::hold(hold_layers x) {
  auto admitted = admit(op::snapshot_restore, x.tenant);
  if (!admitted)
    co_return unexpected(std::move(admitted.error()));
  give_way(x.ref.id);
  place here{*this, x.ref.id};
  auto mine = co_await here.one_at_a_time().acquire();
  auto pinned = pin_remote(x.ref);
  auto fetched = co_await fetch(x.ref, x.tenant);
  if (!fetched)
    co_return unexpected(std::move(fetched.error()));
  x.ref.kind = snapshot_kind::local; // a folder, also of a remote one
  auto turn = co_await running_.acquire(x.tenant);
  auto work = [&repository = shared_.snapshots, x, source = shared_.layers,
               stop = stop_.get_token()]() -> result<layers_held> {
    auto id = repository.hold(x.ref, x.session_id);
    if (!id)
      return unexpected(std::move(id.error()));
    layers_held out;
    if (!*id)
      return out;
    auto hidden = x.ref;
    hidden.id = **id;
    backends::held_layers held{hidden.base_path, hidden.id};
    out.claim = std::make_shared<layer_claim>(source, held);
    auto unpacked = until_either(stop, x.stop, [&](std::stop_token either) {
      return source->unpack(held, std::move(either));
    });
    if (!unpacked)
      return unexpected(std::move(unpacked.error()));
    out.lease = std::move(unpacked->lease);
    return out;
  };
  auto done = co_await offload<layers_held>(self_, shared_.cpu, x.tenant, work);
  if (done && done->claim)
    shared_.metrics.snapshots_restored.fetch_add(1, std::memory_order_relaxed);
  co_return done;
}

co<result<void>> snapshot_store_state::remove(remove_snapshot x, bool collect) {
  auto found = co_await find(x.id, x.tenant);
  bool known = found.has_value();
  if (!known && !(found.error().code == errc::not_found && is_uuid(x.id)))
    co_return unexpected(std::move(found.error()));
  place held{*this, x.id};
  auto mine = co_await held.one_at_a_time().acquire();
  if (!known) {
    // One that was written, but not noted, is in the tenant's own folder.
    snapshot_ref unnoted;
    unnoted.kind = snapshot_kind::local;
    unnoted.id = x.id;
    unnoted.base_path = snapshot_dir(shared_.config, x.tenant);
    auto look
      = [&repository = shared_.snapshots, unnoted] { return repository.restorable(unnoted); };
    auto there = co_await offload<bool>(self_, shared_.io, x.tenant, look);
    if (!there || !*there)
      co_return unexpected(there ? std::move(found.error()) : std::move(there.error()));
    found = unnoted;
  }
  auto look = co_await looks_.acquire();
  auto work = [&repository = shared_.snapshots, ref = *found, collect] {
    return repository.remove(ref, collect);
  };
  auto removed = co_await offload<void>(self_, shared_.io, x.tenant, work);
  if (!removed)
    co_return removed;
  collect_later(found->base_path);
  drop_snapshot_record entry{x.id};
  co_return co_await ask<void>(self_, shared_.directory.registry(), std::move(entry));
}

void snapshot_store_state::collect_later(const std::string& base_path) {
  if (!uncollected_.insert(base_path).second)
    return;
  auto turn = [this, base_path] {
    uncollected_.erase(base_path);
    auto work = [&repository = shared_.snapshots, base_path]() -> result<void> {
      repository.sweep(base_path);
      return {};
    };
    offload_then<void>(self_, shared_.io, "snapshots", work, [](const result<void>&) {});
  };
  tell_later(self_, collection_delay, action{turn});
}

co<result<bool>> snapshot_store_state::restorable(snapshot_restorable x) {
  auto look = co_await looks_.acquire();
  auto work = [&repository = shared_.snapshots, x] { return repository.restorable(x.ref); };
  co_return co_await offload<bool>(self_, shared_.io, "snapshots", work);
}

co<result<std::string>> snapshot_store_state::fingerprint(compute_fingerprint x) {
  auto admitted = admit(op::snapshot_restore, x.tenant);
  if (!admitted)
    co_return unexpected(std::move(admitted.error()));
  auto pinned = pin_remote(x.ref, {x.base});
  if (!x.layers)
    co_await fetch_base(x.ref, x.base, x.tenant);
  auto turn = co_await running_.acquire(x.tenant);
  auto work = [&repository = shared_.snapshots, x, stop = stop_.get_token()] {
    snapshot::persist_request tree;
    tree.ref = x.ref;
    tree.base = x.base;
    tree.root_fd = x.root->get();
    tree.skip = x.skip;
    tree.manifest_digest = workspace::manifest_digest(*x.manifest);
    look_above(x.layers, tree);
    return until_either(stop, x.stop, [&](std::stop_token either) {
      return repository.fingerprint(tree, std::move(either));
    });
  };
  co_return co_await offload<std::string>(self_, shared_.cpu, x.tenant, work);
}

co<result<snapshot_ref>> snapshot_store_state::find(std::string id, std::string tenant) {
  list_snapshots query{tenant, id, 1, ""};
  auto found = co_await ask<snapshot_page>(self_, shared_.directory.registry(), std::move(query));
  if (!found)
    co_return unexpected(std::move(found.error()));
  if (found->items.empty())
    co_return unexpected(make_error(errc::not_found, op::snapshot_persist, "no such snapshot")
                           .with("snapshot_id", id));
  snapshot_ref ref;
  ref.kind = snapshot_kind::local;
  ref.id = id;
  ref.base_path = found->items.front().base_path;
  co_return ref;
}

co<error> snapshot_store_state::explain(error failed, snapshot_ref ref, std::string tenant) {
  // Who removes it has this place until nobody knows it any more.
  place here{*this, ref.id};
  auto mine = co_await here.one_at_a_time().acquire();
  auto known = co_await find(ref.id, tenant);
  if (known || known.error().code != errc::not_found)
    co_return failed;
  auto look = co_await looks_.acquire();
  auto work = [&repository = shared_.snapshots, ref] { return repository.restorable(ref); };
  auto there = co_await offload<bool>(self_, shared_.io, tenant, work);
  if (!there || *there)
    co_return failed;
  known.error().operation = failed.operation;
  co_return known.error();
}

co<result<void>> snapshot_store_state::verify(verify_snapshot x) {
  auto admitted = admit(op::snapshot_restore, x.tenant);
  if (!admitted)
    co_return unexpected(std::move(admitted.error()));
  auto ref = co_await find(x.id, x.tenant);
  if (!ref)
    co_return unexpected(std::move(ref.error()));
  place held{*this, x.id};
  auto mine = co_await held.one_at_a_time().acquire();
  auto pinned = pin_remote(*ref);
  auto fetched = co_await fetch(*ref, x.tenant);
  if (!fetched)
    co_return fetched;
  auto turn = co_await running_.acquire(x.tenant);
  auto work = [&repository = shared_.snapshots, ref = *ref, stop = stop_.get_token()] {
    return repository.verify(ref, stop);
  };
  co_return co_await offload<void>(self_, shared_.cpu, x.tenant, work);
}

co<result<workspace_diff>> snapshot_store_state::diff(diff_snapshots x) {
  auto admitted = admit(op::read, x.tenant);
  if (!admitted)
    co_return unexpected(std::move(admitted.error()));
  auto from = co_await find(x.from, x.tenant);
  if (!from)
    co_return unexpected(std::move(from.error()));
  auto to = co_await find(x.to, x.tenant);
  if (!to)
    co_return unexpected(std::move(to.error()));
  auto pinned = pin_remote(*from);
  auto pinned_too = pin_remote(*to);
  const std::vector<snapshot_ref> both{*from, *to};
  for (const auto& ref : both) {
    auto fetched = co_await fetch_missing(ref, x.tenant);
    if (!fetched)
      co_return unexpected(std::move(fetched.error()));
  }
  auto turn = co_await running_.acquire(x.tenant);
  auto work
    = [&repository = shared_.snapshots, from = *from, to = *to, x, stop = stop_.get_token()] {
        return repository.diff(from, to, nullptr, x.text, stop);
      };
  auto done = co_await offload<workspace_diff>(self_, shared_.cpu, x.tenant, work);
  turn.release();
  for (const auto& ref : {*from, *to})
    if (!done && done.error().code == errc::snapshot_restore_error)
      done = unexpected(co_await explain(done.error(), ref, x.tenant));
  co_return done;
}

co<result<workspace_diff>> snapshot_store_state::diff_live(diff_live_tree x) {
  auto admitted = admit(op::read, x.tenant);
  if (!admitted)
    co_return unexpected(std::move(admitted.error()));
  auto pinned = pin_remote(x.from);
  auto fetched = co_await fetch_missing(x.from, x.tenant);
  if (!fetched)
    co_return unexpected(std::move(fetched.error()));
  auto turn = co_await running_.acquire(x.tenant);
  auto work = [&repository = shared_.snapshots, x, stop = stop_.get_token()] {
    snapshot::persist_request tree;
    tree.ref = x.from;
    tree.root_fd = x.root->get();
    tree.skip = x.skip;
    look_above(x.layers, tree);
    return until_either(stop, x.stop, [&](std::stop_token either) {
      return repository.diff(x.from, x.from, &tree, x.text, std::move(either));
    });
  };
  co_return co_await offload<workspace_diff>(self_, shared_.cpu, x.tenant, work);
}

void snapshot_store_state::give_way(const std::string& id) {
  if (auto i = flattening_.find(id); i != flattening_.end())
    i->second.request_stop();
}

co<result<void>> snapshot_store_state::flatten(snapshot_ref ref, std::string tenant,
                                               uint32_t layers, bool unpacked, std::string held) {
  auto gives_way = layers < longest_to_resume;
  std::stop_source giving;
  if (gives_way)
    flattening_[ref.id] = giving;
  place here{*this, ref.id};
  auto mine = co_await here.one_at_a_time().acquire();
  auto pinned = pin_remote(ref);
  auto turn = co_await running_.acquire(tenant);
  auto work = [&repository = shared_.snapshots, ref, held, stop = stop_.get_token(),
               gives = giving.get_token()] {
    return until_either(stop, gives, [&](std::stop_token either) {
      return repository.flatten(ref, std::move(either), held);
    });
  };
  auto done = co_await offload<bool>(self_, shared_.cpu, tenant, work);
  if (gives_way)
    flattening_.erase(ref.id);
  turn.release();
  if (!done || *done)
    collect_later(ref.base_path); // the layer that was not finished, or those before it
  if (!done)
    co_return unexpected(std::move(done.error()));
  if (!*done)
    co_return result<void>{};
  // What is not sent now is sent with the next save; what it is here is known at once.
  auto sent = co_await publish(ref, tenant);
  auto noted = co_await note_layers(ref, tenant);
  if (sent)
    sent = std::move(noted);
  if (!sent || !unpacked)
    co_return sent;
  // The next resume finds it unpacked; one that comes now need not wait for this.
  mine.release();
  auto again = co_await running_.acquire(tenant);
  ref.kind = snapshot_kind::local; // a folder, also of a remote one
  auto warm = [&repository = shared_.snapshots, ref, all = stop_.get_token()]() -> result<void> {
    return repository.lease(ref, all).map([](const auto&) {});
  };
  co_return co_await offload<void>(self_, shared_.cpu, tenant, warm);
}

co<result<void>> snapshot_store_state::note_layers(snapshot_ref ref, std::string tenant) {
  list_snapshots query{tenant, ref.id, 1, ""};
  auto known = co_await ask<snapshot_page>(self_, shared_.directory.registry(), std::move(query));
  if (!known || known->items.empty())
    co_return known ? result<void>{} : unexpected(std::move(known.error()));
  auto look = [&repository = shared_.snapshots, ref] { return repository.inspect(ref); };
  auto now = co_await offload<snapshot_info>(self_, shared_.io, tenant, look);
  if (!now)
    co_return unexpected(std::move(now.error()));
  put_snapshot change{std::move(known->items.front())};
  change.info.layers = now->layers;
  change.info.stored_bytes = now->stored_bytes;
  co_return co_await ask<void>(self_, shared_.directory.registry(), std::move(change));
}

bool snapshot_store_state::is_remote(const snapshot_ref& ref) const {
  return ref.kind != snapshot_kind::noop
         && ref.base_path.starts_with(remote_dir(shared_.config) + '/');
}

co<result<void>> snapshot_store_state::transfer(snapshot_ref ref, std::string tenant,
                                                transfer_step step) {
  if (!is_remote(ref))
    co_return result<void>{};
  auto turn = co_await transfers_.acquire(tenant);
  auto work = [&repository = shared_.snapshots, ref, step, stop = stop_.get_token()] {
    return (repository.*step)(ref, stop);
  };
  auto done = co_await offload<void>(self_, shared_.io, tenant, work);
  trim_later();
  co_return done;
}

std::vector<snapshot_pins::pin>
snapshot_store_state::pin_remote(const snapshot_ref& ref, const std::vector<std::string>& ids) {
  std::vector<snapshot_pins::pin> pins;
  if (!is_remote(ref))
    return pins;
  pins.push_back(shared_.pins.hold(ref.id));
  for (const auto& id : ids)
    pins.push_back(shared_.pins.hold(id));
  return pins;
}

void snapshot_store_state::trim_later() {
  if (std::exchange(trim_due_, true))
    return;
  auto turn = [this] {
    auto work = [&repository = shared_.snapshots, &pins = shared_.pins]() -> result<bool> {
      return repository.trim_mirrors([&](const auto& id) { return pins.keeps(id); });
    };
    offload_then<bool>(self_, shared_.io, "snapshots", work, [this](const result<bool>& done) {
      trim_due_ = false;
      if ((done && *done) || std::exchange(trim_again_, true))
        return;
      auto again = [this] {
        trim_again_ = false;
        trim_later();
      };
      tell_later(self_, trim_retry, action{again});
    });
  };
  tell_later(self_, collection_delay, action{turn});
}

co<result<void>> snapshot_store_state::fetch(snapshot_ref ref, std::string tenant) {
  return transfer(std::move(ref), std::move(tenant), &snapshot::repository::fetch);
}

co<result<void>> snapshot_store_state::fetch_missing(snapshot_ref ref, std::string tenant) {
  if (!is_remote(ref))
    co_return result<void>{};
  auto look
    = [&repository = shared_.snapshots, ref]() -> result<bool> { return repository.is_here(ref); };
  auto here = co_await offload<bool>(self_, shared_.io, tenant, look);
  if (here && *here)
    co_return result<void>{};
  co_return co_await fetch(ref, tenant);
}

co<bool> snapshot_store_state::fetch_base(snapshot_ref ref, std::string base, std::string tenant) {
  std::vector<std::string> ids;
  if (!base.empty())
    ids = {base, ref.id};
  for (const auto& id : ids) {
    auto from = ref;
    from.id = id;
    auto fetched = co_await fetch_missing(from, tenant);
    if (fetched)
      co_return true;
  }
  co_return false;
}

co<result<void>> snapshot_store_state::publish(snapshot_ref ref, std::string tenant) {
  return transfer(std::move(ref), std::move(tenant), &snapshot::repository::publish);
}

} // namespace troupe::actors
