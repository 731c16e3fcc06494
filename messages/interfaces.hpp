#pragma once

#include "messages/caf_compat.hpp"
#include "messages/requests.hpp"

#include <string>
#include <vector>

// Every typed actor handle of the system, one line per handler. The whole protocol is on this page;
// messages that must stay inside one process are in actors/local_messages.hpp.

namespace troupe {

/// Gets the output of one streamed exec, in order, and then its end.
using exec_sink_actor = actor_handle<
  // A piece of output; the receiver grants more with `exec_grant`.
  caf::result<void>(exec_output),
  // The end. Nothing follows.
  caf::result<void>(exec_finished)>;

/// One session: its lifecycle, its commands and its files.
using session_actor = actor_handle<
  // What a client sees of it.
  caf::result<session_view>(get_session),
  // Brings the sandbox up and the workspace to its state (the decision table of the contract).
  caf::result<session_view>(start_session),
  // Persists the workspace; the sandbox stays up.
  caf::result<session_view>(stop_session),
  // Ends every process; the workspace and the state stay.
  caf::result<session_view>(shutdown_session),
  // Pre-stop hooks, stop, shutdown.
  caf::result<session_view>(close_session),
  // Whether it is between a successful start and a shutdown, and its sandbox lives.
  caf::result<bool>(session_running),
  // The manifest as a tree.
  caf::result<std::string>(describe_session),
  // Registers a command to run before the workspace is persisted; answers its id.
  caf::result<std::string>(add_pre_stop_hook),
  // Leaves a path out of snapshots; answers its normal form.
  caf::result<std::string>(add_persist_skip),
  // Materialises a manifest into the running workspace.
  caf::result<materialized_files>(apply_manifest),
  // Runs a command and collects its output.
  caf::result<exec_result>(exec_call),
  // Runs a command and sends its output to a sink; answers when it ended.
  caf::result<exec_result>(exec_call, exec_sink_actor),
  // Kills a command with its process tree. Unknown ids are fine.
  caf::result<void>(exec_cancel),
  // Gives a streamed command credit.
  caf::result<void>(exec_grant),
  // -- files
  caf::result<file_opened>(file_open_read), caf::result<file_chunk>(file_read_chunk),
  caf::result<file_handle>(file_open_write), caf::result<void>(file_write_chunk),
  caf::result<void>(file_commit), caf::result<void>(file_close), caf::result<file_list>(list_files),
  caf::result<void>(make_directory), caf::result<void>(remove_file),
  // -- whole workspaces
  caf::result<file_opened>(export_workspace), caf::result<file_handle>(import_workspace),
  caf::result<void>(commit_import),
  // What a path means to the session.
  caf::result<normalized_path>(normalize_path),
  // -- changes to many files
  caf::result<patch_answer>(patch_workspace), caf::result<file_handle>(extract_archive),
  caf::result<void>(commit_extract),
  // -- terminals
  // Starts an interactive process and answers with what it printed within the yield time.
  caf::result<terminal_update>(start_terminal), caf::result<terminal_update>(write_terminal),
  caf::result<terminal_list>(list_terminals), caf::result<void>(resize_terminal),
  caf::result<void>(terminate_terminal), caf::result<void>(type_terminal),
  // Long poll of its output, for readers that keep a cursor.
  caf::result<terminal_bytes>(read_terminal),
  // Where a port that the state exposes can be reached.
  caf::result<port_endpoint>(resolve_port),
  // -- restore points
  // Durable before it answers; the session goes on meanwhile.
  caf::result<snapshot_outcome>(checkpoint_session),
  // Processes end; the workspace is that restore point again, or still what it was.
  caf::result<session_view>(rewind_session),
  // What changed.
  caf::result<workspace_diff>(diff_session),
  // The snapshots that forks start from.
  caf::result<fork_plan>(fork_session)>;

/// The durable record of every session, the index of snapshots and the event journal.
using registry_actor = actor_handle<
  // Durable before it answers.
  caf::result<void>(put_record), caf::result<void>(put_live), caf::result<void>(drop_record),
  // The record of one session; `not_found`.
  caf::result<session_record>(get_record),
  // All records of a shard.
  caf::result<std::vector<session_record>>(load_records),
  // A page for a client.
  caf::result<session_page>(list_sessions),
  // Written soon, together with others; answers when it is.
  caf::result<void>(append_events), caf::result<std::vector<event>>(read_events),
  // The index of snapshots.
  caf::result<void>(put_snapshot), caf::result<void>(drop_snapshot_record),
  caf::result<snapshot_page>(list_snapshots)>;

/// A shard of the sessions: the only creator of session and backend actors.
using supervisor_actor = actor_handle<
  // Registers, spawns and (if asked) starts a session.
  caf::result<session_view>(create_session),
  // The same from a state; the live session if there is one.
  caf::result<session_view>(resume_session),
  // The session to talk to.
  caf::result<session_actor>(lookup_session),
  // What is known of it, also when it cannot be talked to.
  caf::result<session_view>(peek_session),
  // Ends it and removes all it left. Unknown ids are fine.
  caf::result<void>(remove_session),
  // Stops every session into its snapshot.
  caf::result<drain_report>(drain_sessions), caf::result<session_counts>(count_sessions)>;

/// Snapshots: persisting and restoring, some at a time, one per session.
using snapshot_store_actor
  = actor_handle<caf::result<bool>(snapshot_restorable), caf::result<void>(restore_snapshot),
                 caf::result<void>(remove_snapshot), caf::result<snapshot_page>(list_snapshots),
                 caf::result<void>(verify_snapshot), caf::result<workspace_diff>(diff_snapshots),
                 caf::result<prune_report>(prune_snapshots)>;

/// Events on their way to the journal and to whoever listens.
using event_hub_actor
  = actor_handle<caf::result<void>(publish_event), caf::result<void>(deliver_event),
                 caf::result<void>(flush_events),
                 // Long poll; a slow reader gets what it missed from the journal.
                 caf::result<event_page>(poll_events)>;

/// The root of one process.
using node_actor = actor_handle<caf::result<node_info>(get_node),
                                // Drains the sessions; the process may end when this answers.
                                caf::result<shutdown_report>(shutdown_node)>;

} // namespace troupe

