#pragma once

#include "messages/error.hpp"
#include "messages/manifest.hpp"
#include "messages/snapshot.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace troupe {

enum class backend_kind : uint8_t { unix_local, isolated, docker };

/// What a sandbox sees of networks.
enum class network_mode : uint8_t {
  none,  ///< a loopback of its own
  host,  ///< the server's own network
  allow, ///< a loopback of its own, with a proxy to what is named
};

enum class session_status : uint8_t { created, starting, running, stopping, stopped, failed };

/// Whose files win when a workspace that is still there differs from its snapshot.
enum class workspace_conflict : uint8_t {
  snapshot_wins,
  live_wins,
  fail, ///< neither: the start is refused
};

std::string_view to_string(backend_kind kind);
std::string_view to_string(session_status status);
std::string_view to_string(network_mode mode);
std::optional<network_mode> network_from_string(std::string_view name);
std::string_view to_string(workspace_conflict policy);
std::optional<backend_kind> backend_from_string(std::string_view name);
std::optional<session_status> status_from_string(std::string_view name);
std::optional<workspace_conflict> conflict_from_string(std::string_view name);

/// What a state of the docker backend has beside the common fields.
struct docker_container {
  std::string image;
  std::string container_id;
  std::optional<std::string> network_mode;
  std::map<std::string, std::string> labels;
};

/// What a session may use. nullopt: the server's default, or no limit.
struct session_limits {
  std::optional<int64_t> exec_timeout_ms;
  std::optional<int64_t> output_bytes; ///< kept of each stream of a buffered exec
  std::optional<int64_t> memory_bytes;
  std::optional<int64_t> pids;
  std::optional<int64_t> cpu_millis; ///< thousandths of a processor
  std::optional<int64_t> disk_bytes;
  std::optional<int64_t> disk_inodes;
  std::optional<int64_t> open_files; ///< of one process
};

/// The serialisable record that a session can be resumed from, on any server that reaches its
/// snapshot.
struct session_state {
  backend_kind type = backend_kind::unix_local;
  std::string session_id;
  snapshot_ref snapshot;
  troupe::manifest manifest;
  std::vector<int32_t> exposed_ports;
  session_limits limits;
  network_mode network = network_mode::none; ///< isolated only
  std::vector<std::string> network_allow;    ///< of `allow`: "host:port"
  std::optional<std::string> snapshot_fingerprint;
  std::optional<std::string> snapshot_fingerprint_version;
  bool workspace_root_ready = false;
  bool workspace_root_owned = false; ///< unix_local: we made the root and remove it on delete
  std::optional<docker_container> container; ///< docker only: kept for whoever has that backend
  /// Paths of grants whose host path was taken out; they must be bound again before a resume.
  std::vector<std::string> redacted_host_path_grants;
  /// Credentials of mounts were taken out; they must be bound again before a resume.
  bool mount_authority_redacted = false;
};

/// How many things one application of a manifest does at once; nullopt: as many as there are.
struct concurrency_limits {
  std::optional<int32_t> manifest_entries = 4;
  std::optional<int32_t> local_dir_files = 4;
};

/// What an uploaded archive may cost, counted on real bytes; nullopt: no limit.
struct archive_limits {
  std::optional<int64_t> max_input_bytes = int64_t{1} << 30; ///< as it comes in
  std::optional<int64_t> max_extracted_bytes = int64_t{4} << 30;
  std::optional<int64_t> max_members = 100'000; ///< the root itself is none
};

/// Everything that a client says when it makes or resumes a session.
struct session_spec {
  std::string id; ///< empty on the way in: the server chooses
  std::string tenant = "default";
  session_state state;
  concurrency_limits concurrency;
  archive_limits archives;
  workspace_conflict on_conflict = workspace_conflict::snapshot_wins;
  std::map<std::string, std::string> labels;
  std::optional<int64_t> idle_timeout_ms;
  std::optional<int64_t> max_lifetime_ms;
  bool start = true;
  bool resumed = false; ///< made from a state, not from a manifest
};

/// The part of a session's record that changes while it lives; small, since it is written often.
struct session_live {
  session_status status = session_status::created;
  uint64_t epoch = 1; ///< grows with every new owner; an older one must let go
  uint32_t restarts = 0;
  int64_t created_at_ms = 0;
  int64_t started_at_ms = 0; ///< 0: never
  int64_t last_used_at_ms = 0;
  std::optional<error> last_error;
  std::vector<std::string> persist_skip; ///< registered at run time
  std::vector<std::string> warnings;     ///< of the last stop
  std::optional<std::string> snapshot_fingerprint;
  std::optional<std::string> snapshot_fingerprint_version;
  bool workspace_root_ready = false;
  std::string base_snapshot; ///< id of what the workspace came from, or was last saved to
  std::vector<std::string> checkpoints; ///< ids of its restore points, the oldest first
  uint64_t event_seq = 0;               ///< of its last event
};

