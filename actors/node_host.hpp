#pragma once

#include "actors/services.hpp"

#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>

#include <functional>
#include <memory>

namespace troupe::actors {

/// CAF's settings for this project: a worker per core, no actor may hold one for more than a
/// hundred messages in a row, no exception is swallowed silently.
class system_config : public caf::actor_system_config {
public:
  system_config();
};

/// Everything a process needs to run sessions, made and ended in the right order: pools, reactor,
/// actor system, node. The server, `troupe run`, the benchmarks and the tests are all built on
/// this.
class node_host {
public:
  /// Opens (or makes) the state directory, recovers what is in it, removes what nobody knows.
  /// `fatal` is called on a worker thread when the actors die too often.
  static result<std::unique_ptr<node_host>> start(node_config config, std::function<void()> fatal);

  /// Kills what still runs. Call `shutdown` first to keep the workspaces.
  ~node_host();

  node_host(const node_host&) = delete;
  node_host& operator=(const node_host&) = delete;

  /// Stops every running session into its snapshot, within `deadline`; event sinks get at least
  /// another second.
  result<shutdown_report> shutdown(std::chrono::milliseconds deadline);

  services& shared() {
    return *services_;
  }
  caf::actor_system& system() {
    return *system_;
  }
  node_actor node() const {
    return node_;
  }
  local_supervisor_actor supervisor_of(const std::string& session_id) const;

  /// The objects that `session_id` may use, made from the configuration's when first asked for and
  /// closed at the end of the session's `close`, or when it is deleted; null: no such session here.
  std::shared_ptr<workspace::dependencies> dependencies_of(const std::string& session_id);

  /// Asks from a thread that is no actor, and waits.
  template <class R, class Handle, class... Ts>
  result<R> ask(const Handle& handle, Ts... xs) {
    caf::scoped_actor self{*system_};
    result<R> out = unexpected(make_error(errc::interrupted, op::request, "no answer"));
    auto on_error = [&](caf::error& e) { out = unexpected(from_caf(e)); };
    auto pending = self->request(handle, caf::infinite, std::move(xs)...);
    if constexpr (std::is_void_v<R>)
      pending.receive([&] { out = result<void>{}; }, on_error);
    else
      pending.receive([&](R& x) { out = std::move(x); }, on_error);
    return out;
  }

private:
  node_host() = default;

  result<void> make_sinks();
  /// Brings what was published to the journal and the sinks.
  void flush_events(std::chrono::milliseconds at_most);

  std::unique_ptr<backends::runtime> runtime_;
  std::unique_ptr<snapshot::repository> repository_;
  std::unique_ptr<backends::thread_pool> io_;
  std::unique_ptr<backends::thread_pool> cpu_;
  std::unique_ptr<services> services_;
  std::unique_ptr<system_config> caf_config_;
  std::unique_ptr<caf::actor_system> system_;
  node_actor node_;
};

} // namespace troupe::actors
