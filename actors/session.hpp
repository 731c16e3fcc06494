#pragma once

#include "actors/coroutine.hpp"
#include "actors/offload.hpp"
#include "actors/services.hpp"
#include "snapshot/extract.hpp"
#include "workspace/file_ops.hpp"
#include "workspace/patch_text.hpp"
#include "workspace/path_policy.hpp"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

namespace troupe::actors {

/// One session: the lifecycle, its commands and its files. The sandbox belongs to the backend actor
/// beside it, so that a fault in here leaves the agent's processes alone; durable facts belong to
/// the registry, so that another life of this actor can go on where this one ended.
///
/// session.cpp has the lifecycle, session_exec.cpp the commands, session_terminals.cpp the
/// interactive ones, session_files.cpp the files, session_changes.cpp patches, archives and ports,
/// session_snapshots.cpp restore points, differences and forks.
class session_impl {
public:
  using handle_type = local_session_actor;
  static constexpr const char* name = "troupe.session";

  /// `adopted`: an earlier life of this session left a live backend behind.
  session_impl(self_ptr<handle_type> self, services& shared, session_record record,
               backend_actor backend, bool adopted);
  ~session_impl();

  handle_type::behavior_type make_behavior();

private:
  // -- member types
  // ---------------------------------------------------------------------------------

  struct hook {
    std::string id;
    add_pre_stop_hook request;
  };

  /// While the server writes into the workspace.
  class server_write {
  public:
    explicit server_write(session_impl& owner) : owner_(owner) {
      ++owner.server_writes_;
      ++owner.server_writing_;
    }
    server_write(const server_write&) = delete;
    server_write& operator=(const server_write&) = delete;
    ~server_write() {
      --owner_.server_writing_;
    }

  private:
    session_impl& owner_;
  };

  /// A start event that waits for its finish.
  struct span {
    op operation;
    std::string id;
    std::chrono::steady_clock::time_point begun;
    std::string data;
  };

  /// A file being read: the descriptor and how far it goes.
  struct reading {
    std::shared_ptr<workspace::open_file> file;
  };

  /// A file being written beside its place.
  struct writing {
    std::shared_ptr<workspace::staged_file> file;
    std::optional<backends::user_ids> who;
  };

  /// Where an uploaded archive goes, unless it is a whole workspace.
  struct extract_target {
    workspace::resolved_path path;
    snapshot::archive_scheme scheme = snapshot::archive_scheme::tar;
  };

  /// An archive being uploaded, in an unnamed file.
  struct import_file {
    unique_fd fd;
    uint64_t size = 0; ///< touched by one job at a time
    std::optional<extract_target> target;
  };
  struct importing {
    std::shared_ptr<import_file> file;
  };

  /// An interactive process. One that is `done` has told its end to a client, and is only kept for
  /// readers of its output.
  struct terminal_entry {
    terminal_actor actor;
    terminal_info info;
    std::chrono::steady_clock::time_point last_used;
    bool done = false;
  };

  struct open_handle {
    std::variant<reading, writing, importing> what;
    int64_t last_used_ms = 0;
    bool busy = false;
    std::optional<span> event; ///< of a write, until its commit
  };

  // -- lifecycle (session.cpp)
  // ------------------------------------------------------------------------

  /// `asked`: else as the session's specification says, or after a crash the live workspace.
  co<result<session_view>> start(std::optional<workspace_conflict> asked);
  co<result<session_view>> stop();
  co<result<session_view>> shutdown();
  co<result<session_view>> close();
  co<result<session_view>> get();
  co<result<bool>> running();
  co<result<materialized_files>> apply(apply_manifest request);

  /// The steps of a start behind its bookkeeping: sandbox up, then the contract's decision table.
  co<result<void>> bring_up(workspace_conflict policy);
  co<result<bool>> matches_snapshot();
  /// Puts a snapshot in the workspace's place: by laying it below an empty tree, or by copying.
  co<result<void>> restore(snapshot_ref ref);
  /// False: it has to be copied.
  co<result<bool>> lay_on(snapshot_ref ref);
  co<result<void>> restore_copy(snapshot_ref ref);
  co<result<materialized_files>> materialize(std::shared_ptr<const manifest> what,
                                             bool only_ephemeral);
  co<result<void>> remove_ephemeral();
  co<result<void>> sweep_unfinished();
  /// Gives what the server wrote into the workspace by itself to the session's user.
  co<result<void>> give_workspace();
  bool is_isolated() const {
    return record_.spec.state.type == backend_kind::isolated;
  }
  co<result<void>> ensure_open();
  void take(sandbox_ready x);
  void set_root(shared_fd root);
  co<result<void>> persist();
  co<result<void>> stop_locked();
  co<result<void>> shutdown_locked();
  co<result<void>> run_hooks();
  co<result<void>> close_dependencies();
  co<result<void>> save();
  caf::result<void> on_backend_replaced(backend_replaced& x);
  /// An event of what the sandbox did by itself.
  caf::result<void> on_notice(backends::sandbox_notice& x);
  /// Closes the session when its idle time or its lifetime is over.
  void schedule_expiry();
  bool is_expired() const;
  void check_expiry();