/// The durable record of a session; its owner of truth is the registry. What `live` repeats of
/// `spec.state` is the newer of the two.
struct session_record {
  session_spec spec;
  session_live live;
};

/// Live use of a session's resources.
struct session_usage {
  int64_t cpu_ms = 0;
  int64_t memory_bytes = 0;
  std::optional<int64_t> disk_bytes; ///< where the workspace is a file system of its own
  int32_t pids = 0;
};

/// One wall between a sandbox and its host.
struct session_wall {
  std::string name;
  bool enforced = false;
  std::string note;
};

/// What a client sees of a session.
struct session_view {
  session_record record;
  std::string node;
  session_usage usage;
  std::vector<session_wall> walls;
};

template <class Inspector>
auto inspect(Inspector& f, docker_container& x) {
  return inspect_object(f, x, field("image", x.image), field("container_id", x.container_id),
                        field("network_mode", x.network_mode), field("labels", x.labels));
}

template <class Inspector>
auto inspect(Inspector& f, session_limits& x) {
  return inspect_object(f, x, field("exec_timeout_ms", x.exec_timeout_ms),
                        field("output_bytes", x.output_bytes),
                        field("memory_bytes", x.memory_bytes), field("pids", x.pids),
                        field("cpu_millis", x.cpu_millis), field("disk_bytes", x.disk_bytes),
                        field("disk_inodes", x.disk_inodes), field("open_files", x.open_files));
}

template <class Inspector>
auto inspect(Inspector& f, session_state& x) {
  return inspect_object(
    f, x, field("type", x.type), field("session_id", x.session_id), field("snapshot", x.snapshot),
    field("manifest", x.manifest), field("exposed_ports", x.exposed_ports),
    field("limits", x.limits), field("network", x.network), field("network_allow", x.network_allow),
    field("snapshot_fingerprint", x.snapshot_fingerprint),
    field("snapshot_fingerprint_version", x.snapshot_fingerprint_version),
    field("workspace_root_ready", x.workspace_root_ready),
    field("workspace_root_owned", x.workspace_root_owned), field("container", x.container),
    field("redacted_host_path_grants", x.redacted_host_path_grants),
    field("mount_authority_redacted", x.mount_authority_redacted));
}

template <class Inspector>
auto inspect(Inspector& f, concurrency_limits& x) {
  return inspect_object(f, x, field("manifest_entries", x.manifest_entries),
                        field("local_dir_files", x.local_dir_files));
}

template <class Inspector>
auto inspect(Inspector& f, archive_limits& x) {
  return inspect_object(f, x, field("max_input_bytes", x.max_input_bytes),
                        field("max_extracted_bytes", x.max_extracted_bytes),
                        field("max_members", x.max_members));
}

template <class Inspector>
auto inspect(Inspector& f, session_spec& x) {
  return inspect_object(f, x, field("id", x.id), field("tenant", x.tenant), field("state", x.state),
                        field("concurrency", x.concurrency), field("archives", x.archives),
                        field("on_conflict", x.on_conflict), field("labels", x.labels),
                        field("idle_timeout_ms", x.idle_timeout_ms),
                        field("max_lifetime_ms", x.max_lifetime_ms), field("start", x.start),
                        field("resumed", x.resumed));
}

template <class Inspector>
auto inspect(Inspector& f, session_live& x) {
  return inspect_object(
    f, x, field("status", x.status), field("epoch", x.epoch), field("restarts", x.restarts),
    field("created_at_ms", x.created_at_ms), field("started_at_ms", x.started_at_ms),
    field("last_used_at_ms", x.last_used_at_ms), field("last_error", x.last_error),
    field("persist_skip", x.persist_skip), field("warnings", x.warnings),
    field("snapshot_fingerprint", x.snapshot_fingerprint),
    field("snapshot_fingerprint_version", x.snapshot_fingerprint_version),
    field("workspace_root_ready", x.workspace_root_ready), field("base_snapshot", x.base_snapshot),
    field("checkpoints", x.checkpoints), field("event_seq", x.event_seq));
}

template <class Inspector>
auto inspect(Inspector& f, session_record& x) {
  return inspect_object(f, x, field("spec", x.spec), field("live", x.live));
}

template <class Inspector>
auto inspect(Inspector& f, session_usage& x) {
  return inspect_object(f, x, field("cpu_ms", x.cpu_ms), field("memory_bytes", x.memory_bytes),
                        field("disk_bytes", x.disk_bytes), field("pids", x.pids));
}

template <class Inspector>
auto inspect(Inspector& f, session_wall& x) {
  return inspect_object(f, x, field("name", x.name), field("enforced", x.enforced),
                        field("note", x.note));
}

template <class Inspector>
auto inspect(Inspector& f, session_view& x) {
  return inspect_object(f, x, field("record", x.record), field("node", x.node),
                        field("usage", x.usage), field("walls", x.walls));
}

} // namespace troupe
