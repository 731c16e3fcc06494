#pragma once

#include "actors/coroutine.hpp"
#include "actors/offload.hpp"
#include "actors/services.hpp"

#include <memory>
#include <unordered_map>

namespace troupe::actors {

/// The live sandbox of one session. When this actor ends, however it ends, the sandbox is killed
/// whole.
class backend_state {
public:
  using handle_type = backend_actor;
  static constexpr const char* name = "troupe.backend";

  backend_state(self_ptr<handle_type> self, services& shared, std::string session_id,
                std::string tenant, std::shared_ptr<backends::sandbox> sandbox);

  handle_type::behavior_type make_behavior();

private:
  /// A command that runs: what the caller's id means to the sandbox.
  struct running_command {
    reply_to<exec_result> reply;
    exec_sink_actor sink; ///< invalid: output is collected
    std::vector<std::string> argv;
    std::optional<std::chrono::nanoseconds> timeout;
    backends::command_id id = 0;
    uint64_t seq = 0; ///< of the last piece of output
  };

  /// Runs a step of the sandbox that opens its root, on the I/O pool.
  co<result<sandbox_ready>> ready_after(std::function<result<void>(backends::sandbox&)> step);
  co<result<frozen_sandbox>> freeze();
  co<result<void>> remove();
  co<result<void>> close();

  /// Passed on to the session; the end of the sandbox is the end of this actor.
  void on_notice(backends::sandbox_notice x);

  caf::result<exec_result> exec(sandbox_exec& x, exec_sink_actor sink);
  caf::result<exec_result> open_terminal(sandbox_terminal& x, exec_sink_actor sink);
  caf::result<void> type(terminal_input& x);
  /// Registers a command that is about to start.
  running_command& add(uint64_t call_id, reply_to<exec_result> reply, exec_sink_actor sink,
                       const backends::command_spec& spec);
  /// The callbacks of a command; they hold no promise, since the reactor may drop them after this
  /// actor has died.
  std::function<void(result<backends::command_exit>)> exit_handler(uint64_t call_id);
  std::function<void(stream_id, std::vector<char>)> output_handler(uint64_t call_id);
  void deliver(uint64_t call_id, stream_id stream, std::vector<char> data);
  void finished(uint64_t call_id, result<backends::command_exit> outcome);

  self_ptr<handle_type> self_;
  services& shared_;
  std::string session_id_;
  std::string tenant_;
  std::shared_ptr<backends::sandbox> sandbox_;
  std::unordered_map<uint64_t, running_command> commands_;
  /// Writes into terminals that were not taken yet.
  std::unordered_map<uint64_t, reply_to<void>> inputs_;
  uint64_t next_input_ = 1;
  async_semaphore steps_{scope_, 1}; ///< one opens, or removes, at a time
  task_scope scope_;
};

} // namespace troupe::actors
