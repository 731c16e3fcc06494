#pragma once

#include "actors/coroutine.hpp"
#include "actors/services.hpp"

#include <deque>
#include <functional>
#include <memory>

namespace troupe::actors {

class registry_db;

/// The root of a process: makes the registry, the event hub, the snapshot store and the
/// supervisors, starts them again when one dies, and ends them in order.
class node_state {
public:
  using handle_type = with_actions<node_actor>::extend<
    // Spawns everything; answers when every shard is loaded.
    caf::reacts_to<load_shard>>;
  static constexpr const char* name = "troupe.node";

  /// `fatal` is called when the actors below die too often: the process should end, and what comes
  /// up next recovers from the registry.
  node_state(self_ptr<handle_type> self, services& shared, std::shared_ptr<registry_db> db,
             std::function<void()> fatal);

  handle_type::behavior_type make_behavior();

private:
  co<result<void>> start();
  co<result<node_info>> info();
  co<result<shutdown_report>> shutdown(shutdown_node x);

  void spawn_registry();
  void spawn_events();
  void spawn_snapshots();
  void spawn_supervisor(uint32_t shard);
  /// Runs `again` unless the node goes down or too much has died lately.
  void restart(const std::function<void()>& again);

  self_ptr<handle_type> self_;
  services& shared_;
  std::shared_ptr<registry_db> db_;
  std::function<void()> fatal_;
  watcher<std::remove_pointer_t<self_ptr<handle_type>>> watch_;
  std::deque<std::chrono::steady_clock::time_point> restarts_;
  bool down_ = false;
  task_scope scope_;
};

} // namespace troupe::actors
