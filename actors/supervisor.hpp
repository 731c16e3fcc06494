#pragma once

#include "actors/backend.hpp"
#include "actors/coroutine.hpp"
#include "actors/offload.hpp"
#include "actors/services.hpp"
#include "actors/session.hpp"

#include <deque>
#include <map>
#include <memory>
#include <string>

namespace troupe::actors {

/// A shard of the node's sessions: makes them, watches them, starts them again when they die,
/// removes them. Session and backend are siblings below this actor, so that each survives the
/// other.
class supervisor_state {
public:
  using handle_type = local_supervisor_actor;
  static constexpr const char* name = "troupe.supervisor";

  supervisor_state(self_ptr<handle_type> self, services& shared, uint32_t shard);

  handle_type::behavior_type make_behavior();

private:
  // -- member types
  // -----------------------------------------------------------------------------------

  using time_point = std::chrono::steady_clock::time_point;

  enum class child_phase {
    running,
    restarting, ///< between two lives
    failed,     ///< restarts are used up; the workspace is kept
    removing,
  };

  struct child {
    std::string id;
    std::string tenant;
    child_phase phase = child_phase::running;
    local_session_actor session;
    backend_actor backend;
    std::optional<error> last_error;
    std::deque<time_point> session_restarts;
    std::deque<time_point> backend_restarts;
    backends::sandbox_config sandbox;
    backend_kind kind = backend_kind::unix_local;
    bool has_snapshots = false;
  };

  // -- requests
  // ---------------------------------------------------------------------------------------

  co<result<session_view>> create(session_spec spec);
  co<result<session_view>> resume(session_spec spec);
  co<result<session_view>> peek(peek_session x);
  co<result<void>> remove(remove_session x);
  /// Removes what a session saved: its checkpoints and, with `has_snapshots`, its snapshot.
  co<result<void>> drop_snapshots(std::string id, std::string tenant, bool has_snapshots);
  co<result<drain_report>> drain(drain_sessions x);
  caf::result<session_actor> lookup(const lookup_session& x);

  // -- children
  // ---------------------------------------------------------------------------------------

  /// Checks and completes what a client sent.
  result<void> complete(session_spec& spec) const;
  /// Writes the record, spawns the actors and starts the session if the spec says so.
  co<result<session_view>> launch_child(session_spec spec, uint64_t event_seq = 0);
  std::unique_ptr<child> make_child(const session_spec& spec) const;
  result<void> spawn_child(const session_record& record);
  /// Takes over the actors that a dead supervisor left; false if there are none.
  bool adopt(const session_record& record);
  result<backend_actor> spawn_backend(child& x);
  void spawn_session(child& x, session_record record, bool adopted);
  void forget_actors(child& x);
  co<result<void>> load();
  co<result<void>> restart_session(std::string id);
  /// Starts a session over what an earlier life left.
  co<result<session_view>> recover(local_session_actor session);
  co<result<void>> record_failure(std::string id, error why);

  void on_session_down(const std::string& id, const caf::error& reason);
  void on_backend_down(const std::string& id, const caf::error& reason);
  /// Notes a restart; nullopt when the window is used up, else how long to wait before it.
  std::optional<std::chrono::milliseconds> may_restart(std::deque<time_point>& window);
  void give_up(child& x, error reason);

  child* find(const std::string& id, const std::string& tenant);

  // -- member variables
  // -------------------------------------------------------------------------------

  self_ptr<handle_type> self_;
  services& shared_;
  uint32_t shard_;
  std::map<std::string, std::unique_ptr<child>> children_;
  watcher<std::remove_pointer_t<self_ptr<handle_type>>> watch_;
  /// No creations any more: the node goes down.
  bool draining_ = false;
  async_semaphore starts_;
  task_scope scope_;
};

} // namespace troupe::actors