CAF_BEGIN_TYPE_ID_BLOCK(troupe, caf::first_custom_type_id)
  CAF_ADD_TYPE_ID(troupe, (troupe::errc))
  CAF_ADD_TYPE_ID(troupe, (troupe::op))
  CAF_ADD_TYPE_ID(troupe, (troupe::entry_kind))
  CAF_ADD_TYPE_ID(troupe, (troupe::environment_form))
  CAF_ADD_TYPE_ID(troupe, (troupe::snapshot_kind))
  CAF_ADD_TYPE_ID(troupe, (troupe::backend_kind))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_status))
  CAF_ADD_TYPE_ID(troupe, (troupe::workspace_conflict))
  CAF_ADD_TYPE_ID(troupe, (troupe::shell_mode))
  CAF_ADD_TYPE_ID(troupe, (troupe::stream_id))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_kind))
  CAF_ADD_TYPE_ID(troupe, (troupe::event_phase))
  CAF_ADD_TYPE_ID(troupe, (troupe::error))
  CAF_ADD_TYPE_ID(troupe, (troupe::permissions))
  CAF_ADD_TYPE_ID(troupe, (troupe::user))
  CAF_ADD_TYPE_ID(troupe, (troupe::group))
  CAF_ADD_TYPE_ID(troupe, (troupe::entry_group))
  CAF_ADD_TYPE_ID(troupe, (troupe::entry))
  CAF_ADD_TYPE_ID(troupe, (troupe::named_entry))
  CAF_ADD_TYPE_ID(troupe, (troupe::environment_value))
  CAF_ADD_TYPE_ID(troupe, (troupe::path_grant))
  CAF_ADD_TYPE_ID(troupe, (troupe::manifest))
  CAF_ADD_TYPE_ID(troupe, (troupe::materialized_file))
  CAF_ADD_TYPE_ID(troupe, (troupe::snapshot_ref))
  CAF_ADD_TYPE_ID(troupe, (troupe::snapshot_info))
  CAF_ADD_TYPE_ID(troupe, (troupe::snapshot_outcome))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_state))
  CAF_ADD_TYPE_ID(troupe, (troupe::concurrency_limits))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_limits))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_spec))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_live))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_wall))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_record))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_usage))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_view))
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_request))
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_result))
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_output))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_entry))
  CAF_ADD_TYPE_ID(troupe, (troupe::event))
  CAF_ADD_TYPE_ID(troupe, (troupe::put_record))
  CAF_ADD_TYPE_ID(troupe, (troupe::put_live))
  CAF_ADD_TYPE_ID(troupe, (troupe::drop_record))
  CAF_ADD_TYPE_ID(troupe, (troupe::get_record))
  CAF_ADD_TYPE_ID(troupe, (troupe::peek_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::load_records))
  CAF_ADD_TYPE_ID(troupe, (troupe::list_sessions))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_page))
  CAF_ADD_TYPE_ID(troupe, (troupe::append_events))
  CAF_ADD_TYPE_ID(troupe, (troupe::read_events))
  CAF_ADD_TYPE_ID(troupe, (troupe::put_snapshot))
  CAF_ADD_TYPE_ID(troupe, (troupe::drop_snapshot_record))
  CAF_ADD_TYPE_ID(troupe, (troupe::list_snapshots))
  CAF_ADD_TYPE_ID(troupe, (troupe::snapshot_page))
  CAF_ADD_TYPE_ID(troupe, (troupe::create_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::resume_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::lookup_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::remove_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::drain_sessions))
  CAF_ADD_TYPE_ID(troupe, (troupe::drain_report))
  CAF_ADD_TYPE_ID(troupe, (troupe::count_sessions))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_counts))
  CAF_ADD_TYPE_ID(troupe, (troupe::get_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::start_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::stop_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::shutdown_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::close_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_running))
  CAF_ADD_TYPE_ID(troupe, (troupe::describe_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::add_pre_stop_hook))
  CAF_ADD_TYPE_ID(troupe, (troupe::add_persist_skip))
  CAF_ADD_TYPE_ID(troupe, (troupe::apply_manifest))
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_call))
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_cancel))
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_grant))
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_finished))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_open_read))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_opened))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_read_chunk))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_chunk))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_open_write))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_handle))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_write_chunk))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_commit))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_close))
  CAF_ADD_TYPE_ID(troupe, (troupe::list_files))
  CAF_ADD_TYPE_ID(troupe, (troupe::file_list))
  CAF_ADD_TYPE_ID(troupe, (troupe::make_directory))
  CAF_ADD_TYPE_ID(troupe, (troupe::remove_file))
  CAF_ADD_TYPE_ID(troupe, (troupe::export_workspace))
  CAF_ADD_TYPE_ID(troupe, (troupe::import_workspace))
  CAF_ADD_TYPE_ID(troupe, (troupe::commit_import))
  CAF_ADD_TYPE_ID(troupe, (troupe::materialized_files))
  CAF_ADD_TYPE_ID(troupe, (troupe::archive_limits))
  CAF_ADD_TYPE_ID(troupe, (troupe::normalize_path))
  CAF_ADD_TYPE_ID(troupe, (troupe::normalized_path))
  CAF_ADD_TYPE_ID(troupe, (troupe::patch_workspace))
  CAF_ADD_TYPE_ID(troupe, (troupe::patched_entry))
  CAF_ADD_TYPE_ID(troupe, (troupe::patch_answer))
  CAF_ADD_TYPE_ID(troupe, (troupe::extract_archive))
  CAF_ADD_TYPE_ID(troupe, (troupe::commit_extract))
  CAF_ADD_TYPE_ID(troupe, (troupe::start_terminal))
  CAF_ADD_TYPE_ID(troupe, (troupe::write_terminal))
  CAF_ADD_TYPE_ID(troupe, (troupe::terminal_update))
  CAF_ADD_TYPE_ID(troupe, (troupe::list_terminals))
  CAF_ADD_TYPE_ID(troupe, (troupe::terminal_info))
  CAF_ADD_TYPE_ID(troupe, (troupe::terminal_list))
  CAF_ADD_TYPE_ID(troupe, (troupe::resize_terminal))
  CAF_ADD_TYPE_ID(troupe, (troupe::terminate_terminal))
  CAF_ADD_TYPE_ID(troupe, (troupe::type_terminal))
  CAF_ADD_TYPE_ID(troupe, (troupe::read_terminal))
  CAF_ADD_TYPE_ID(troupe, (troupe::terminal_bytes))
  CAF_ADD_TYPE_ID(troupe, (troupe::resolve_port))
  CAF_ADD_TYPE_ID(troupe, (troupe::port_endpoint))
  CAF_ADD_TYPE_ID(troupe, (troupe::snapshot_restorable))
  CAF_ADD_TYPE_ID(troupe, (troupe::restore_snapshot))
  CAF_ADD_TYPE_ID(troupe, (troupe::remove_snapshot))
  CAF_ADD_TYPE_ID(troupe, (troupe::verify_snapshot))
  CAF_ADD_TYPE_ID(troupe, (troupe::diff_snapshots))
  CAF_ADD_TYPE_ID(troupe, (troupe::prune_snapshots))
  CAF_ADD_TYPE_ID(troupe, (troupe::prune_report))
  CAF_ADD_TYPE_ID(troupe, (troupe::workspace_change))
  CAF_ADD_TYPE_ID(troupe, (troupe::workspace_diff))
  CAF_ADD_TYPE_ID(troupe, (troupe::checkpoint_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::rewind_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::diff_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::fork_session))
  CAF_ADD_TYPE_ID(troupe, (troupe::fork_plan))
  CAF_ADD_TYPE_ID(troupe, (troupe::publish_event))
  CAF_ADD_TYPE_ID(troupe, (troupe::deliver_event))
  CAF_ADD_TYPE_ID(troupe, (troupe::flush_events))
  CAF_ADD_TYPE_ID(troupe, (troupe::poll_events))
  CAF_ADD_TYPE_ID(troupe, (troupe::event_page))
  CAF_ADD_TYPE_ID(troupe, (troupe::get_node))
  CAF_ADD_TYPE_ID(troupe, (troupe::node_info))
  CAF_ADD_TYPE_ID(troupe, (troupe::shutdown_node))
  CAF_ADD_TYPE_ID(troupe, (troupe::shutdown_report))
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::event>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::session_record>) )
  CAF_ADD_TYPE_ID(troupe, (troupe::exec_sink_actor))
  CAF_ADD_TYPE_ID(troupe, (troupe::session_actor))
  CAF_ADD_TYPE_ID(troupe, (troupe::registry_actor))
  CAF_ADD_TYPE_ID(troupe, (troupe::supervisor_actor))
  CAF_ADD_TYPE_ID(troupe, (troupe::snapshot_store_actor))
  CAF_ADD_TYPE_ID(troupe, (troupe::event_hub_actor))
  CAF_ADD_TYPE_ID(troupe, (troupe::node_actor))
CAF_END_TYPE_ID_BLOCK(troupe)

CAF_ERROR_CODE_ENUM(troupe::errc, "troupe")
