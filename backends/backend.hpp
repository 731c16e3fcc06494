#pragma once

#include "backends/user_ids.hpp"
#include "messages/error.hpp"
#include "messages/exec.hpp"
#include "messages/session.hpp"
#include "messages/unique_fd.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace troupe::backends {

/// A descriptor that several owners share; closed with the last of them.
using shared_fd = std::shared_ptr<const unique_fd>;

/// A program to start, ready for the kernel: nothing in here is looked up or expanded any more
/// (but `argv[0]` without a slash is searched in the PATH of `env`).
struct command_spec {
  std::vector<std::string> argv;
  std::vector<std::string> env; ///< "NAME=value"
  std::string cwd;              ///< absolute

  // -- streams: a descriptor that is set is handed to the program as it is; the others are pipes --
  shared_fd stdin_fd;
  shared_fd stdout_fd;
  shared_fd stderr_fd;
  std::string stdin_data; ///< written to the input pipe, which is then closed; empty: /dev/null

  /// Streamed: output goes to `command_handlers::on_output` as credit allows. Otherwise it is
  /// collected into `command_exit`.
  bool streamed = false;
  /// Streamed: bytes of output that may be delivered before the first `grant`.
  int64_t credit = 256 * 1024;
  /// Collected: bytes kept of each stream. What exceeds it is read, dropped and reported.
  int64_t output_limit = 1024 * 1024;
  std::optional<std::chrono::nanoseconds> timeout;
  user_ids as; ///< inside the sandbox; for those with users of their own
};

/// How a command ended.
struct command_exit {
  int32_t exit_code = 0; ///< -N: killed by signal N
  bool timed_out = false;
  bool cancelled = false;
  std::string stdout_data;
  std::string stderr_data;
  bool stdout_truncated = false;
  bool stderr_truncated = false;
  std::chrono::nanoseconds wall{0};
};

/// Where a command reports. Both run on the reactor thread and must not block.
struct command_handlers {
  /// Exactly once. An error means that the program never ran.
  std::function<void(result<command_exit>)> on_exit;
  /// Streamed output, in the order it was read; never after `on_exit`.
  std::function<void(stream_id, std::vector<char>)> on_output;
};

using command_id = uint64_t;

/// What an interactive process runs in.
struct terminal_options {
  /// A terminal that controls the process, for input and output. Otherwise the process has an empty
  /// input and one pipe for both outputs.
  bool tty = false;
  uint16_t rows = 24;
  uint16_t cols = 80;
};

/// Where an interactive process reports. Both run on the reactor thread and must not block.
struct terminal_handlers {
  /// Exactly once. An error means that the program never ran.
  std::function<void(result<command_exit>)> on_exit;
  /// What it puts out, both outputs in the order of arrival; never after `on_exit`.
  std::function<void(std::vector<char>)> on_output;
};

/// Names layers that are held for a workspace: a hidden snapshot.
struct held_layers {
  std::string base_path;
  std::string id;
};

/// Layers, unpacked on this machine.
struct unpacked_layers {
  std::vector<std::string> folders;  ///< the oldest first
  std::vector<std::string> digests;  ///< of the same
  std::shared_ptr<const void> lease; ///< while it lives, they stay
};

/// Where layers come from. Any thread; all calls block.
class layer_source {
public:
  virtual ~layer_source() = default;
  virtual result<unpacked_layers> lease(const held_layers& held) = 0;
  /// No workspace lies on them any more.
  virtual void release(const held_layers& held) = 0;
};

/// A workspace that lies on layers.
struct layered_workspace {
  held_layers held;
  unpacked_layers below;
  shared_fd upper; ///< the tree of what was changed
};

/// What a sandbox is made from.
struct sandbox_config {
  std::string session_id;
  /// A private directory of this session (mode 0700), made by `open` and removed by `remove`.
  std::string private_dir;
  /// The workspace root; made by `open` if missing.
  std::string workspace_root;
  /// Whether `workspace_root` lies inside `private_dir` and goes with it.
  bool root_owned = true;
  /// Names of host environment variables that commands may see.
  std::vector<std::string> env_allowlist;

  // -- for sandboxes with walls ------------------------------------------------------------------

  /// Where the workspace is inside.
  std::string inside_root = "/workspace";
  session_limits limits;
  network_mode network = network_mode::none;
  std::vector<std::string> network_allow; ///< of network_mode::allow
  /// Users and groups that exist inside.
  std::vector<user> users;
  std::vector<group> groups;
  /// For workspaces that lie on layers; null: there are none.
  std::shared_ptr<layer_source> layers;
};

using wall = session_wall;

