#include "actors/supervisor.hpp"

#include "backends/egress/rules.hpp"
#include "messages/ids.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/mount_security.hpp"
#include "workspace/session_limits_json.hpp"
#include "workspace/tree.hpp"

#include <algorithm>
#include <random>

namespace troupe::actors {

namespace {

/// Sessions that a drain closes at once, per shard: those that are saved wait for the store, whose
/// queue is bounded; the others for the kernel, which ends many namespaces faster together.
constexpr size_t drain_with_snapshot = 8;
constexpr size_t drain_without_snapshot = 64;

error no_such_session(const std::string& id) {
  return make_error(errc::not_found, op::request, "no such session").with("session_id", id);
}

/// Between half and all of `base`, so that many restarts do not come at once.
std::chrono::milliseconds with_jitter(std::chrono::milliseconds base) {
  thread_local std::minstd_rand generator{std::random_device{}()};
  std::uniform_int_distribution<int64_t> part{base.count() / 2, base.count()};
  return std::chrono::milliseconds{part(generator)};
}

/// What the operator lets an isolated session have: less than it may be asked for, more not.
result<void> apply_caps(const session_limits& caps, session_state& state) {
  if (state.type != backend_kind::isolated)
    return {};
  for (const auto& field : workspace::limit_fields) {
    const auto& cap = caps.*field.value;
    auto& asked = state.limits.*field.value;
    if (!cap)
      continue;
    if (asked && *asked > *cap)
      return unexpected(
        make_error(errc::sandbox_config_invalid, op::create,
                   "the operator allows less of `limits." + std::string{field.name} + "`")
          .with("field", "limits." + std::string{field.name})
          .with("asked", *asked)
          .with("allowed", *cap));
    asked = asked.value_or(*cap);
  }
  return {};
}

} // namespace

supervisor_state::supervisor_state(self_ptr<handle_type> self, services& shared, uint32_t shard)
  : self_(self), shared_(shared), shard_(shard), watch_(self),
    starts_(scope_, std::max<size_t>(1, shared.config.concurrent_starts / shared.config.shards)) {}

supervisor_state::handle_type::behavior_type supervisor_state::make_behavior() {
  return {
    [this](create_session& x) { return respond(self_, scope_, create(std::move(x.spec))); },
    [this](resume_session& x) { return respond(self_, scope_, resume(std::move(x.spec))); },
    [this](const lookup_session& x) { return lookup(x); },
    [this](peek_session& x) { return respond(self_, scope_, peek(std::move(x))); },
    [this](remove_session& x) { return respond(self_, scope_, remove(std::move(x))); },
    [this](const drain_sessions& x) { return respond(self_, scope_, drain(x)); },
    [this](const count_sessions&) -> caf::result<session_counts> {
      session_counts counts;
      counts.total = static_cast<uint32_t>(children_.size());
      return counts;
    },
    [](action& work) { work(); },
    [this](const lookup_local& x) -> caf::result<local_session_actor> {
      auto i = children_.find(x.id);
      if (i == children_.end() || !i->second->session)
        return to_caf(no_such_session(x.id));
      return i->second->session;
    },
    [this](const load_shard&) { return respond(self_, scope_, load()); },
  };
}

// -- requests
// -------------------------------------------------------------------------------------------

supervisor_state::child* supervisor_state::find(const std::string& id, const std::string& tenant) {
  auto i = children_.find(id);
  return i != children_.end() && i->second->tenant == tenant ? i->second.get() : nullptr;
}

caf::result<session_actor> supervisor_state::lookup(const lookup_session& x) {
  auto* found = find(x.id, x.tenant);
  if (!found || found->phase == child_phase::removing)
    return to_caf(no_such_session(x.id));
  switch (found->phase) {
    case child_phase::running: return session_actor{found->session};
    case child_phase::failed:
      return to_caf(make_error(errc::session_failed, op::request,
                               "the session failed too often; its workspace is kept")
                      .with("session_id", x.id)
                      .with("cause", found->last_error ? found->last_error->message : ""));
    default:
      return to_caf(make_error(errc::session_restarting, op::request,
                               "the session is being restarted; try again shortly")
                      .with("session_id", x.id));
  }
}

co<result<session_view>> supervisor_state::create(session_spec spec) {
  if (auto valid = complete(spec); !valid)
    co_return unexpected(std::move(valid.error()));
  if (children_.contains(spec.id))
    co_return unexpected(make_error(errc::conflict, op::create, "a session with this id exists")
                           .with("session_id", spec.id));
  co_return co_await launch_child(std::move(spec));
}

co<result<session_view>> supervisor_state::resume(session_spec spec) {
  if (draining_)
    co_return unexpected(make_error(errc::overloaded, op::resume, "the server is shutting down"));
  spec.resumed = true;
  uint64_t event_seq = 0;
  if (auto valid = complete(spec); !valid)
    co_return unexpected(std::move(valid.error()));
  if (auto i = children_.find(spec.id); i != children_.end()) {
    auto& existing = *i->second;
    if (existing.tenant != spec.tenant)
      co_return unexpected(
        make_error(errc::conflict, op::resume, "this id is in use").with("session_id", spec.id));
    if (existing.phase == child_phase::restarting || existing.phase == child_phase::removing)
      co_return unexpected(
        make_error(errc::session_restarting, op::resume, "the session is busy; try again shortly")
          .with("session_id", spec.id));
    if (existing.session) {
      auto alive = co_await ask<bool>(self_, existing.session, session_running{});
      if (alive && *alive)
        co_return co_await ask<session_view>(self_, existing.session, get_session{});
    }
    // It is down: the state that the client brought takes its place, in the same folders.
    auto again = children_.find(spec.id);
    if (again == children_.end())
      co_return unexpected(no_such_session(spec.id));
    auto backend = again->second->backend;
    forget_actors(*again->second);
    again->second->phase = child_phase::restarting;
    if (backend) {
      auto closed = co_await ask<void>(self_, backend, close_sandbox{});
      (void) closed; // one that is dead already is closed
      self_->send_exit(backend, caf::exit_reason::kill);
    }
    get_record query{spec.id};
    auto before
      = co_await ask<session_record>(self_, shared_.directory.registry(), std::move(query));
    if (before)
      event_seq = before->live.event_seq;
  }
  co_return co_await launch_child(std::move(spec), event_seq);
}

co<result<session_view>> supervisor_state::launch_child(session_spec spec, uint64_t event_seq) {
  if (draining_)
    co_return unexpected(make_error(errc::overloaded, op::create, "the server is shutting down"));
  const bool known = children_.contains(spec.id);
  if (!known && children_.size() * shared_.config.shards >= shared_.config.max_sessions)
    co_return unexpected(make_error(errc::quota_exceeded, op::create, "too many sessions")
                           .with("limit", static_cast<int64_t>(shared_.config.max_sessions)));
  session_record record;
  record.live.event_seq = event_seq;
  record.live.created_at_ms = now_ms();
  record.live.last_used_at_ms = record.live.created_at_ms;
  record.live.snapshot_fingerprint = spec.state.snapshot_fingerprint;
  record.live.snapshot_fingerprint_version = spec.state.snapshot_fingerprint_version;
  record.live.workspace_root_ready = spec.state.workspace_root_ready;
  bool start = spec.start;
  record.spec = std::move(spec);
  const auto id = record.spec.id;
  const auto tenant = record.spec.tenant;
  const auto snapshot_id = record.spec.state.snapshot.id;
  auto pinned = shared_.pins.hold(snapshot_id);
  // The place is taken before the first wait, so that two requests cannot make one id.
  auto spawned = spawn_child(record);
  if (!spawned && known)
    give_up(*children_.at(id), spawned.error());
  if (!spawned)
    co_return unexpected(std::move(spawned.error()));
  auto session = children_.at(id)->session;
  // The record is written while the session starts: nobody is told of it before both are done, and
  // the sweep takes what a process leaves that dies in between.
  put_record first{std::move(record)};
  auto writing = ask_ahead<void>(self_, shared_.directory.registry(), std::move(first));
  result<session_view> view = unexpected(make_error(errc::internal, op::create, ""));
  if (start) {
    auto turn = co_await starts_.acquire();
    view = co_await ask<session_view>(self_, session, start_session{});
  } else {
    view = co_await ask<session_view>(self_, session, get_session{});
  }
  auto written = co_await writing;
  shared_.pins.arrived(snapshot_id);
  if (!written)
    view = unexpected(std::move(written.error()));
  // One that was here before stays, with its files: they may be all that there is of its work.
  if (!view && !known) {
    // The client never learns this id: nothing of it may stay.
    remove_session request{id, tenant, true};
    auto removed = co_await remove(std::move(request));
    (void) removed;
  }
  if (!view)
    co_return view;
  shared_.metrics.sessions_created.fetch_add(1, std::memory_order_relaxed);
  co_return view;
}

co<result<session_view>> supervisor_state::peek(peek_session x) {
  auto* found = find(x.id, x.tenant);
  if (!found || found->phase == child_phase::removing)
    co_return unexpected(no_such_session(x.id));
  if (found->phase == child_phase::running)
    co_return co_await ask<session_view>(self_, found->session, get_session{});
  auto last_error = found->last_error;
  bool failed = found->phase == child_phase::failed;
  get_record query{x.id};
  auto record = co_await ask<session_record>(self_, shared_.directory.registry(), std::move(query));
  if (!record)
    co_return unexpected(std::move(record.error()));
  session_view view;
  view.record = std::move(*record);
  view.record.live.status = failed ? session_status::failed : session_status::starting;
  view.record.live.last_error = last_error;
  view.node = shared_.config.node_id;
  co_return view;
}

co<result<void>> supervisor_state::remove(remove_session x) {
  auto* found = find(x.id, x.tenant);
  if (!found || found->phase == child_phase::removing)
    co_return result<void>{}; // deleting what is not there is fine
  found->phase = child_phase::removing;
  auto session = found->session;
  bool has_snapshots = found->has_snapshots;
  forget_actors(*found);
  if (session)
    self_->send_exit(session, caf::exit_reason::kill);
  // A sandbox whose actor died was killed with it, but its folder is still there.
  if (!found->backend) {
    auto backend = spawn_backend(*found);
    if (!backend)
      co_return unexpected(std::move(backend.error()));
    found->backend = *backend;
  }
  auto backend = found->backend;
  watch_.unwatch(backend);
  // The files go after the record: a process that dies in between leaves a whole session, or a
  // folder that nobody knows, which the next one sweeps.
  auto gone = co_await ask<void>(self_, backend, close_sandbox{});
  result<void> dropped;
  if (gone && !x.keep_snapshot)
    dropped = co_await drop_snapshots(x.id, x.tenant, has_snapshots);
  if (gone && dropped) {
    drop_record last{x.id};
    dropped = co_await ask<void>(self_, shared_.directory.registry(), std::move(last));
  }
  if (gone && dropped)
    gone = co_await ask<void>(self_, backend, remove_sandbox{});
  self_->send_exit(backend, caf::exit_reason::kill);
  auto again = children_.find(x.id);
  if (gone && dropped) {
    if (again != children_.end())
      children_.erase(again);
    shared_.directory.erase(x.id);
    auto objects = shared_.directory.take_dependencies(x.id);
    auto close = [objects]() -> result<void> {
      if (objects)
        objects->close();
      return {};
    };
    if (objects)
      offload_then<void>(self_, shared_.io, x.tenant, close, [](const result<void>&) {});
    shared_.metrics.sessions_removed.fetch_add(1, std::memory_order_relaxed);
    co_return result<void>{};
  }
  // What could not be removed stays known, so that another delete can go on with it.
  if (again != children_.end()) {
    again->second->backend = backend_actor{};
    again->second->phase = child_phase::failed;
    again->second->last_error = gone ? dropped.error() : gone.error();
  }
  co_return unexpected(gone ? std::move(dropped.error()) : std::move(gone.error()));
}

co<result<void>> supervisor_state::drop_snapshots(std::string id, std::string tenant,
                                                  bool has_snapshots) {
  std::vector<std::string> doomed;
  list_snapshots query{tenant, "", 1000, "", id};
  do {
    auto question = query;
    auto page
      = co_await ask<snapshot_page>(self_, shared_.directory.registry(), std::move(question));
    if (!page)
      co_return unexpected(std::move(page.error()));
    for (const auto& info : page->items)
      doomed.push_back(info.id);
    query.cursor = std::move(page->next_cursor);
  } while (!query.cursor.empty());
  // One that was not noted before a crash has the session's name.
  if (has_snapshots && std::find(doomed.begin(), doomed.end(), id) == doomed.end()) {
    get_record mine{id};
    auto record
      = co_await ask<session_record>(self_, shared_.directory.registry(), std::move(mine));
    if (record && record->spec.state.snapshot.id == id)
      doomed.push_back(id);
  }
  result<void> dropped;
  for (const auto& snapshot : doomed) {
    remove_snapshot request{snapshot, tenant};
    auto removed = co_await ask<void>(self_, shared_.directory.snapshots(), std::move(request));
    if (!removed && removed.error().code != errc::not_found && dropped)
      dropped = std::move(removed);
  }
  co_return dropped;
}

co<result<drain_report>> supervisor_state::drain(drain_sessions x) {
  draining_ = true;
  // Every session that is up is closed; the deadline ends the wait, not the work.
  struct lane {
    size_t at_once;
    size_t running = 0;
    std::deque<local_session_actor> waiting = {};
  };
  struct progress {
    drain_report report;
    lane saved{drain_with_snapshot};
    lane unsaved{drain_without_snapshot};
    std::coroutine_handle<> done;

    size_t left() const {
      return saved.running + saved.waiting.size() + unsaved.running + unsaved.waiting.size();
    }
  };
  auto all = std::make_shared<progress>();
  for (auto& [id, c] : children_)
    if (c->phase == child_phase::running && c->session)
      (c->has_snapshots ? all->saved : all->unsaved).waiting.push_back(c->session);
  auto next = std::make_shared<std::function<void(lane&)>>();
  *next = [this, all, weak = std::weak_ptr{next}](lane& in) {
    while (in.running < in.at_once && !in.waiting.empty()) {
      auto session = in.waiting.front();
      in.waiting.pop_front();
      ++in.running;
      auto again = weak.lock();
      ask_then<session_view>(
        self_, session,
        [all, again, &in](const result<session_view>& closed) {
          --in.running;
          ++(closed ? all->report.stopped : all->report.failed);
          (*again)(in);
          if (all->left() == 0 && all->done)
            std::exchange(all->done, nullptr).resume();
        },
        close_session{});
    }
  };
  (*next)(all->saved);
  (*next)(all->unsaved);
  struct awaiter {
    supervisor_state* state;
    std::shared_ptr<progress> all;
    int64_t deadline_ms;
    bool await_ready() const noexcept {
      return all->left() == 0;
    }
    void await_suspend(std::coroutine_handle<> h) {
      all->done = h;
      tell_later(state->self_, std::chrono::milliseconds{deadline_ms}, action{[all = all] {
                   if (!all->done)
                     return;
                   all->report.failed += static_cast<uint32_t>(all->left());
                   all->saved.waiting.clear();
                   all->unsaved.waiting.clear();
                   std::exchange(all->done, nullptr).resume();
                 }});
    }
    void await_resume() const noexcept {}
  };
  awaiter done{this, all, x.deadline_ms};
  co_await done;
  co_return all->report;
}

// -- children
// -------------------------------------------------------------------------------------------

result<void> supervisor_state::complete(session_spec& spec) const {
  auto& state = spec.state;
  if (spec.id.empty())
    return unexpected(make_error(errc::internal, op::create, "a session needs an id"));
  state.session_id = spec.id;
  const auto folder = session_dir(shared_.config, spec.id);
  // A root that we made goes where this server keeps its sessions, whatever the state says: only
  // there may it be removed with the session.
  if (state.type == backend_kind::isolated) {
    state.workspace_root_owned = true; // the root is a place inside
  } else if (state.manifest.root == manifest{}.root || state.workspace_root_owned) {
    state.manifest.root = folder + "/workspace";
    state.workspace_root_owned = true;
  }
  if (auto valid = workspace::check_manifest(state.manifest, true); !valid)
    return valid;
  if (auto valid = workspace::check_mounts(state.manifest, state.type); !valid)
    return valid;
  if (auto policy
      = workspace::path_policy::make(state.manifest.root, state.manifest.extra_path_grants);
      !policy)
    return unexpected(std::move(policy.error()));
  if (auto valid
      = backends::egress::parse_rules(state.network_allow, shared_.config.isolated.egress_names);
      !valid)
    return unexpected(std::move(valid.error()));
  if (auto valid = apply_caps(shared_.config.isolated.max_limits, state); !valid)
    return valid;
  // Restoring replaces the root with all in it.
  if (workspace::normalize_absolute(state.manifest.root) == "/")
    return unexpected(make_error(errc::sandbox_config_invalid, op::create,
                                 "the workspace root must not be the file system's root")
                        .with("root", state.manifest.root));
  auto& snapshot = state.snapshot;
  if (snapshot.id.empty())
    snapshot.id = spec.id;
  if (snapshot.kind == snapshot_kind::local && snapshot.base_path.empty())
    snapshot.base_path = snapshot_dir(shared_.config, spec.tenant);
  if (snapshot.kind == snapshot_kind::local && !snapshot.base_path.starts_with('/'))
    return unexpected(make_error(errc::sandbox_config_invalid, op::create,
                                 "the folder of snapshots must be an absolute path")
                        .with("base_path", snapshot.base_path));
  if (snapshot.kind == snapshot_kind::remote
      && !shared_.config.snapshot_stores.contains(snapshot.client_dependency_key))
    return unexpected(make_error(errc::sandbox_config_invalid, op::create,
                                 "the server knows no such store for snapshots")
                        .with("client_dependency_key", snapshot.client_dependency_key));
  return {};
}

std::unique_ptr<supervisor_state::child>
supervisor_state::make_child(const session_spec& spec) const {
  auto made = std::make_unique<child>();
  made->id = spec.id;
  made->tenant = spec.tenant;
  made->kind = spec.state.type;
  made->has_snapshots = spec.state.snapshot.kind != snapshot_kind::noop;
  made->sandbox.session_id = spec.id;
  made->sandbox.private_dir = session_dir(shared_.config, spec.id);
  made->sandbox.workspace_root = workspace_dir(shared_.config, spec);
  made->sandbox.inside_root = spec.state.manifest.root;
  made->sandbox.limits = spec.state.limits;
  made->sandbox.network = spec.state.network;
  made->sandbox.network_allow = spec.state.network_allow;
  made->sandbox.users = spec.state.manifest.users;
  made->sandbox.groups = spec.state.manifest.groups;
  made->sandbox.root_owned = spec.state.workspace_root_owned;
  made->sandbox.env_allowlist = shared_.config.env_allowlist;
  made->sandbox.layers = shared_.layers;
  return made;
}

result<void> supervisor_state::spawn_child(const session_record& record) {
  auto made = make_child(record.spec);
  auto backend = spawn_backend(*made);
  if (!backend)
    return unexpected(std::move(backend.error()));
  made->backend = *backend;
  spawn_session(*made, record, false);
  children_[record.spec.id] = std::move(made);
  return {};
}

bool supervisor_state::adopt(const session_record& record) {
  auto live = shared_.directory.find(record.spec.id);
  if (!live.session || !live.backend)
    return false;
  auto made = make_child(record.spec);
  const auto& id = made->id;
  made->session = live.session;
  made->backend = live.backend;
  watch_.watch(made->session,
               [this, id](const caf::error& reason) { on_session_down(id, reason); });
  watch_.watch(made->backend,
               [this, id](const caf::error& reason) { on_backend_down(id, reason); });
  children_[id] = std::move(made);
  return true;
}

result<backend_actor> supervisor_state::spawn_backend(child& x) {
  auto sandbox = shared_.runtime.make_sandbox(x.kind, x.sandbox);
  if (!sandbox)
    return unexpected(std::move(sandbox.error()));
  backend_actor actor = self_->spawn<state_actor<backend_state>>(
    std::ref(shared_), x.id, x.tenant, std::shared_ptr<backends::sandbox>{std::move(*sandbox)});
  watch_.watch(actor, [this, id = x.id](const caf::error& reason) { on_backend_down(id, reason); });
  return actor;
}

void supervisor_state::spawn_session(child& x, session_record record, bool adopted) {
  x.session = self_->spawn<state_actor<session_impl>>(std::ref(shared_), std::move(record),
                                                      x.backend, adopted);
  x.phase = child_phase::running;
  shared_.directory.set(x.id, {x.session, x.backend, x.tenant});
  watch_.watch(x.session,
               [this, id = x.id](const caf::error& reason) { on_session_down(id, reason); });
}

void supervisor_state::forget_actors(child& x) {
  shared_.directory.hide(x.id);
  if (x.session)
    watch_.unwatch(x.session);
  if (x.backend)
    watch_.unwatch(x.backend);
  x.session = local_session_actor{};
}

co<result<void>> supervisor_state::load() {
  load_records query{shard_, shared_.config.shards};
  auto records
    = co_await ask<std::vector<session_record>>(self_, shared_.directory.registry(), query);
  if (!records)
    co_return unexpected(std::move(records.error()));
  for (auto& record : *records) {
    if (children_.contains(record.spec.id))
      continue;
    auto was = record.live.status;
    if (adopt(record))
      continue;
    // A new life, after a death of the process as after a death of the actor.
    ++record.live.epoch;
    auto spawned = spawn_child(record);
    if (!spawned)
      continue; // its backend is not to be had here; the record stays
    if (was != session_status::running && was != session_status::starting
        && was != session_status::stopping)
      continue;
    auto session = children_.at(record.spec.id)->session;
    launch<session_view>(scope_, recover(session), [](const result<session_view>&) {});
  }
  co_return result<void>{};
}

co<result<session_view>> supervisor_state::recover(local_session_actor session) {
  auto turn = co_await starts_.acquire();
  co_return co_await ask<session_view>(self_, session, recover_session{});
}

// -- restarts
// -------------------------------------------------------------------------------------------

std::optional<std::chrono::milliseconds>
supervisor_state::may_restart(std::deque<time_point>& window) {
  auto now = std::chrono::steady_clock::now();
  auto period = std::chrono::milliseconds{shared_.config.restart_window_ms};
  while (!window.empty() && now - window.front() > period)
    window.pop_front();
  if (window.size() >= shared_.config.max_restarts)
    return std::nullopt;
  auto delay = std::chrono::milliseconds{shared_.config.restart_backoff_ms << window.size()};
  window.push_back(now);
  return with_jitter(delay);
}

void supervisor_state::on_session_down(const std::string& id, const caf::error& reason) {
  auto i = children_.find(id);
  if (i == children_.end() || i->second->phase != child_phase::running)
    return;
  auto& x = *i->second;
  shared_.directory.hide(id);
  x.session = local_session_actor{};
  x.last_error = make_error(errc::interrupted, op::request, "the session's actor ended")
                   .with("reason", to_string(reason));
  auto delay = may_restart(x.session_restarts);
  if (!delay) {
    give_up(x, *x.last_error);
    return;
  }
  x.phase = child_phase::restarting;
  shared_.metrics.session_restarts.fetch_add(1, std::memory_order_relaxed);
  tell_later(self_, *delay, action{[this, id] {
               launch<void>(scope_, restart_session(id), [](const result<void>&) {});
             }});
}

co<result<void>> supervisor_state::restart_session(std::string id) {
  get_record query{id};
  auto record = co_await ask<session_record>(self_, shared_.directory.registry(), std::move(query));
  auto i = children_.find(id);
  if (i == children_.end() || i->second->phase != child_phase::restarting)
    co_return result<void>{};
  if (!record) {
    give_up(*i->second, record.error());
    co_return unexpected(std::move(record.error()));
  }
  ++record->live.epoch;
  ++record->live.restarts;
  record->live.last_error = i->second->last_error;
  put_live change{id, record->live};
  auto stored = co_await ask<void>(self_, shared_.directory.registry(), std::move(change));
  i = children_.find(id);
  if (i == children_.end() || i->second->phase != child_phase::restarting)
    co_return result<void>{};
  if (!stored) {
    give_up(*i->second, stored.error());
    co_return stored;
  }
  auto& x = *i->second;
  if (!x.backend) {
    auto backend = spawn_backend(x);
    if (!backend) {
      give_up(x, backend.error());
      co_return unexpected(std::move(backend.error()));
    }
    x.backend = *backend;
  }
  auto was = record->live.status;
  spawn_session(x, std::move(*record), true);
  // A life that ended in the middle of a start or a stop is brought to a known state.
  if (was == session_status::starting || was == session_status::stopping)
    launch<session_view>(scope_, recover(x.session), [](const result<session_view>&) {});
  co_return result<void>{};
}

void supervisor_state::on_backend_down(const std::string& id, const caf::error& reason) {
  auto i = children_.find(id);
  if (i == children_.end() || i->second->phase == child_phase::removing)
    return;
  auto& x = *i->second;
  x.backend = backend_actor{};
  x.last_error = make_error(errc::backend_lost, op::request, "the session's sandbox ended")
                   .with("reason", to_string(reason));
  auto delay = may_restart(x.backend_restarts);
  if (!delay) {
    give_up(x, *x.last_error);
    return;
  }
  tell_later(self_, *delay, action{[this, id] {
               auto again = children_.find(id);
               if (again == children_.end() || again->second->backend
                   || again->second->phase == child_phase::removing)
                 return;
               auto& lost = *again->second;
               auto backend = spawn_backend(lost);
               if (!backend) {
                 give_up(lost, backend.error());
                 return;
               }
               lost.backend = *backend;
               shared_.directory.set(
                 id, {lost.session, lost.backend, lost.tenant, lost.phase == child_phase::running});
               if (lost.session)
                 tell(self_, lost.session, backend_replaced{lost.backend});
             }});
}

void supervisor_state::give_up(child& x, error reason) {
  auto session = x.session;
  forget_actors(x);
  if (session)
    self_->send_exit(session, caf::exit_reason::kill);
  x.phase = child_phase::failed;
  x.last_error = std::move(reason);
  launch<void>(scope_, record_failure(x.id, *x.last_error), [](const result<void>&) {});
}

co<result<void>> supervisor_state::record_failure(std::string id, error why) {
  get_record query{id};
  auto record = co_await ask<session_record>(self_, shared_.directory.registry(), std::move(query));
  if (!record)
    co_return unexpected(std::move(record.error()));
  record->live.status = session_status::failed;
  record->live.last_error = std::move(why);
  put_live change{id, record->live};
  co_return co_await ask<void>(self_, shared_.directory.registry(), std::move(change));
}

} // namespace troupe::actors
