#include "actors/session.hpp"

#include "actors/manifest_supervisor.hpp"
#include "backends/isolated/overlay.hpp"
#include "backends/ownership.hpp"
#include "messages/ids.hpp"
#include "snapshot/staging.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/mount_rclone.hpp"
#include "workspace/mount_targets.hpp"
#include "workspace/tree.hpp"

#include <sys/stat.h>

#include <algorithm>

namespace troupe::actors {

namespace {

/// A command of a pre-stop hook without a timeout of its own.
constexpr auto hook_timeout = std::chrono::minutes{5};

/// What a client may leave with a session.
constexpr size_t max_hooks = 256;
constexpr size_t max_skip_paths = 4096;

/// The contract wraps what fails a stop; the cause goes along.
error wrap_stop_error(error cause, const std::string& root) {
  auto e = make_error(errc::workspace_stop_error, op::stop, "failed to stop session")
             .with("path", root)
             .with("cause_code", to_string(cause.code))
             .with("cause", cause.message)
             .with_json("cause_context", cause.context);
  e.retryable = cause.retryable;
  return e;
}

error conflict(const char* message) {
  return make_error(errc::conflict, op::request, message);
}

/// Sources that the session's user cannot read: the server copies or moves them as itself.
bool copies_from_host(const entry& x) {
  if (x.kind == entry_kind::local_file || x.kind == entry_kind::local_dir
      || x.kind == entry_kind::git_repo)
    return true;
  return std::any_of(x.children.begin(), x.children.end(),
                     [](const named_entry& y) { return copies_from_host(y.entry); });
}

/// Whether a session has a workspace, in whatever form. One with a limit of its space, or on
/// layers, may not be mounted yet.
result<bool> workspace_exists(const node_config& config, const session_spec& spec) {
  struct stat info {};
  auto folder = session_dir(config, spec.id);
  if (spec.state.type == backend_kind::isolated && backends::isolated::layers_below(folder))
    return true;
  if (spec.state.limits.disk_bytes && ::stat((folder + "/disk.img").c_str(), &info) == 0)
    return true;
  return ::stat(workspace_dir(config, spec).c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

} // namespace

session_impl::session_impl(self_ptr<handle_type> self, services& shared, session_record record,
                           backend_actor backend, bool adopted)
  : self_(self), shared_(shared), record_(std::move(record)), backend_(std::move(backend)),
    policy_(workspace::path_policy::make(record_.spec.state.manifest.root,
                                         record_.spec.state.manifest.extra_path_grants)
              .value()) {
  event_seq_ = record_.live.event_seq;
  preserved_ = record_.live.workspace_root_ready && !record_.spec.resumed;
  if (adopted) {
    up_ = record_.live.status == session_status::running;
  } else if (record_.live.status != session_status::created
             && record_.live.status != session_status::failed) {
    // The process that ran it ended: its processes are gone, its workspace is there.
    interrupted_ = record_.live.status != session_status::stopped;
    record_.live.status = session_status::stopped;
  }
}

session_impl::~session_impl() {
  stop_.request_stop();
  end_open_spans();
  for (const auto& [id, entry] : terminals_)
    caf::anon_send_exit(entry.actor, caf::exit_reason::kill);
}

session_impl::handle_type::behavior_type session_impl::make_behavior() {
  schedule_expiry();
  return {
    [this](const get_session&) { return respond(self_, scope_, get()); },
    [this](const start_session& x) { return respond(self_, scope_, start(x.on_conflict)); },
    [this](const stop_session&) { return respond(self_, scope_, stop()); },
    [this](const shutdown_session&) { return respond(self_, scope_, shutdown()); },
    [this](const close_session&) { return respond(self_, scope_, close()); },
    [this](const session_running&) { return respond(self_, scope_, running()); },
    [this](const describe_session& x) {
      return answer(workspace::describe(record_.spec.state.manifest, x.depth));
    },
    [this](add_pre_stop_hook& x) -> caf::result<std::string> {
      if (hooks_.size() >= max_hooks)
        return to_caf(make_error(errc::quota_exceeded, op::stop, "too many pre-stop hooks")
                        .with("limit", static_cast<int64_t>(max_hooks)));
      hooks_.push_back({make_uuid(), std::move(x)});
      // As the contract has it: a hook that comes late arms all of them again.
      hooks_ran_ = false;
      return hooks_.back().id;
    },
    [this](const add_persist_skip& x) -> caf::result<std::string> {
      auto path = workspace::normalize_skip_path(x.path);
      if (!path)
        return to_caf(std::move(path.error()));
      if (auto clear = workspace::check_skip_path(record_.spec.state.manifest, *path); !clear)
        return to_caf(std::move(clear.error()));
      auto& skip = record_.live.persist_skip;
      if (std::find(skip.begin(), skip.end(), *path) == skip.end()) {
        if (skip.size() >= max_skip_paths)
          return to_caf(make_error(errc::quota_exceeded, op::persist_workspace,
                                   "too many paths are left out of snapshots")
                          .with("limit", static_cast<int64_t>(max_skip_paths)));
        skip.push_back(*path);
      }
      reply_to<std::string> reply{self_};
      launch<void>(scope_, save(), [reply, path = *path](const result<void>& saved) {
        reply.finish(saved ? result<std::string>{path} : unexpected(saved.error()));
      });
      return reply;
    },
    [this](apply_manifest& x) { return respond(self_, scope_, apply(std::move(x))); },
    [this](exec_call& x) { return respond(self_, scope_, exec(std::move(x), std::nullopt)); },
    [this](exec_call& x, exec_sink_actor& sink) {
      return respond(self_, scope_, exec(std::move(x), std::move(sink)));
    },
    [this](const exec_cancel& x) -> caf::result<void> {
      constexpr size_t remembered = 256;
      cancelled_.push_back(x.call_id);
      if (cancelled_.size() > remembered)
        cancelled_.pop_front();
      tell(self_, backend_, x);
      return caf::unit;
    },
    [this](const exec_grant& x) -> caf::result<void> {
      tell(self_, backend_, x);
      return caf::unit;
    },
    [this](file_open_read& x) { return respond(self_, scope_, open_read(std::move(x))); },
    [this](const file_read_chunk& x) { return respond(self_, scope_, read_chunk(x)); },
    [this](file_open_write& x) { return respond(self_, scope_, open_write(std::move(x))); },
    [this](file_write_chunk& x) { return respond(self_, scope_, write_chunk(std::move(x))); },
    [this](const file_commit& x) { return respond(self_, scope_, commit(x)); },
    [this](const file_close& x) -> caf::result<void> {
      abandon([&](const auto& y) { return y.first == x.handle; });
      return caf::unit;
    },
    [this](list_files& x) { return respond(self_, scope_, list(std::move(x))); },
    [this](make_directory& x) { return respond(self_, scope_, mkdir(std::move(x))); },
    [this](remove_file& x) { return respond(self_, scope_, rm(std::move(x))); },
    [this](const export_workspace&) { return respond(self_, scope_, export_tree()); },
    [this](const import_workspace&) { return respond(self_, scope_, import_open(std::nullopt)); },
    [this](const commit_import& x) { return respond(self_, scope_, import_commit(x)); },
    [this](const normalize_path& x) -> caf::result<normalized_path> {
      auto path = policy_.resolve_local(x.path, x.for_write);
      if (!path)
        return to_caf(std::move(path.error()));
      return normalized_path{path->absolute,
                             path->grant < 0 ? std::optional{path->relative} : std::nullopt};
    },
    [this](patch_workspace& x) { return respond(self_, scope_, patch(std::move(x))); },
    [this](extract_archive& x) { return respond(self_, scope_, extract_open(std::move(x))); },
    [this](const commit_extract& x) { return respond(self_, scope_, extract_commit(x)); },
    [this](start_terminal& x) { return respond(self_, scope_, open_terminal(std::move(x))); },
    [this](write_terminal& x) { return respond(self_, scope_, write_to_terminal(std::move(x))); },
    [this](const list_terminals&) { return list_of_terminals(); },
    [this](const resize_terminal& x) { return resize(x); },
    [this](const terminate_terminal& x) {
      return respond(self_, scope_, end_terminals(x.process_id));
    },
    [this](type_terminal& x) { return type(x); },
    [this](read_terminal& x) { return read_output(x); },
    [this](const resolve_port& x) { return respond(self_, scope_, endpoint_of(x)); },
    [this](checkpoint_session& x) { return respond(self_, scope_, checkpoint(std::move(x))); },
    [this](rewind_session& x) { return respond(self_, scope_, rewind(std::move(x))); },
    [this](diff_session& x) { return respond(self_, scope_, diff(std::move(x))); },
    [this](fork_session& x) { return respond(self_, scope_, fork(std::move(x))); },
    [](action& work) { work(); },
    [this](backend_replaced& x) { return on_backend_replaced(x); },
    [this](backends::sandbox_notice& x) { return on_notice(x); },
    [this](const recover_session&) {
      return respond(self_, scope_, start(workspace_conflict::live_wins));
    },
    [this](attached_exec& x) { return respond(self_, scope_, exec_attached(std::move(x.exec))); },
  };
}

// -- lifecycle
// ------------------------------------------------------------------------------------------

co<result<session_view>> session_impl::start(std::optional<workspace_conflict> asked) {
  auto turn = co_await lifecycle_.acquire();
  if (is_expired())
    co_return unexpected(
      conflict("the session's lifetime is over")
        .with("max_lifetime_s",
              std::chrono::nanoseconds{std::chrono::milliseconds{*record_.spec.max_lifetime_ms}}));
  // What was acknowledged since the last stop is in the live workspace only: nobody who starts a
  // running session again, or one after a crash, means to lose it.
  bool unsaved = interrupted_ || record_.live.status == session_status::running;
  auto usual = unsaved ? workspace_conflict::live_wins : record_.spec.on_conflict;
  auto policy = asked.value_or(usual);
  auto event = co_await begin(op::start);
  if (!event)
    co_return unexpected(std::move(event.error()));
  auto& live = record_.live;
  // Who asks for the live workspace takes it for the session's, after a failed resume, too.
  if (asked == workspace_conflict::live_wins)
    preserved_ = live.workspace_root_ready = true;
  live.status = session_status::starting;
  auto done = co_await bring_up(policy);
  if (done) {
    live.status = session_status::running;
    live.started_at_ms = now_ms();
    live.last_error.reset();
    live.workspace_root_ready = true;
    preserved_ = true;
    interrupted_ = false;
    up_ = true;
  } else {
    live.status = session_status::failed;
    live.last_error = done.error();
    up_ = false;
  }
  auto saved = co_await save();
  if (done && !saved)
    done = std::move(saved);
  done = co_await end(std::move(*event), std::move(done));
  if (!done)
    co_return unexpected(std::move(done.error()));
  co_return view();
}

co<result<void>> session_impl::bring_up(workspace_conflict policy) {
  const auto& state = record_.spec.state;
  auto checked = workspace::check_manifest(state.manifest, is_isolated());
  if (checked)
    checked = check_mounts_of(state.manifest);
  if (!checked)
    co_return checked;
  // Before the backend makes a missing root: whether there is a workspace to keep.
  result<bool> root_there = false;
  if (preserved_ || !noop_snapshot()) {
    auto probe
      = [&config = shared_.config, spec = record_.spec] { return workspace_exists(config, spec); };
    root_there = co_await offload<bool>(self_, shared_.io, record_.spec.tenant, probe);
    if (!root_there)
      co_return unexpected(std::move(root_there.error()));
  }
  bool reusable = preserved_ && record_.live.workspace_root_ready && *root_there;

  bool restorable = false;
  // Where the live workspace wins anyway, a store that cannot be reached is no obstacle.
  bool live_wins = reusable && policy == workspace_conflict::live_wins;
  if (!noop_snapshot() && !live_wins) {
    snapshot_restorable question{stored_snapshot()};
    auto known = co_await ask<bool>(self_, shared_.directory.snapshots(), std::move(question));
    if (!known)
      co_return unexpected(std::move(known.error()));
    restorable = *known;
  }

  if (open_ && preserved_ && !*root_there && !is_isolated()) {
    // Somebody removed the root: what is held open is nowhere any more.
    auto again = co_await ask<sandbox_ready>(self_, backend_, reopen_root{});
    if (!again)
      co_return unexpected(std::move(again.error()));
    take(std::move(*again));
  }

  // What there is nothing to compare with is restored as it is opened, unless that makes the file
  // system to restore it to.
  if (*root_there || !restorable || !is_isolated() || record_.spec.state.limits.disk_bytes) {
    auto opened = co_await ensure_open();
    if (opened)
      opened = co_await detach_mounts();
    if (opened && interrupted_)
      opened = co_await sweep_unfinished();
    if (!opened)
      co_return opened;
  }

  auto wanted = std::make_shared<const manifest>(state.manifest);
  if (restorable) {
    bool matches = false;
    if (*root_there) {
      auto same = co_await matches_snapshot();
      matches = same.value_or(false); // what cannot be compared does not match
    }
    if (!matches && reusable && policy == workspace_conflict::fail)
      co_return unexpected(make_error(errc::conflict, op::start,
                                      "the workspace differs from its snapshot, and `on_conflict` "
                                      "is `fail`")
                             .with("path", state.manifest.root)
                             .with("snapshot_id", state.snapshot.id));
    if (!matches) {
      progress(op::snapshot_restore, R"({"stage":"restoring"})");
      auto restored = co_await restore(stored_snapshot());
      if (!restored)
        co_return restored;
    } else if (!reusable) {
      // As if restored: what ephemeral entries left behind goes, too.
      auto removed = co_await remove_ephemeral();
      if (!removed)
        co_return removed;
    }
    reusable = true;
  }
  auto applied = co_await materialize(wanted, reusable);
  if (!applied) {
    auto detached = co_await detach_mounts();
    (void) detached; // the first failure is the one to tell
    co_return unexpected(std::move(applied.error()));
  }
  co_return result<void>{};
}

co<result<bool>> session_impl::matches_snapshot() {
  const auto& live = record_.live;
  if (!live.snapshot_fingerprint
      || live.snapshot_fingerprint_version != snapshot::fingerprint_version)
    co_return false;
  compute_fingerprint question{stored_snapshot(),
                               live.base_snapshot,
                               record_.spec.tenant,
                               root_,
                               layers_,
                               persist_skip(),
                               std::make_shared<const manifest>(record_.spec.state.manifest),
                               stop_.get_token()};
  auto now = co_await ask<std::string>(self_, shared_.directory.snapshots(), std::move(question));
  if (!now)
    co_return unexpected(std::move(now.error()));
  co_return *now == *live.snapshot_fingerprint;
}

co<result<void>> session_impl::restore(snapshot_ref ref) {
  auto laid = co_await lay_on(ref);
  if (!laid)
    co_return unexpected(std::move(laid.error()));
  if (!*laid) {
    auto copied = co_await restore_copy(ref);
    if (!copied)
      co_return copied;
  }
  record_.live.base_snapshot = ref.id;
  co_return result<void>{};
}

co<result<bool>> session_impl::lay_on(snapshot_ref ref) {
  auto why = co_await ask<std::string>(self_, backend_, why_no_layers{});
  if (!why)
    co_return unexpected(std::move(why.error()));
  if (!why->empty())
    co_return false;
  hold_layers request{std::move(ref), record_.spec.id, record_.spec.tenant, stop_.get_token()};
  auto held = co_await ask<layers_held>(self_, shared_.directory.snapshots(), std::move(request));
  if (!held)
    co_return unexpected(std::move(held.error()));
  if (!held->claim)
    co_return false;
  rebase_sandbox change{std::move(held->claim)};
  auto ready = co_await ask<sandbox_ready>(self_, backend_, std::move(change));
  open_ = ready.has_value();
  if (ready) {
    take(std::move(*ready));
    co_return true;
  }
  set_root(nullptr);
  if (ready.error().code == errc::backend_unavailable)
    co_return false;
  co_return unexpected(std::move(ready.error()));
}

co<result<void>> session_impl::restore_copy(snapshot_ref ref) {
  restore_snapshot request{std::move(ref), record_.spec.id, record_.spec.tenant,
                           workspace_dir(shared_.config, record_.spec)};
  auto restored = co_await ask<void>(self_, shared_.directory.snapshots(), std::move(request));
  if (!restored)
    co_return restored;
  if (open_ || is_isolated()) {
    // Another directory stands in the root's place now.
    auto again = co_await ask<sandbox_ready>(self_, backend_, reopen_root{});
    if (!again)
      co_return unexpected(std::move(again.error()));
    open_ = true;
    take(std::move(*again));
  } else {
    auto opened = co_await ensure_open();
    if (!opened)
      co_return opened;
  }
  co_return co_await give_workspace();
}

co<result<void>> session_impl::remove_ephemeral() {
  auto paths = workspace::ephemeral_paths(record_.spec.state.manifest);
  auto root = root_;
  auto work = [paths, root]() -> result<void> {
    for (const auto& path : paths)
      if (auto ok = workspace::remove_path(root->get(), path, true, path); !ok)
        return ok;
    return {};
  };
  co_return co_await offload<void>(self_, shared_.io, record_.spec.tenant, work);
}

co<result<void>> session_impl::sweep_unfinished() {
  auto work = [root = root_, path = workspace_dir(shared_.config, record_.spec)] {
    snapshot::staging::sweep(path);
    return workspace::sweep_unfinished(root->get());
  };
  co_return co_await offload<void>(self_, shared_.io, record_.spec.tenant, work);
}

co<result<void>> session_impl::ensure_open() {
  if (open_)
    co_return result<void>{};
  auto ready = co_await ask<sandbox_ready>(self_, backend_, open_sandbox{});
  if (!ready)
    co_return unexpected(std::move(ready.error()));
  open_ = true;
  take(std::move(*ready));
  co_return result<void>{};
}

void session_impl::take(sandbox_ready x) {
  layers_ = std::move(x.layers);
  walls_ = std::move(x.walls);
  identity_ = std::move(x.identity);
  file_system_ = std::move(x.file_system);
  set_root(std::move(x.root));
}

void session_impl::set_root(shared_fd root) {
  root_ = std::move(root);
  if (!root_)
    layers_ = nullptr;
  if (!shared_.sinks)
    return;
  std::optional<open_workspace> place;
  if (root_)
    if (auto owner = identity_(std::nullopt))
      place = open_workspace{root_, std::move(*owner)};
  shared_.directory.set_workspace(record_.spec.id, std::move(place));
}

co<result<materialized_files>> session_impl::materialize(std::shared_ptr<const manifest> what,
                                                         bool only_ephemeral) {
  if (what->entries.empty())
    co_return materialized_files{};
  application work;
  work.manifest = std::move(what);
  work.only_ephemeral = only_ephemeral;
  work.root = root_;
  work.root_path = record_.spec.state.manifest.root;
  work.isolated = is_isolated();
  auto who = identity_(std::nullopt);
  if (!who)
    co_return unexpected(std::move(who.error()));
  work.identity = *who;
  bool copies = std::any_of(work.manifest->entries.begin(), work.manifest->entries.end(),
                            [](const named_entry& x) { return copies_from_host(x.entry); });
  work.session_id = record_.spec.id;
  work.private_dir = session_dir(shared_.config, record_.spec.id);
  work.tenant = record_.spec.tenant;
  work.limits = record_.spec.concurrency;
  work.backend = backend_;
  work.environment = environment();
  // Called by the supervisor actor on its turn: the event goes out by message.
  actor_inbox inbox{self_};
  work.report = [this, inbox](apply_progress x) {
    inbox.post([this, x] {
      progress(op::materialize, "{\"done\":" + std::to_string(x.done)
                                  + ",\"total\":" + std::to_string(x.total) + "}");
    });
  };
  auto supervisor
    = self_->spawn<state_actor<manifest_supervisor_state>>(std::ref(shared_), std::move(work));
  auto applied = co_await ask<materialized_files>(self_, supervisor, run_application{});
  if (applied && copies) {
    auto given = co_await give_workspace();
    if (!given)
      co_return unexpected(std::move(given.error()));
  }
  co_return applied;
}

co<result<void>> session_impl::give_workspace() {
  auto who = identity_(std::nullopt);
  if (!who)
    co_return unexpected(std::move(who.error()));
  if (!*who)
    co_return result<void>{};
  auto work = [root = root_, to = **who] { return backends::give_tree(root->get(), to); };
  co_return co_await offload<void>(self_, shared_.io, record_.spec.tenant, work);
}

co<result<session_view>> session_impl::stop() {
  auto turn = co_await lifecycle_.acquire();
  auto done = co_await stop_locked();
  if (!done)
    co_return unexpected(std::move(done.error()));
  co_return view();
}

co<result<void>> session_impl::stop_locked() {
  auto event = co_await begin(op::stop);
  if (!event)
    co_return unexpected(std::move(event.error()));
  auto before = record_.live.status;
  record_.live.status = session_status::stopping;
  auto quiet = co_await end_terminals(std::nullopt);
  (void) quiet; // of all of them, it cannot fail
  auto done = co_await persist();
  if (done) {
    record_.live.status = session_status::stopped;
  } else {
    record_.live.status = before;
    record_.live.last_error = done.error();
  }
  auto saved = co_await save();
  if (done && !saved)
    done = std::move(saved);
  co_return co_await end(std::move(*event), std::move(done));
}

co<result<void>> session_impl::persist() {
  if (noop_snapshot())
    co_return result<void>{};
  const auto root_path = workspace_dir(shared_.config, record_.spec);
  auto probe
    = [&config = shared_.config, spec = record_.spec] { return workspace_exists(config, spec); };
  auto there = co_await offload<bool>(self_, shared_.io, record_.spec.tenant, probe);
  if (!there || !*there) {
    auto cause = make_error(errc::workspace_archive_read_error, op::persist_workspace,
                            "failed to read archive for path: " + root_path)
                   .with("path", root_path)
                   .with("reason", "workspace_root_not_found");
    co_return unexpected(wrap_stop_error(std::move(cause), root_path));
  }
  auto request = co_await persist_request_for(stored_snapshot());
  if (!request)
    co_return unexpected(wrap_stop_error(std::move(request.error()), root_path));
  request->settle = false; // nothing is promised of what is written while it stops
  actor_inbox inbox{self_};
  request->report = [this, inbox](uint64_t files, uint64_t bytes) {
    inbox.post([this, files, bytes] {
      progress(op::snapshot_persist,
               "{\"files\":" + std::to_string(files) + ",\"bytes\":" + std::to_string(bytes) + "}");
    });
  };
  auto written
    = co_await ask<snapshot_outcome>(self_, shared_.directory.snapshots(), std::move(*request));
  if (!written)
    co_return unexpected(wrap_stop_error(std::move(written.error()), root_path));
  auto& live = record_.live;
  live.snapshot_fingerprint = written->fingerprint;
  live.snapshot_fingerprint_version = written->fingerprint_version;
  live.warnings = std::move(written->warnings);
  live.base_snapshot = record_.spec.state.snapshot.id;
  co_return result<void>{};
}

co<result<session_view>> session_impl::shutdown() {
  auto turn = co_await lifecycle_.acquire();
  auto done = co_await shutdown_locked();
  if (!done)
    co_return unexpected(std::move(done.error()));
  co_return view();
}

co<result<void>> session_impl::shutdown_locked() {
  auto event = co_await begin(op::shutdown);
  if (!event)
    co_return unexpected(std::move(event.error()));
  abandon([](const auto&) { return true; });
  // Terminals that may hold a mount busy end before it; else with everything else, at once.
  if (attaches_mounts(record_.spec.state.manifest)) {
    auto quiet = co_await end_terminals(std::nullopt);
    (void) quiet;
  }
  auto done = co_await detach_mounts();
  if (open_) {
    auto closed = co_await ask<void>(self_, backend_, close_sandbox{});
    if (!closed)
      done = std::move(closed);
  }
  auto quiet = co_await end_terminals(std::nullopt);
  (void) quiet;
  if (done) {
    open_ = false;
    up_ = false;
    set_root(nullptr);
    if (record_.live.status == session_status::running)
      record_.live.status = session_status::stopped;
    done = co_await save();
  }
  co_return co_await end(std::move(*event), std::move(done));
}

co<result<session_view>> session_impl::close() {
  auto turn = co_await lifecycle_.acquire();
  auto hooks = co_await run_hooks();
  auto stopped = co_await stop_locked();
  auto down = co_await shutdown_locked();
  auto objects = co_await close_dependencies();
  for (auto* step : {&hooks, &stopped, &down, &objects})
    if (!*step)
      co_return unexpected(std::move(step->error()));
  co_return view();
}

co<result<void>> session_impl::close_dependencies() {
  auto objects = shared_.directory.take_dependencies(record_.spec.id);
  if (!objects)
    co_return result<void>{};
  auto work = [objects]() -> result<void> {
    objects->close();
    return {};
  };
  co_return co_await offload<void>(self_, shared_.io, record_.spec.tenant, work);
}

co<result<void>> session_impl::run_hooks() {
  if (hooks_ran_)
    co_return result<void>{};
  hooks_ran_ = true;
  auto hooks = hooks_;
  for (const auto& x : hooks) {
    exec_call call;
    call.call_id = next_handle_++;
    call.request.command = x.request.command;
    call.request.shell = x.request.command.size() == 1 ? shell_mode::on : shell_mode::off;
    call.request.timeout = x.request.timeout.value_or(hook_timeout);
    auto ran = co_await exec(std::move(call), std::nullopt);
    std::optional<error> failed;
    if (!ran)
      failed = std::move(ran.error());
    else if (ran->exit_code != 0)
      failed = make_error(errc::exec_nonzero, op::exec, "a pre-stop hook failed")
                 .with("hook_id", x.id)
                 .with("command", x.request.command)
                 .with("exit_code", ran->exit_code)
                 .with("stdout", ran->stdout_data)
                 .with("stderr", ran->stderr_data);
    if (failed && !hooks_failed_)
      hooks_failed_ = std::move(failed);
  }
  if (hooks_failed_)
    co_return unexpected(*hooks_failed_);
  co_return result<void>{};
}

co<result<bool>> session_impl::running() {
  auto event = co_await begin(op::running);
  if (!event)
    co_return unexpected(std::move(event.error()));
  result<bool> alive = up_;
  std::string data = up_ ? R"({"alive":true})" : R"({"alive":false})";
  co_return co_await end(std::move(*event), std::move(alive), true, std::move(data));
}

co<result<session_view>> session_impl::get() {
  if (open_) {
    auto used = co_await ask<session_usage>(self_, backend_, get_usage{});
    usage_ = used.value_or(session_usage{});
  } else {
    usage_ = {};
  }
  co_return view();
}

co<result<materialized_files>> session_impl::apply(apply_manifest request) {
  auto turn = co_await lifecycle_.acquire();
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto wanted = std::make_shared<manifest>(record_.spec.state.manifest);
  if (request.manifest) {
    auto& given = *request.manifest;
    if (given.root != wanted->root && given.root != manifest{}.root)
      co_return unexpected(conflict("the root of a live session cannot change"));
    given.root = wanted->root;
    auto checked = workspace::check_manifest(given, is_isolated());
    if (checked)
      checked = check_mounts_of(given);
    if (!checked)
      co_return unexpected(std::move(checked.error()));
    // The session's own manifest gains the entries, so that a resume knows them.
    auto merged = record_.spec.state.manifest;
    for (const auto& x : given.entries) {
      auto same = std::find_if(merged.entries.begin(), merged.entries.end(),
                               [&](const named_entry& y) { return y.path == x.path; });
      if (same == merged.entries.end())
        merged.entries.push_back(x);
      else
        same->entry = x.entry;
    }
    wanted->entries = std::move(given.entries);
    auto record = record_;
    record.spec.state.manifest = merged;
    put_record change{std::move(record)};
    auto stored = co_await ask<void>(self_, shared_.directory.registry(), std::move(change));
    if (!stored)
      co_return unexpected(std::move(stored.error()));
    record_.spec.state.manifest = std::move(merged);
  }
  co_return co_await materialize(std::shared_ptr<const manifest>{wanted}, request.only_ephemeral);
}

co<result<void>> session_impl::save() {
  record_.live.last_used_at_ms = now_ms();
  record_.live.event_seq = event_seq_;
  put_live change{record_.spec.id, record_.live};
  co_return co_await ask<void>(self_, shared_.directory.registry(), std::move(change));
}

caf::result<void> session_impl::on_backend_replaced(backend_replaced& x) {
  backend_ = std::move(x.backend);
  open_ = false;
  abandon([](const auto&) { return true; });
  set_root(nullptr);
  if (!up_)
    return caf::unit;
  up_ = false;
  ++record_.live.restarts;
  // Nothing the agent wrote may be lost: the workspace that is there wins over its snapshot.
  launch<session_view>(scope_, start(workspace_conflict::live_wins),
                       [](const result<session_view>&) {});
  return caf::unit;
}

caf::result<void> session_impl::on_notice(backends::sandbox_notice& x) {
  auto happened = make_event(x.operation, event_phase::finish, std::move(x.data));
  happened.span_id = "sandbox_op_" + random_hex(16);
  happened.ok = !x.failure;
  happened.failure = std::move(x.failure);
  launch<void>(scope_, emit(std::move(happened)), [](const result<void>&) {});
  return caf::unit;
}

void session_impl::schedule_expiry() {
  if (record_.spec.idle_timeout_ms || record_.spec.max_lifetime_ms)
    tell_later(self_, std::chrono::seconds{1}, action{[this] { check_expiry(); }});
}

bool session_impl::is_expired() const {
  const auto& longest = record_.spec.max_lifetime_ms;
  return longest && now_ms() - record_.live.created_at_ms >= *longest;
}

void session_impl::check_expiry() {
  auto now = now_ms();
  const auto& spec = record_.spec;
  const auto& live = record_.live;
  bool idle = spec.idle_timeout_ms && in_flight_ == 0
              && now - live.last_used_at_ms >= *spec.idle_timeout_ms;
  if (up_ && (idle || is_expired()))
    launch<session_view>(scope_, close(), [](const result<session_view>&) {});
  schedule_expiry();
}

session_view session_impl::view() const {
  session_view x;
  x.record = record_;
  auto& state = x.record.spec.state;
  state.snapshot_fingerprint = record_.live.snapshot_fingerprint;
  state.snapshot_fingerprint_version = record_.live.snapshot_fingerprint_version;
  state.workspace_root_ready = record_.live.workspace_root_ready;
  x.node = shared_.config.node_id;
  x.usage = usage_;
  x.walls = walls_;
  return x;
}

std::vector<std::string> session_impl::persist_skip() const {
  auto skip = workspace::ephemeral_paths(record_.spec.state.manifest);
  skip.insert(skip.end(), record_.live.persist_skip.begin(), record_.live.persist_skip.end());
  if (attaches_mounts(record_.spec.state.manifest))
    skip.push_back(workspace::rclone_config_folder);
  if (shared_.sinks)
    for (auto& path : shared_.sinks->ephemeral_paths(record_.spec.id))
      skip.push_back(std::move(path));
  std::sort(skip.begin(), skip.end());
  return skip;
}

bool session_impl::noop_snapshot() const {
  return record_.spec.state.snapshot.kind == snapshot_kind::noop;
}

// -- events
// ---------------------------------------------------------------------------------------------

co<result<session_impl::span>> session_impl::begin(op operation, std::string data) {
  span x{operation, "sandbox_op_" + random_hex(16), std::chrono::steady_clock::now(), data};
  auto start = make_event(operation, event_phase::start, std::move(data));
  start.span_id = x.id;
  auto told = co_await emit(std::move(start));
  if (!told)
    co_return unexpected(std::move(told.error()));
  open_spans_.emplace(x.id, x);
  co_return x;
}

void session_impl::end_open_spans() {
  auto hub = shared_.directory.events();
  for (auto& [id, x] : open_spans_) {
    auto finish = make_event(x.operation, event_phase::finish, std::move(x.data));
    finish.span_id = id;
    finish.ok = false;
    finish.failure = make_error(errc::interrupted, x.operation, "the session ended meanwhile");
    anon_tell(hub, publish_event{std::move(finish)});
  }
}

co<result<void>> session_impl::emit(event x) {
  auto hub = shared_.directory.events();
  if (!shared_.sinks || !shared_.sinks->awaited()) {
    tell(self_, hub, publish_event{std::move(x)});
    co_return result<void>{};
  }
  deliver_event request{std::move(x)};
  co_return co_await ask<void>(self_, hub, std::move(request));
}

event session_impl::make_event(op operation, event_phase phase, std::string data) {
  event x;
  x.event_id = make_uuid();
  x.ts_us = std::chrono::duration_cast<std::chrono::microseconds>(
              std::chrono::system_clock::now().time_since_epoch())
              .count();
  x.session_id = record_.spec.id;
  x.tenant = record_.spec.tenant;
  x.seq = ++event_seq_;
  x.operation = operation;
  x.phase = phase;
  x.data = std::move(data);
  return x;
}

void session_impl::progress(op operation, std::string data) {
  auto now = now_ms();
  if (now - last_progress_ms_ < 100)
    return;
  last_progress_ms_ = now;
  auto x = make_event(operation, event_phase::progress, std::move(data));
  tell(self_, shared_.directory.events(), publish_event{std::move(x)});
}

} // namespace troupe::actors
