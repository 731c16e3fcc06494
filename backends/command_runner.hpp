#pragma once

#include "backends/backend.hpp"
#include "backends/command_host.hpp"
#include "backends/process_tree.hpp"
#include "backends/reactor.hpp"
#include "backends/spawner.hpp"
#include "backends/thread_pool.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::backends {

/// What runners share.
struct runner_services {
  reactor& events;
  spawner& starts;
  thread_pool& kills;       ///< where trees are killed, which takes milliseconds
  session_ledger* sessions; ///< null: cgroups make it needless
};

/// Runs the commands of one life of a sandbox, from `open` to `shutdown`.
///
/// A command is answered when the process itself ends and what it left in its pipes is read.
/// Processes that it leaves behind may hold the pipes: they get a short grace, then their output is
/// read and dropped, so that they neither delay the answer nor die of a broken pipe.
///
/// Owned by a shared_ptr: watches and timers hold it too. Calls come from any thread.
class command_runner : public std::enable_shared_from_this<command_runner> {
public:
  /// `owner` names the sandbox; commands are born in `cgroup` if it is set.
  command_runner(runner_services services, std::string owner, shared_fd cgroup);

  /// `host` starts the commands.
  command_runner(runner_services services, std::string owner, std::shared_ptr<command_host> host);
  ~command_runner();

  command_runner(const command_runner&) = delete;
  command_runner& operator=(const command_runner&) = delete;

  command_id start(command_spec spec, command_handlers handlers);
  command_id open_terminal(command_spec spec, terminal_options options, terminal_handlers handlers);
  void write_terminal(command_id id, std::string bytes, std::function<void(result<void>)> done);
  void resize_terminal(command_id id, uint16_t rows, uint16_t cols);
  void grant(command_id id, int64_t bytes);
  void cancel(command_id id);

  /// Refuses new commands and cancels those that run; `done` runs on the reactor thread after the
  /// last `on_exit`. Once.
  void stop(std::function<void()> done);

  /// Reactor thread. Lets go of the pipes that left-over processes hold.
  void close_leftover_pipes();

private:
  struct command;
  struct stream;
  struct leftover;
  using command_ptr = std::shared_ptr<command>;

  // -- starting ----------------------------------------------------------------------------------

  command_id start(const command_ptr& c);
  result<void> open_streams(command& c);
  result<void> open_terminal_streams(command& c);
  void on_started(const command_ptr& c);
  void start_inside(const command_ptr& c, spawn_request request);
  void fail(const command_ptr& c, error why);

  // -- while it runs -----------------------------------------------------------------------------

  static uint32_t interest(const command& c, const stream& s);
  void write_input(command& c);
  void type(command& c);
  void on_ready(const command_ptr& c, stream& s, uint32_t events);
  void pump(command& c, stream& s, int reads);
  void take(command& c, stream& s, const char* data, size_t size);
  void close_stream(stream& s);
  void kill(const command_ptr& c);
  void kill_inside(const command_ptr& c);
  bool submit_kill(const command_ptr& c);

  // -- ending ------------------------------------------------------------------------------------

  void on_process_end(const command_ptr& c);
  void end(const command_ptr& c, int32_t exit_code);
  void settle(const command_ptr& c);
  void finish(const command_ptr& c);
  void release(const command_ptr& c, result<command_exit> outcome);
  void adopt(stream& s);
  void drain(uint64_t id);

  command_ptr find(command_id id);

  // -- member variables --------------------------------------------------------------------------

  runner_services services_;
  std::string owner_;
  shared_fd cgroup_;
  std::shared_ptr<command_host> host_; ///< null: they are children of this process

  std::mutex mutex_;
  std::unordered_map<command_id, command_ptr> commands_; ///< guarded
  bool stopped_ = false;                                 ///< guarded
  std::function<void()> on_stopped_;                     ///< guarded

  // -- reactor thread only
  int64_t buffered_ = 0; ///< bytes of collected output, of all commands
  std::unordered_map<uint64_t, leftover> leftovers_;
  uint64_t next_leftover_ = 1;
};

} // namespace troupe::backends
