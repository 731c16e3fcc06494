#include "actors/session.hpp"
#include "messages/ids.hpp"

// Restore points of a running session, what changed since, and copies of it.

namespace troupe::actors {

namespace {

/// Sessions of forks that are not there by then will not come.
constexpr auto fork_patience = std::chrono::minutes{10};

} // namespace

snapshot_ref session_impl::stored_snapshot() const {
  return placed(shared_.config, record_.spec.state.snapshot, record_.spec.tenant);
}

snapshot_ref session_impl::snapshot_place(std::string id) const {
  auto ref = stored_snapshot();
  if (ref.kind == snapshot_kind::noop) {
    ref.kind = snapshot_kind::local;
    ref.base_path = snapshot_dir(shared_.config, record_.spec.tenant);
  }
  ref.id = std::move(id);
  return ref;
}

co<result<persist_snapshot>> session_impl::persist_request_for(snapshot_ref ref) {
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  persist_snapshot request;
  request.ref = std::move(ref);
  request.session_id = record_.spec.id;
  request.tenant = record_.spec.tenant;
  request.root = root_;
  request.layers = layers_;
  request.skip = persist_skip();
  request.manifest = std::make_shared<const manifest>(record_.spec.state.manifest);
  request.base = record_.live.base_snapshot;
  request.settle = true;
  request.stop = stop_.get_token();
  co_return request;
}

co<result<snapshot_outcome>> session_impl::persist_live(persist_snapshot request, bool stopped) {
  frozen_sandbox frozen;
  if (stopped) {
    auto held = co_await ask<frozen_sandbox>(self_, backend_, freeze_sandbox{});
    if (!held)
      co_return unexpected(std::move(held.error()));
    frozen = std::move(*held);
  }
  // What the server itself writes meanwhile is not stopped, but seen.
  auto before = server_writes_;
  bool quiet = frozen != nullptr && server_writing_ == 0;
  request.settle = !quiet;
  auto again = request;
  auto written
    = co_await ask<snapshot_outcome>(self_, shared_.directory.snapshots(), std::move(request));
  if (written && quiet && server_writes_ != before) {
    again.settle = true;
    written
      = co_await ask<snapshot_outcome>(self_, shared_.directory.snapshots(), std::move(again));
  }
  if (written && stopped && !frozen)
    written->warnings.push_back("the processes could not be stopped meanwhile; what was written "
                                "later may be there without what was written earlier");
  co_return written;
}

co<result<snapshot_outcome>> session_impl::checkpoint(checkpoint_session x) {
  auto turn = co_await lifecycle_.acquire();
  if (!up_)
    co_return unexpected(make_error(errc::conflict, op::snapshot_persist,
                                    "only a running session has a state to come back to"));
  auto id = make_uuid();
  auto pinned = shared_.pins.hold(id); // until the record says that it is needed
  auto request = co_await persist_request_for(snapshot_place(id));
  if (!request)
    co_return unexpected(std::move(request.error()));
  request->name = std::move(x.name);
  request->is_new = true;
  // Of a plain directory it may take long: that is looked at until it does not change.
  bool stopped = layers_ != nullptr;
  auto written = co_await persist_live(std::move(*request), stopped);
  if (!written)
    co_return written;
  record_.live.base_snapshot = written->info.id;
  record_.live.checkpoints.push_back(written->info.id);
  auto saved = co_await save();
  if (!saved)
    co_return unexpected(std::move(saved.error()));
  co_return written;
}

co<result<snapshot_ref>> session_impl::find_snapshot(std::string id, op operation) {
  list_snapshots query{record_.spec.tenant, id, 1, ""};
  auto found = co_await ask<snapshot_page>(self_, shared_.directory.registry(), std::move(query));
  if (!found)
    co_return unexpected(std::move(found.error()));
  if (found->items.empty())
    co_return unexpected(
      make_error(errc::not_found, operation, "no such snapshot").with("snapshot_id", id));
  snapshot_ref ref;
  ref.kind = snapshot_kind::local; // a folder, also of a remote one
  ref.id = id;
  ref.base_path = found->items.front().base_path;
  co_return ref;
}

co<result<session_view>> session_impl::rewind(rewind_session x) {
  auto turn = co_await lifecycle_.acquire();
  if (!up_)
    co_return unexpected(
      make_error(errc::conflict, op::snapshot_restore, "only a running session can go back"));
  auto pinned = shared_.pins.hold(x.snapshot_id);
  auto ref = co_await find_snapshot(x.snapshot_id, op::snapshot_restore);
  if (!ref)
    co_return unexpected(std::move(ref.error()));
  // What runs works in the tree that goes.
  abandon([](const auto&) { return true; });
  auto quiet = co_await end_terminals(std::nullopt);
  (void) quiet;
  auto closed = co_await detach_mounts();
  if (closed)
    closed = co_await ask<void>(self_, backend_, close_sandbox{});
  if (!closed)
    co_return unexpected(std::move(closed.error()));
  open_ = false;
  set_root(nullptr);
  auto restored = co_await restore(*ref);
  // Whatever came of it, the session goes on with the tree that is there.
  auto opened = co_await ensure_open();
  if (restored) {
    record_.live.snapshot_fingerprint.reset();
    record_.live.snapshot_fingerprint_version.reset();
  }
  auto saved = co_await save();
  if (!restored)
    co_return unexpected(std::move(restored.error()));
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  if (!saved)
    co_return unexpected(std::move(saved.error()));
  auto whole = std::make_shared<const manifest>(record_.spec.state.manifest);
  auto applied = co_await materialize(std::move(whole), true);
  if (!applied)
    co_return unexpected(std::move(applied.error()));
  co_return view();
}

co<result<workspace_diff>> session_impl::diff(diff_session x) {
  auto from = x.from.empty() ? record_.live.base_snapshot : x.from;
  auto pinned = shared_.pins.hold(from);
  if (from.empty())
    co_return unexpected(make_error(errc::snapshot_not_restorable, op::read,
                                    "the session has no snapshot to compare with"));
  if (!x.to.empty()) {
    diff_snapshots question{record_.spec.tenant, from, x.to, x.text};
    co_return co_await ask<workspace_diff>(self_, shared_.directory.snapshots(),
                                           std::move(question));
  }
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto ref = co_await find_snapshot(from, op::read);
  if (!ref)
    co_return unexpected(std::move(ref.error()));
  diff_live_tree question{*ref,   record_.spec.tenant, root_, layers_, persist_skip(),
                          x.text, stop_.get_token()};
  co_return co_await ask<workspace_diff>(self_, shared_.directory.snapshots(), std::move(question));
}

co<result<fork_plan>> session_impl::fork(fork_session x) {
  auto turn = co_await lifecycle_.acquire();
  if (!up_)
    co_return unexpected(
      make_error(errc::conflict, op::create, "only a running session can be forked"));
  auto request = co_await persist_request_for(snapshot_place(x.ids.at(0)));
  if (!request)
    co_return unexpected(std::move(request.error()));
  request->session_id = x.ids.at(0); // each copy owns its snapshot
  request->is_new = true;
  request->copies.assign(x.ids.begin() + 1, x.ids.end());
  // Until their sessions are made of them.
  shared_.pins.expect(x.ids, std::chrono::steady_clock::now() + fork_patience);
  auto written = co_await persist_live(std::move(*request), true);
  if (!written) {
    for (const auto& id : x.ids)
      shared_.pins.arrived(id);
    co_return unexpected(std::move(written.error()));
  }
  fork_plan plan;
  plan.spec = record_.spec;
  auto& state = plan.spec.state;
  state.snapshot = snapshot_place("");
  state.manifest.root = manifest{}.root; // a folder of its own
  state.workspace_root_owned = false;
  state.workspace_root_ready = false;
  state.snapshot_fingerprint.reset();
  state.snapshot_fingerprint_version.reset();
  plan.spec.id.clear();
  plan.spec.labels.clear();
  plan.spec.start = true;
  plan.spec.resumed = true;
  plan.warnings = std::move(written->warnings);
  co_return plan;
}

} // namespace troupe::actors
