#pragma once

#include "actors/layer_claim.hpp"
#include "backends/backend.hpp"
#include "messages/interfaces.hpp"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

// Messages and handles that hold descriptors, closures or shared pointers: they never leave the
// process, and a handle that takes them is never published to another node.

namespace troupe::actors {

using backends::shared_fd;

// -- backend
// ------------------------------------------------------------------------------------------

/// Brings the sandbox up. Fine when it is up already.
struct open_sandbox {};

/// Opens the workspace root anew after a restore replaced it.
struct reopen_root {};

/// Puts an empty tree above held layers in the workspace's place, and opens that; see
/// `sandbox::rebase`.
struct rebase_sandbox {
  std::shared_ptr<layer_claim> claim;
};

/// Why no workspace can lie on layers; empty: one can.
struct why_no_layers {};

/// Stops all processes; see `sandbox::freeze`.
struct freeze_sandbox {};

/// While it lives, nothing inside runs. Null: it could not be stopped.
using frozen_sandbox = std::shared_ptr<const void>;

struct sandbox_ready {
  shared_fd root;
  std::shared_ptr<const backends::layered_workspace> layers; ///< null: a plain directory
  std::vector<backends::wall> walls;
  /// Who file operations for a user are done as; see `sandbox::file_identity`. Does not block.
  std::function<result<std::optional<backends::user_ids>>(const std::optional<std::string>&)>
    identity;
  /// The "/" that commands see; see `sandbox::file_system`. Blocks.
  std::function<result<unique_fd>()> file_system;
};

/// Asks for a stream to a port inside; see `sandbox::connect`.
struct connect_port {
  uint16_t port = 0;
  std::function<void(result<unique_fd>)> done;
};

/// Kills everything inside; the workspace stays.
struct close_sandbox {};

/// Closes the sandbox and removes its private directory, with an owned workspace.
struct remove_sandbox {};

struct get_usage {};

/// A command with the manifest's environment. Descriptors that are set replace pipes.
struct sandbox_exec {
  uint64_t call_id = 0;
  exec_request request;
  std::vector<std::pair<std::string, std::string>> environment;
  shared_fd stdin_fd;
  shared_fd stdout_fd;
  shared_fd stderr_fd;
};

/// An interactive process with the manifest's environment.
struct sandbox_terminal {
  uint64_t call_id = 0;
  exec_request request;
  std::vector<std::pair<std::string, std::string>> environment;
  bool tty = false;
  int32_t rows = 24;
  int32_t cols = 80;
  /// Called by the terminal's actor, on its turn, when the process has ended.
  std::function<void()> on_end;
};

struct terminal_input {
  uint64_t call_id = 0;
  std::vector<char> data;
};

struct terminal_size {
  uint64_t call_id = 0;
  int32_t rows = 0;
  int32_t cols = 0;
};

/// The live sandbox of one session.
using backend_actor
  = actor_handle<caf::result<sandbox_ready>(open_sandbox), caf::result<sandbox_ready>(reopen_root),
                 caf::result<sandbox_ready>(rebase_sandbox),
                 caf::result<std::string>(why_no_layers),
                 caf::result<frozen_sandbox>(freeze_sandbox), caf::result<void>(close_sandbox),
                 caf::result<void>(remove_sandbox), caf::result<session_usage>(get_usage),
                 // Collects output.
                 caf::result<exec_result>(sandbox_exec),
                 // Sends output and the end to a sink, and answers at the end.
                 caf::result<exec_result>(sandbox_exec, exec_sink_actor),
                 // The same for an interactive process.
                 caf::result<exec_result>(sandbox_terminal, exec_sink_actor),
                 // Answers once the terminal has taken the bytes.
                 caf::result<void>(terminal_input), caf::result<void>(terminal_size),
                 caf::result<void>(connect_port), caf::result<void>(exec_cancel),
                 caf::result<void>(exec_grant), caf::result<void>(action)>;

// -- terminal
// -----------------------------------------------------------------------------------------

/// Types `chars` if there are any, then answers with the output of `yield_ms`, or of less if the
/// process ends. The answer has no process id.
struct collect_terminal {
  std::string chars;
  int64_t yield_ms = 0;
  std::optional<int64_t> max_tokens;
};

/// Kills the process with its tree; answers when it is gone.
struct end_terminal {};

/// One interactive process.
using terminal_actor = with_actions<exec_sink_actor>::extend<
  caf::replies_to<collect_terminal>::with<terminal_update>,
  caf::replies_to<read_terminal>::with<terminal_bytes>, caf::reacts_to<type_terminal>,
  caf::reacts_to<resize_terminal>, caf::reacts_to<end_terminal>>;

// -- session
// ------------------------------------------------------------------------------------------

/// From the supervisor: the sandbox died, here is a new one for the same workspace.
struct backend_replaced {
  backend_actor backend;
  bool after_crash = true;
};

/// From the supervisor, after the process that ran the session died: start over what it left.
struct recover_session {};

/// A command whose streams are descriptors of this process (`troupe run`).
struct attached_exec {
  sandbox_exec exec;
};

/// What a session actor takes inside its process.
using local_session_actor
  = with_actions<session_actor>::extend<caf::reacts_to<backend_replaced>,
                                        caf::reacts_to<backends::sandbox_notice>,
                                        caf::replies_to<recover_session>::with<session_view>,
                                        caf::replies_to<attached_exec>::with<exec_result>>;

/// Asks a supervisor for the handle that takes local messages.
struct lookup_local {
  std::string id;
};

/// Rebuilds a supervisor's table from the registry; the first thing asked of it.
struct load_shard {};

/// What a supervisor takes inside its process.
using local_supervisor_actor
  = with_actions<supervisor_actor>::extend<caf::replies_to<lookup_local>::with<local_session_actor>,
                                           caf::reacts_to<load_shard>>;

// -- snapshots
// ----------------------------------------------------------------------------------------

struct persist_snapshot {
  snapshot_ref ref;
  std::string session_id;
  std::string tenant;
  shared_fd root;
  std::shared_ptr<const backends::layered_workspace> layers; ///< null: a plain directory
  std::vector<std::string> skip;                             ///< sorted
  std::shared_ptr<const troupe::manifest> manifest;
  /// Called on the job's thread.
  std::function<void(uint64_t files, uint64_t bytes)> report;
  std::string base; ///< id of the snapshot that the workspace came from or was last saved to
  std::string name;
  bool settle = false; ///< others write to the tree meanwhile
  /// The same snapshot for sessions that are to be made: their ids, which are their snapshots',
  /// too.
  std::vector<std::string> copies;
  std::stop_token stop; ///< nobody needs it any more
  /// It has no names but new ones: written too late, it is removed again.
  bool is_new = false;
};

/// The fingerprint of a live tree, to compare with a recorded one.
struct compute_fingerprint {
  snapshot_ref ref; ///< what the tree is compared with
  std::string base; ///< id of what it came from
  std::string tenant;
  shared_fd root;
  std::shared_ptr<const backends::layered_workspace> layers; ///< null: a plain directory
  std::vector<std::string> skip;                             ///< sorted
  std::shared_ptr<const troupe::manifest> manifest;
  std::stop_token stop; ///< nobody needs it any more
};

/// What changed since a snapshot in a live tree.
struct diff_live_tree {
  snapshot_ref from;
  std::string tenant;
  shared_fd root;
  std::shared_ptr<const backends::layered_workspace> layers; ///< null: a plain directory
  std::vector<std::string> skip;
  bool text = false;
  std::stop_token stop; ///< nobody needs it any more
};

/// Unpacks the layers of a snapshot and keeps them for a workspace.
struct hold_layers {
  snapshot_ref ref;
  std::string session_id;
  std::string tenant;
  std::stop_token stop; ///< nobody needs it any more
};

struct layers_held {
  std::shared_ptr<layer_claim> claim; ///< null: that snapshot has no layers
  std::shared_ptr<const void> lease;  ///< until somebody else has one
};

using local_snapshot_store_actor = with_actions<snapshot_store_actor>::extend<
  caf::replies_to<hold_layers>::with<layers_held>,
  caf::replies_to<persist_snapshot>::with<snapshot_outcome>,
  caf::replies_to<compute_fingerprint>::with<std::string>,
  caf::replies_to<diff_live_tree>::with<workspace_diff>>;

// -- manifests
// ----------------------------------------------------------------------------------------

/// How far an application has come.
struct apply_progress {
  uint32_t done = 0;
  uint32_t total = 0;
};

/// One unit of materialisation. `run` blocks and belongs on the I/O pool; `attempts` are commands
/// (git) that run in a sandbox first: the first attempt that succeeds ends them.
struct entry_job {
  std::string name; ///< the entry's path, for errors and events
  /// Runs on the I/O pool before the commands; may be empty.
  std::function<result<void>()> prepare;
  std::function<result<std::vector<materialized_file>>()> run;
  std::vector<std::vector<std::vector<std::string>>> attempts;
  std::map<std::string, std::string> environment; ///< of the commands, before the manifest's
  /// A sandbox for the commands alone, which has ended when `run` runs and is removed after it.
  /// nullopt: they run in the session's.
  std::optional<backends::sandbox_config> own_sandbox;
  /// Makes the error of a command that failed, or that could not be run at all.
  std::function<error(const std::vector<std::string>& argv, const result<exec_result>&)>
    command_error;
  /// Runs on the I/O pool whatever happened, last.
  std::function<void()> cleanup;
};

using entry_job_ptr = std::shared_ptr<const entry_job>;

/// Does one job, answers, ends.
using entry_actor
  = actor_handle<caf::result<materialized_files>(entry_job_ptr), caf::result<void>(action)>;

struct run_application {};

/// One application of a manifest.
using manifest_supervisor_actor = actor_handle<caf::result<materialized_files>(run_application)>;

} // namespace troupe::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::open_sandbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::reopen_root)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::rebase_sandbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::why_no_layers)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::freeze_sandbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::frozen_sandbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::sandbox_ready)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::connect_port)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::close_sandbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::remove_sandbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::get_usage)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::sandbox_exec)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::sandbox_terminal)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::terminal_input)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::terminal_size)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::collect_terminal)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::end_terminal)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::backend_replaced)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::backends::sandbox_notice)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::attached_exec)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::recover_session)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::lookup_local)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::load_shard)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::local_session_actor)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::persist_snapshot)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::compute_fingerprint)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::diff_live_tree)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::hold_layers)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::layers_held)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::entry_job_ptr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::run_application)