  session_view view() const;
  std::vector<std::string> persist_skip() const;
  bool noop_snapshot() const;

  // -- mounts (session_mounts.cpp)
  // --------------------------------------------------------------------

  /// Whether the mounts of a manifest may be and can be attached here, before anything is made.
  result<void> check_mounts_of(const manifest& x) const;
  /// Whether it has mounts that helpers in the sandbox attach.
  bool attaches_mounts(const manifest& x) const;
  /// Those of the session's own manifest, also where nothing is attached any more.
  co<result<void>> detach_mounts();
  co<result<exec_result>> run_mount_helper(std::vector<std::string> argv);

  // -- restore points (session_snapshots.cpp)
  // ---------------------------------------------------------

  co<result<snapshot_outcome>> checkpoint(checkpoint_session x);
  /// Where a snapshot of the session's tenant is.
  co<result<snapshot_ref>> find_snapshot(std::string id, op operation);
  co<result<session_view>> rewind(rewind_session x);
  co<result<workspace_diff>> diff(diff_session x);
  co<result<fork_plan>> fork(fork_session x);
  /// The workspace as it is now, to `ref`; the rest of the request is the caller's.
  co<result<persist_snapshot>> persist_request_for(snapshot_ref ref);
  /// `stopped`: with all processes stopped, as of one instant.
  co<result<snapshot_outcome>> persist_live(persist_snapshot request, bool stopped);
  /// The session's snapshot, with its folder on this machine.
  snapshot_ref stored_snapshot() const;
  /// Where snapshots of this session go.
  snapshot_ref snapshot_place(std::string id) const;

  // -- events
  // -----------------------------------------------------------------------------------------

  /// Tells of an operation's start. Who gets an error must not do the operation: a sink refused it.
  co<result<span>> begin(op operation, std::string data = "{}");
  /// Tells of an operation's end and is its outcome, unless a sink refuses the event. Of a success:
  /// whether it counts as `ok`, what replaces the start's data (empty: the same), what it printed.
  template <class T>
  co<result<T>> end(span x, result<T> outcome, bool ok = true, std::string data = {},
                    std::shared_ptr<const event_output> output = nullptr) {
    auto finish = make_event(x.operation, event_phase::finish,
                             outcome && !data.empty() ? std::move(data) : std::move(x.data));
    open_spans_.erase(x.id);
    finish.span_id = std::move(x.id);
    finish.ok = outcome && ok;
    finish.duration_us = std::chrono::duration_cast<std::chrono::microseconds>(
                           std::chrono::steady_clock::now() - x.begun)
                           .count();
    if (!outcome)
      finish.failure = outcome.error();
    finish.output = std::move(output);
    auto told = co_await emit(std::move(finish));
    if (!told)
      co_return unexpected(std::move(told.error()));
    co_return outcome;
  }
  /// What began has an end, also where the session does not live to see it.
  void end_open_spans();
  /// Publishes an event; waits for the sinks that want it.
  co<result<void>> emit(event x);
  event make_event(op operation, event_phase phase, std::string data);
  /// The `data` of a file's event.
  static std::string file_data(const std::string& path, const std::optional<std::string>& user,
                               std::optional<uint64_t> size);
  void progress(op operation, std::string data);

  // -- commands (session_exec.cpp)
  // --------------------------------------------------------------------

  co<result<exec_result>> exec(exec_call call, std::optional<exec_sink_actor> sink);
  co<result<exec_result>> exec_attached(sandbox_exec command);
  co<result<exec_result>> end_exec(span event, const exec_request& request,
                                   result<exec_result> done);
  /// Takes one of the session's request permits; empty when there is none left.
  std::optional<error> admit() const;
  std::vector<std::pair<std::string, std::string>> environment() const;

  static result<void> check_command(const exec_request& x);

  // -- interactive processes (session_terminals.cpp)
  // --------------------------------------------------

  co<result<terminal_update>> open_terminal(start_terminal x);
  co<result<terminal_update>> write_to_terminal(write_terminal x);
  co<result<terminal_update>> collect(int32_t id, collect_terminal wait);
  /// Ends one, or all.
  co<result<void>> end_terminals(std::optional<int32_t> only);
  caf::result<terminal_list> list_of_terminals() const;
  caf::result<void> resize(const resize_terminal& x);
  caf::result<void> type(type_terminal& x);
  caf::result<terminal_bytes> read_output(read_terminal& x);