/// What happened to a sandbox, or in it, without a call of ours.
struct sandbox_notice {
  op operation = op::sandbox;
  std::string data = "{}"; ///< JSON object
  std::optional<error> failure;
  bool lost = false; ///< the sandbox is gone, with all that ran in it
};

/// One live sandbox. Calls come from any thread; those marked (blocks) belong on the I/O pool.
/// The destructor kills whatever still runs in it, without waiting.
class sandbox {
public:
  virtual ~sandbox() = default;

  /// Who is told of what happens by itself; before `open`. `told` runs on threads of the backend
  /// and must not block.
  virtual void observe(std::function<void(sandbox_notice)> told) {
    (void) told;
  }

  /// (blocks) Makes what the sandbox needs. May be called again after `shutdown`.
  virtual result<void> open() = 0;

  /// The workspace root; empty before `open`. After the tree was swapped: see `reopen_root`.
  virtual shared_fd root() const = 0;

  /// (blocks) Opens the workspace root anew, after a restore has put another directory in its
  /// place.
  virtual result<void> reopen_root() = 0;

  /// Why no workspace can lie on layers here; empty: one can.
  virtual std::string why_no_layers() const {
    return "this backend has no overlays";
  }

  /// (blocks) Puts an empty tree above these layers in the workspace's place, and opens that. What
  /// runs is ended. `held` is the sandbox's from now on: it is released when nothing lies on it.
  /// On failure the old tree is there, not open; `backend_unavailable`: see `why_no_layers`.
  virtual result<void> rebase(held_layers held) {
    (void) held;
    return unexpected{make_error(errc::backend_unavailable, op::start, why_no_layers())};
  }

  /// What the workspace lies on; null: it is a plain directory, or not open.
  virtual std::shared_ptr<const layered_workspace> layers() const {
    return nullptr;
  }

  /// (blocks) Stops all processes until what it gives is gone; null: that cannot be done here.
  virtual std::shared_ptr<const void> freeze() {
    return nullptr;
  }

  /// The argument vector, directory and environment that `request` means here. `environment` is the
  /// manifest's, resolved. Refuses what this backend cannot do (a user, say).
  virtual result<command_spec>
  prepare(const exec_request& request,
          const std::vector<std::pair<std::string, std::string>>& environment) const = 0;

  /// Who file operations for `user` are done as, in ids of this process's namespace; nullopt: as
  /// this process. Refuses a user that there is not.
  virtual result<std::optional<user_ids>>
  file_identity(const std::optional<std::string>& user) const = 0;

  /// (blocks) The "/" that commands see. Errors: `conflict` when it is not open.
  virtual result<unique_fd> file_system() const = 0;

  /// A stream to what listens at `port` of the sandbox's loopback: connected or about to be, and
  /// not blocking. Empty where that is this machine's own loopback. `done` runs on the reactor
  /// thread.
  virtual void connect(uint16_t port, std::function<void(result<unique_fd>)> done) = 0;

  /// Starts a command. `on_exit` comes also when it cannot be started.
  virtual command_id exec(command_spec spec, command_handlers handlers) = 0;

  /// Starts an interactive process: a streamed command whose streams are as `options` say,
  /// whatever `spec` says of them. Ends like any command: by itself, its timeout or `cancel`; what
  /// it has put out by then is delivered first, so that `on_exit` waits for credit.
  virtual command_id open_terminal(command_spec spec, terminal_options options,
                                   terminal_handlers handlers)
    = 0;

  /// Types into a terminal. `done` runs on the reactor thread once the terminal has taken all of
  /// it, which may take as long as the program does not read; at once with `overloaded` if more
  /// than 1 MiB would be waiting, with `conflict` if the process has no terminal. Input for
  /// a process that has ended is thrown away without an error.
  virtual void write_terminal(command_id id, std::string bytes,
                              std::function<void(result<void>)> done)
    = 0;

  /// Resizes a terminal; its foreground gets SIGWINCH. Nothing where there is none.
  virtual void resize_terminal(command_id id, uint16_t rows, uint16_t cols) = 0;

  /// Lets a streamed command or an interactive process deliver `bytes` more.
  virtual void grant(command_id id, int64_t bytes) = 0;

  /// Kills a command or an interactive process with its whole process tree; `on_exit` reports
  /// `cancelled`.
  virtual void cancel(command_id id) = 0;

  /// Kills everything that was ever started here and is still alive; `done` runs on the reactor
  /// thread once all of it is gone. The workspace stays.
  virtual void shutdown(std::function<void()> done) = 0;

  /// (blocks) Removes the private directory, and with it an owned workspace. Idempotent.
  virtual result<void> remove() = 0;

  /// What the sandbox uses now.
  virtual session_usage usage() const = 0;

  /// The walls around it, for the session record.
  virtual std::vector<wall> walls() const = 0;
};

} // namespace troupe::backends
