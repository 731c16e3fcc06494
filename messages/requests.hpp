#pragma once

#include "messages/event.hpp"
#include "messages/exec.hpp"
#include "messages/files.hpp"
#include "messages/inspect.hpp"
#include "messages/session.hpp"
#include "messages/terminal.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// One struct per request that actors exchange; which actor takes it, and what it answers, is in
// interfaces.hpp.

namespace troupe {

// -- registry
// -----------------------------------------------------------------------------------------

/// Stores a record: inserts it, or replaces the one with that id.
struct put_record {
  session_record record;
};

/// Stores the changing part of a record that is there.
struct put_live {
  std::string id;
  session_live live;
};

struct drop_record {
  std::string id;
};

struct get_record {
  std::string id;
};

/// All records, for a start of the server.
struct load_records {
  uint32_t shard = 0;
  uint32_t shards = 1;
};

/// One page of a tenant's sessions, oldest first.
struct list_sessions {
  std::string tenant;
  std::optional<session_status> status;
  std::map<std::string, std::string> labels;
  int32_t limit = 100;
  std::string cursor; ///< empty: from the start
};

struct session_page {
  std::vector<session_record> items;
  std::string next_cursor; ///< empty: the end
};

struct append_events {
  std::vector<event> events;
};

/// Events after `after_id`, oldest first. Empty `session_id`: of all the tenant's sessions.
struct read_events {
  uint64_t after_id = 0;
  std::string session_id;
  std::string tenant;
  int32_t limit = 256;
};

struct put_snapshot {
  snapshot_info info;
};

struct drop_snapshot_record {
  std::string id;
};

struct list_snapshots {
  std::string tenant;
  std::string id; ///< only this one; empty: all
  int32_t limit = 100;
  std::string cursor;
  std::string session_id = {}; ///< only what this one wrote; empty: all
};

struct snapshot_page {
  std::vector<snapshot_info> items;
  std::string next_cursor;
};

// -- supervisor
// ---------------------------------------------------------------------------------------

struct create_session {
  session_spec spec;
};

/// Makes a session from a state, or gives the live one with that id.
struct resume_session {
  session_spec spec;
};

struct lookup_session {
  std::string id;
  std::string tenant;
};

/// What is known of a session, also of one that cannot be talked to.
struct peek_session {
  std::string id;
  std::string tenant;
};

struct remove_session {
  std::string id;
  std::string tenant;
  bool keep_snapshot = false;
};

/// Stops every running session into its snapshot, for a clean end of the process.
struct drain_sessions {
  int64_t deadline_ms = 0; ///< how long it may take
};

struct drain_report {
  uint32_t stopped = 0;
  uint32_t failed = 0;
};

struct count_sessions {};

/// Live sessions of a shard by status.
struct session_counts {
  uint32_t total = 0;
};

// -- session
// ------------------------------------------------------------------------------------------

struct get_session {};

struct start_session {
  std::optional<workspace_conflict> on_conflict; ///< nullopt: the session's own
};

struct stop_session {};

struct shutdown_session {};

/// Pre-stop hooks, then stop, then shutdown; each is attempted and the first error reported.
struct close_session {};

struct session_running {};

struct describe_session {
  int32_t depth = 1;
};

/// A command that runs in the sandbox once, before the workspace is persisted by a close.
struct add_pre_stop_hook {
  std::vector<std::string> command;
  std::optional<std::chrono::nanoseconds> timeout;
};

struct add_persist_skip {
  std::string path;
};

struct apply_manifest {
  std::optional<troupe::manifest> manifest; ///< nullopt: the session's own
  bool only_ephemeral = false;
};

/// Saves the workspace as it is now under an id of its own; the session goes on.
struct checkpoint_session {
  std::string name;
};

/// Puts a snapshot in place of the workspace. Processes end.
struct rewind_session {
  std::string snapshot_id;
};

struct diff_session {
  std::string from; ///< snapshot id; empty: what the workspace came from or was last saved to
  std::string to;   ///< empty: the workspace as it is now
  bool text = false;
};

/// Saves the workspace as it is now as the snapshots of sessions that are to be made; answers with
/// what these have in common.
struct fork_session {
  std::vector<std::string> ids;
};

struct fork_plan {
  session_spec spec; ///< without id, snapshot id and labels
  std::vector<std::string> warnings;
};

/// A command, under an id that the caller chose, so that it can be cancelled before it answers.
struct exec_call {
  uint64_t call_id = 0;
  exec_request request;
};

struct exec_cancel {
  uint64_t call_id = 0;
};

/// Lets a streamed exec send `bytes` more to its sink.
struct exec_grant {
  uint64_t call_id = 0;
  int64_t bytes = 0;
};

/// The last message to the sink of a streamed exec.
struct exec_finished {
  uint64_t call_id = 0;
  exec_result result; ///< without output
  std::optional<error> failure;
};

/// Opens a file for reading; the answer carries its first bytes.
struct file_open_read {
  std::string path;
  std::optional<std::string> user;
  int32_t first_chunk = 256 * 1024;
};

struct file_opened {
  uint64_t handle = 0; ///< 0: all of it is in `data`
  uint64_t size = 0;
  uint32_t mode = 0;
  int64_t mtime_ns = 0;
  uint64_t inode = 0;
  std::vector<char> data;
};

struct file_read_chunk {
  uint64_t handle = 0;
  uint64_t offset = 0;
  int32_t size = 0;
};

struct file_chunk {
  std::vector<char> data; ///< shorter than asked: the end
};

/// Starts a file that appears at `file_commit`, whole, or never.
struct file_open_write {
  std::string path;
  std::optional<std::string> user;
  std::optional<uint64_t> size; ///< of what is to come, if known; for the event only
};

struct file_handle {
  uint64_t handle = 0;
};

struct file_write_chunk {
  uint64_t handle = 0;
  std::vector<char> data;
};

struct file_commit {
  uint64_t handle = 0;
  std::optional<uint32_t> mode;
};

/// Closes a handle; one that was written is thrown away.
struct file_close {
  uint64_t handle = 0;
};

struct list_files {
  std::string path;
  std::optional<std::string> user;
};

struct file_list {
  std::vector<file_entry> items;
};

struct make_directory {
  std::string path;
  bool parents = false;
  std::optional<std::string> user;
};

struct remove_file {
  std::string path;
  bool recursive = false;
  std::optional<std::string> user;
};

/// Packs the workspace into a plain tar and opens that for reading.
struct export_workspace {};

/// Starts an upload of a tar that `commit_import` unpacks into the workspace.
struct import_workspace {};

struct commit_import {
  uint64_t handle = 0;
};

/// Judges a path by the session's rules, without looking at what is there.
struct normalize_path {
  std::string path;
  bool for_write = false;
};

struct normalized_path {
  std::string absolute;
  std::optional<std::string> relative; ///< to the workspace root; nullopt: in a grant
};

/// Applies a patch: `text` is the envelope or JSON of a model, else `operations` is a JSON value.
struct patch_workspace {
  std::string text;
  std::string operations;
  std::string cwd; ///< where relative paths start, relative to the root; empty: the root
  std::optional<std::string> user;
  bool partial = false; ///< operations before one that fails stay
};

struct patched_entry {
  std::string path;
  std::string change; ///< "created", "updated", "deleted"
  std::optional<std::string> moved_to;
};

struct patch_answer {
  std::string text; ///< for the model
  std::vector<patched_entry> files;
};

/// Starts an upload of an archive to `path`; `commit_extract` puts it there and unpacks it beside.
struct extract_archive {
  std::string path;
  std::optional<std::string> scheme; ///< "tar" or "zip"; nullopt: by the suffix of `path`
};

struct commit_extract {
  uint64_t handle = 0;
};

/// Where a port of the sandbox can be reached from the node.
struct resolve_port {
  int32_t port = 0;
};

struct port_endpoint {
  std::string host;
  int32_t port = 0;
  bool tls = false;
  std::string query;
};

struct materialized_files {
  std::vector<materialized_file> items;
};

// -- snapshot store
// -----------------------------------------------------------------------------------

struct snapshot_restorable {
  snapshot_ref ref;
};

struct restore_snapshot {
  snapshot_ref ref;
  std::string session_id;
  std::string tenant;
  std::string root; ///< absolute path
};

struct remove_snapshot {
  std::string id;
  std::string tenant;
};

/// Reads all of a snapshot and holds it against its digests.
struct verify_snapshot {
  std::string id;
  std::string tenant;
};

struct diff_snapshots {
  std::string tenant;
  std::string from;
  std::string to;
  bool text = false;
};

/// Removes a tenant's snapshots beyond these bounds, the oldest first, but none of a live session.
struct prune_snapshots {
  std::string tenant;
  std::optional<int64_t> max_age_ms;
  std::optional<int64_t> max_count;
  std::optional<int64_t> max_bytes; ///< of the files inside
  bool dry_run = false;
};

struct prune_report {
  std::vector<std::string> removed;
};

// -- event hub
// ----------------------------------------------------------------------------------------

struct publish_event {
  troupe::event event;
};

/// Like `publish_event`, but answers when every sink that is to be waited for has handled it, or
/// with the error of one that raises its failures.
struct deliver_event {
  troupe::event event;
};

/// Answers when what was published before is in the journal or was given up.
struct flush_events {};

/// Events after `after_id`; answers at once if there are any, else when one comes or `wait_ms` is
/// over (then with none).
struct poll_events {
  uint64_t after_id = 0;
  std::string session_id; ///< empty: all
  std::string tenant;
  int32_t limit = 256;
  int64_t wait_ms = 15'000;
  bool from_now = false; ///< ignore `after_id`: only what comes from now on
};

struct event_page {
  std::vector<event> items;
  uint64_t next_after = 0; ///< `after_id` of the next poll
};

// -- node
// ---------------------------------------------------------------------------------------------

struct get_node {};

struct node_info {
  std::string id;
  std::string status;
  uint32_t sessions = 0;
  uint32_t capacity = 0;
  std::string version;
};

/// Ends the node's work: sessions are stopped into snapshots within `deadline_ms`.
struct shutdown_node {
  int64_t deadline_ms = 30'000;
};

struct shutdown_report {
  uint32_t stopped = 0;
  uint32_t failed = 0;
};

// -- inspection
// ---------------------------------------------------------------------------------------

template <class Inspector>
auto inspect(Inspector& f, put_record& x) {
  return inspect_object(f, x, field("record", x.record));
}

template <class Inspector>
auto inspect(Inspector& f, put_live& x) {
  return inspect_object(f, x, field("id", x.id), field("live", x.live));
}

template <class Inspector>
auto inspect(Inspector& f, drop_record& x) {
  return inspect_object(f, x, field("id", x.id));
}

template <class Inspector>
auto inspect(Inspector& f, load_records& x) {
  return inspect_object(f, x, field("shard", x.shard), field("shards", x.shards));
}

template <class Inspector>
auto inspect(Inspector& f, list_sessions& x) {
  return inspect_object(f, x, field("tenant", x.tenant), field("status", x.status),
                        field("labels", x.labels), field("limit", x.limit),
                        field("cursor", x.cursor));
}

template <class Inspector>
auto inspect(Inspector& f, session_page& x) {
  return inspect_object(f, x, field("items", x.items), field("next_cursor", x.next_cursor));
}

template <class Inspector>
auto inspect(Inspector& f, append_events& x) {
  return inspect_object(f, x, field("events", x.events));
}

template <class Inspector>
auto inspect(Inspector& f, read_events& x) {
  return inspect_object(f, x, field("after_id", x.after_id), field("session_id", x.session_id),
                        field("tenant", x.tenant), field("limit", x.limit));
}

template <class Inspector>
auto inspect(Inspector& f, put_snapshot& x) {
  return inspect_object(f, x, field("info", x.info));
}

template <class Inspector>
auto inspect(Inspector& f, drop_snapshot_record& x) {
  return inspect_object(f, x, field("id", x.id));
}

template <class Inspector>
auto inspect(Inspector& f, list_snapshots& x) {
  return inspect_object(f, x, field("tenant", x.tenant), field("id", x.id), field("limit", x.limit),
                        field("cursor", x.cursor), field("session_id", x.session_id));
}

template <class Inspector>
auto inspect(Inspector& f, snapshot_page& x) {
  return inspect_object(f, x, field("items", x.items), field("next_cursor", x.next_cursor));
}

template <class Inspector>
auto inspect(Inspector& f, create_session& x) {
  return inspect_object(f, x, field("spec", x.spec));
}

template <class Inspector>
auto inspect(Inspector& f, resume_session& x) {
  return inspect_object(f, x, field("spec", x.spec));
}

template <class Inspector>
auto inspect(Inspector& f, lookup_session& x) {
  return inspect_object(f, x, field("id", x.id), field("tenant", x.tenant));
}

template <class Inspector>
auto inspect(Inspector& f, remove_session& x) {
  return inspect_object(f, x, field("id", x.id), field("tenant", x.tenant),
                        field("keep_snapshot", x.keep_snapshot));
}

template <class Inspector>
auto inspect(Inspector& f, drain_sessions& x) {
  return inspect_object(f, x, field("deadline_ms", x.deadline_ms));
}

template <class Inspector>
auto inspect(Inspector& f, drain_report& x) {
  return inspect_object(f, x, field("stopped", x.stopped), field("failed", x.failed));
}

template <class Inspector>
auto inspect(Inspector& f, count_sessions& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, session_counts& x) {
  return inspect_object(f, x, field("total", x.total));
}

template <class Inspector>
auto inspect(Inspector& f, get_session& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, start_session& x) {
  return inspect_object(f, x, field("on_conflict", x.on_conflict));
}

template <class Inspector>
auto inspect(Inspector& f, stop_session& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, shutdown_session& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, close_session& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, session_running& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, describe_session& x) {
  return inspect_object(f, x, field("depth", x.depth));
}

template <class Inspector>
auto inspect(Inspector& f, add_pre_stop_hook& x) {
  return inspect_object(f, x, field("command", x.command), field("timeout", x.timeout));
}

template <class Inspector>
auto inspect(Inspector& f, add_persist_skip& x) {
  return inspect_object(f, x, field("path", x.path));
}

template <class Inspector>
auto inspect(Inspector& f, apply_manifest& x) {
  return inspect_object(f, x, field("manifest", x.manifest),
                        field("only_ephemeral", x.only_ephemeral));
}

template <class Inspector>
auto inspect(Inspector& f, exec_call& x) {
  return inspect_object(f, x, field("call_id", x.call_id), field("request", x.request));
}

template <class Inspector>
auto inspect(Inspector& f, exec_cancel& x) {
  return inspect_object(f, x, field("call_id", x.call_id));
}

template <class Inspector>
auto inspect(Inspector& f, exec_grant& x) {
  return inspect_object(f, x, field("call_id", x.call_id), field("bytes", x.bytes));
}

template <class Inspector>
auto inspect(Inspector& f, exec_finished& x) {
  return inspect_object(f, x, field("call_id", x.call_id), field("result", x.result),
                        field("failure", x.failure));
}

template <class Inspector>
auto inspect(Inspector& f, file_open_read& x) {
  return inspect_object(f, x, field("path", x.path), field("user", x.user),
                        field("first_chunk", x.first_chunk));
}

template <class Inspector>
auto inspect(Inspector& f, file_opened& x) {
  return inspect_object(f, x, field("handle", x.handle), field("size", x.size),
                        field("mode", x.mode), field("mtime_ns", x.mtime_ns),
                        field("inode", x.inode), field("data", x.data));
}

template <class Inspector>
auto inspect(Inspector& f, file_read_chunk& x) {
  return inspect_object(f, x, field("handle", x.handle), field("offset", x.offset),
                        field("size", x.size));
}

template <class Inspector>
auto inspect(Inspector& f, file_chunk& x) {
  return inspect_object(f, x, field("data", x.data));
}

template <class Inspector>
auto inspect(Inspector& f, file_open_write& x) {
  return inspect_object(f, x, field("path", x.path), field("user", x.user), field("size", x.size));
}

template <class Inspector>
auto inspect(Inspector& f, file_handle& x) {
  return inspect_object(f, x, field("handle", x.handle));
}

template <class Inspector>
auto inspect(Inspector& f, file_write_chunk& x) {
  return inspect_object(f, x, field("handle", x.handle), field("data", x.data));
}

template <class Inspector>
auto inspect(Inspector& f, file_commit& x) {
  return inspect_object(f, x, field("handle", x.handle), field("mode", x.mode));
}

template <class Inspector>
auto inspect(Inspector& f, file_close& x) {
  return inspect_object(f, x, field("handle", x.handle));
}

template <class Inspector>
auto inspect(Inspector& f, list_files& x) {
  return inspect_object(f, x, field("path", x.path), field("user", x.user));
}

template <class Inspector>
auto inspect(Inspector& f, file_list& x) {
  return inspect_object(f, x, field("items", x.items));
}

template <class Inspector>
auto inspect(Inspector& f, make_directory& x) {
  return inspect_object(f, x, field("path", x.path), field("parents", x.parents),
                        field("user", x.user));
}

template <class Inspector>
auto inspect(Inspector& f, remove_file& x) {
  return inspect_object(f, x, field("path", x.path), field("recursive", x.recursive),
                        field("user", x.user));
}

template <class Inspector>
auto inspect(Inspector& f, export_workspace& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, import_workspace& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, commit_import& x) {
  return inspect_object(f, x, field("handle", x.handle));
}

template <class Inspector>
auto inspect(Inspector& f, materialized_files& x) {
  return inspect_object(f, x, field("items", x.items));
}

template <class Inspector>
auto inspect(Inspector& f, snapshot_restorable& x) {
  return inspect_object(f, x, field("ref", x.ref));
}

template <class Inspector>
auto inspect(Inspector& f, restore_snapshot& x) {
  return inspect_object(f, x, field("ref", x.ref), field("session_id", x.session_id),
                        field("tenant", x.tenant), field("root", x.root));
}

template <class Inspector>
auto inspect(Inspector& f, checkpoint_session& x) {
  return inspect_object(f, x, field("name", x.name));
}

template <class Inspector>
auto inspect(Inspector& f, rewind_session& x) {
  return inspect_object(f, x, field("snapshot_id", x.snapshot_id));
}

template <class Inspector>
auto inspect(Inspector& f, diff_session& x) {
  return inspect_object(f, x, field("from", x.from), field("to", x.to), field("text", x.text));
}

template <class Inspector>
auto inspect(Inspector& f, fork_session& x) {
  return inspect_object(f, x, field("ids", x.ids));
}

template <class Inspector>
auto inspect(Inspector& f, fork_plan& x) {
  return inspect_object(f, x, field("spec", x.spec), field("warnings", x.warnings));
}

template <class Inspector>
auto inspect(Inspector& f, verify_snapshot& x) {
  return inspect_object(f, x, field("id", x.id), field("tenant", x.tenant));
}

template <class Inspector>
auto inspect(Inspector& f, diff_snapshots& x) {
  return inspect_object(f, x, field("tenant", x.tenant), field("from", x.from), field("to", x.to),
                        field("text", x.text));
}

template <class Inspector>
auto inspect(Inspector& f, prune_snapshots& x) {
  return inspect_object(f, x, field("tenant", x.tenant), field("max_age_ms", x.max_age_ms),
                        field("max_count", x.max_count), field("max_bytes", x.max_bytes),
                        field("dry_run", x.dry_run));
}

template <class Inspector>
auto inspect(Inspector& f, prune_report& x) {
  return inspect_object(f, x, field("removed", x.removed));
}

template <class Inspector>
auto inspect(Inspector& f, remove_snapshot& x) {
  return inspect_object(f, x, field("id", x.id), field("tenant", x.tenant));
}

template <class Inspector>
auto inspect(Inspector& f, publish_event& x) {
  return inspect_object(f, x, field("event", x.event));
}

template <class Inspector>
auto inspect(Inspector& f, deliver_event& x) {
  return inspect_object(f, x, field("event", x.event));
}

template <class Inspector>
auto inspect(Inspector& f, flush_events& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, poll_events& x) {
  return inspect_object(f, x, field("after_id", x.after_id), field("session_id", x.session_id),
                        field("tenant", x.tenant), field("limit", x.limit),
                        field("wait_ms", x.wait_ms), field("from_now", x.from_now));
}

template <class Inspector>
auto inspect(Inspector& f, event_page& x) {
  return inspect_object(f, x, field("items", x.items), field("next_after", x.next_after));
}

template <class Inspector>
auto inspect(Inspector& f, get_node& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, node_info& x) {
  return inspect_object(f, x, field("id", x.id), field("status", x.status),
                        field("sessions", x.sessions), field("capacity", x.capacity),
                        field("version", x.version));
}

template <class Inspector>
auto inspect(Inspector& f, shutdown_node& x) {
  return inspect_object(f, x, field("deadline_ms", x.deadline_ms));
}

template <class Inspector>
auto inspect(Inspector& f, shutdown_report& x) {
  return inspect_object(f, x, field("stopped", x.stopped), field("failed", x.failed));
}

template <class Inspector>
auto inspect(Inspector& f, get_record& x) {
  return inspect_object(f, x, field("id", x.id));
}

template <class Inspector>
auto inspect(Inspector& f, peek_session& x) {
  return inspect_object(f, x, field("id", x.id), field("tenant", x.tenant));
}

template <class Inspector>
auto inspect(Inspector& f, normalize_path& x) {
  return inspect_object(f, x, field("path", x.path), field("for_write", x.for_write));
}

template <class Inspector>
auto inspect(Inspector& f, normalized_path& x) {
  return inspect_object(f, x, field("absolute", x.absolute), field("relative", x.relative));
}

template <class Inspector>
auto inspect(Inspector& f, patch_workspace& x) {
  return inspect_object(f, x, field("text", x.text), field("operations", x.operations),
                        field("cwd", x.cwd), field("user", x.user), field("partial", x.partial));
}

template <class Inspector>
auto inspect(Inspector& f, patched_entry& x) {
  return inspect_object(f, x, field("path", x.path), field("change", x.change),
                        field("moved_to", x.moved_to));
}

template <class Inspector>
auto inspect(Inspector& f, patch_answer& x) {
  return inspect_object(f, x, field("text", x.text), field("files", x.files));
}

template <class Inspector>
auto inspect(Inspector& f, extract_archive& x) {
  return inspect_object(f, x, field("path", x.path), field("scheme", x.scheme));
}

template <class Inspector>
auto inspect(Inspector& f, commit_extract& x) {
  return inspect_object(f, x, field("handle", x.handle));
}

template <class Inspector>
auto inspect(Inspector& f, resolve_port& x) {
  return inspect_object(f, x, field("port", x.port));
}

template <class Inspector>
auto inspect(Inspector& f, port_endpoint& x) {
  return inspect_object(f, x, field("host", x.host), field("port", x.port), field("tls", x.tls),
                        field("query", x.query));
}

} // namespace troupe