  /// Null for one that is done.
  terminal_entry* find_terminal(int32_t id);
  /// The one that has to go for another to come.
  std::optional<int32_t> terminal_to_drop() const;
  void retire_terminal(int32_t id);
  void drop_terminal(int32_t id);

  // -- changes to many files, ports (session_changes.cpp)
  // ---------------------------------------------

  co<result<patch_answer>> patch(patch_workspace x);
  /// Tells of the files that a patch will read and write, as if its client did; what was told is in
  /// `spans`.
  co<result<void>> begin_patch(const std::vector<workspace::patch_operation>& operations,
                               const patch_workspace& request, std::vector<span>& spans);
  co<result<file_handle>> extract_open(extract_archive x);
  co<result<void>> extract_commit(commit_extract x);
  co<result<port_endpoint>> endpoint_of(resolve_port x);

  // -- files (session_files.cpp)
  // ----------------------------------------------------------------------

  template <class T>
  using file_work = std::function<result<T>(int root_fd, const workspace::resolved_path& path)>;

  /// Checks `path`, opens what it starts from, runs `work` on the I/O pool.
  /// Makes the root anew if somebody removed it; whether it did. An agent's write makes its
  /// parents.
  co<result<bool>> remake_root();
  template <class T>
  co<result<T>> with_path(op operation, std::string path, std::optional<std::string> user,
                          bool for_write, file_work<T> work);

  co<result<file_opened>> open_read(file_open_read x);
  co<result<file_chunk>> read_chunk(file_read_chunk x);
  co<result<file_handle>> open_write(file_open_write x);
  co<result<void>> write_chunk(file_write_chunk x);
  co<result<void>> commit(file_commit x);
  co<result<file_list>> list(list_files x);
  co<result<void>> mkdir(make_directory x);
  co<result<void>> rm(remove_file x);
  co<result<file_opened>> export_tree();
  co<result<file_handle>> import_open(std::optional<extract_target> target);
  co<result<void>> import_commit(commit_import x);
  /// Opens what a grant names, as `who`; blocks.
  static result<unique_fd> open_grant(const workspace::resolved_path& path,
                                      const std::function<result<unique_fd>()>& file_system,
                                      const std::optional<backends::user_ids>& who);

  result<uint64_t> keep(std::variant<reading, writing, importing> what);
  /// Lets go of open files: what was being written is not.
  void abandon(const std::function<bool(const std::pair<const uint64_t, open_handle>&)>& which);
  /// The handle of that kind; marks it used.
  template <class Kind>
  result<Kind> use(uint64_t handle);

  // -- member variables
  // -------------------------------------------------------------------------------

  self_ptr<handle_type> self_;
  services& shared_;
  session_record record_;
  backend_actor backend_;
  /// The backend has opened its sandbox.
  bool open_ = false;
  /// Between a successful start and a shutdown.
  bool up_ = false;
  /// An earlier start (of this life, or of an earlier process) left a workspace that may be kept.
  bool preserved_ = false;
  /// A process died in the middle of whatever it did here.
  bool interrupted_ = false;
  /// Of the server into the workspace: those begun, those that run.
  uint64_t server_writes_ = 0;
  uint32_t server_writing_ = 0;
  shared_fd root_;
  std::shared_ptr<const backends::layered_workspace> layers_; ///< null: a plain directory
  decltype(sandbox_ready::file_system) file_system_;          ///< null: not open yet
  decltype(sandbox_ready::identity) identity_;                ///< null: not open yet
  std::vector<session_wall> walls_;
  session_usage usage_;
  std::map<std::string, span> open_spans_; ///< by id
  std::vector<hook> hooks_;
  bool hooks_ran_ = false;
  std::optional<error> hooks_failed_;
  std::map<uint64_t, open_handle> handles_;
  std::map<int32_t, terminal_entry> terminals_;
  std::deque<int32_t> ended_terminals_; ///< the oldest first
  uint64_t next_handle_ = 1;
  uint64_t event_seq_ = 0;
  uint32_t in_flight_ = 0;
  /// Calls that were cancelled lately: a cancel may overtake its command.
  std::deque<uint64_t> cancelled_;
  /// The last progress event went out then; they are at least 100 ms apart.
  int64_t last_progress_ms_ = 0;
  workspace::path_policy policy_;
  /// Ends the pool jobs of this life.
  std::stop_source stop_;
  /// One lifecycle step at a time.
  async_semaphore lifecycle_{scope_, 1};
  /// Last: its end destroys suspended protocols, which use everything above.
  task_scope scope_;
};

} // namespace troupe::actors
