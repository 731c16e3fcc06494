#pragma once

#include "backends/backend.hpp"
#include "backends/pty.hpp"
#include "backends/spawner.hpp"
#include "messages/error.hpp"
#include "messages/unique_fd.hpp"

#include <cstdint>
#include <functional>

namespace troupe::backends {

/// Who starts the commands of a runner where they are no children of this process: the init of a
/// sandbox.
class command_host {
public:
  /// The exit code (-N: killed by signal N), or why it never ran.
  using on_end = std::function<void(result<int32_t>)>;
  using on_process = std::function<void(result<unique_fd>)>;

  virtual ~command_host() = default;

  /// Starts a command; the descriptors of `request` may be closed when this returns. `ended` runs
  /// on the reactor thread, as a task of its own, exactly once.
  virtual void start(command_id id, spawn_request request, on_end ended) = 0;

  /// A pidfd of a command, for killing it with its tree; `done` runs on the reactor thread.
  virtual void open_process(command_id id, on_process done) = 0;

  /// A terminal of the sandbox that belongs to `owner` inside.
  virtual result<pty> open_terminal(uint16_t rows, uint16_t cols, const user_ids& owner) = 0;
};

} // namespace troupe::backends
