#pragma once

#include "backends/user_ids.hpp"
#include "messages/error.hpp"
#include "messages/unique_fd.hpp"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace troupe::backends {

/// One process to start. The descriptors must stay open until the callback.
struct spawn_request {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string cwd;
  int stdin_fd = -1; ///< -1: /dev/null
  int stdout_fd = -1;
  int stderr_fd = -1;
  int kept_out = -1; ///< our end of stdout, for an init that outlives us
  int kept_err = -1;
  bool controlling_terminal = false; ///< `stdin_fd` is a terminal; it becomes the child's
  int cgroup_fd = -1;                ///< a cgroup v2 directory to be born in; -1: ours
  user_ids as;                       ///< heeded by sandboxes with users of their own only
};

/// Whether the kernel could take it at all: a command, no NUL in a string.
result<void> check_spawn(const spawn_request& request);

/// Why `request` did not start. `code` is an errno; `of_directory`: from changing to its directory.
error spawn_error(const spawn_request& request, int code, bool of_directory);

struct spawned {
  pid_t pid = -1;
  unique_fd pidfd;
};

/// Threads that start processes: `clone3` with VM, VFORK and PIDFD, never fork, so that the cost
/// does not grow with this process (fork takes 13 ms at 1 GiB). The clone shares the descriptor
/// table and unshares only its first few slots, so that the cost does not grow with open
/// descriptors either.
///
/// The child runs in a new session, with default signals, an empty signal mask, only its three
/// streams open, as a subreaper (its orphans come to it, so that its tree can be killed whole), and
/// dies with the server.
class spawner {
public:
  using callback = std::function<void(result<spawned>)>;

  /// `capacity` bounds the requests waiting.
  explicit spawner(size_t threads = 2, size_t capacity = 4096);
  ~spawner();

  spawner(const spawner&) = delete;
  spawner& operator=(const spawner&) = delete;

  /// Queues a start; `done` runs on a spawner thread. False if the queue is full.
  /// An exec that fails is an `exec_transport_error` with context `errno` and `detail`.
  bool submit(spawn_request request, callback done);

  /// Refuses what waits, joins the threads; what they started is killed by the kernel. Idempotent.
  void stop();

  /// Takes the exit code (-N: killed by signal N) of a process of ours; nullopt while it runs.
  /// Whoever got a process must come for it here and nowhere else. Any thread.
  std::optional<int32_t> reap(const spawned& process);

  /// Reaps what we inherited as a subreaper: ended children that this spawner did not start.
  void reap_orphans();

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace troupe::backends
