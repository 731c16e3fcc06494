#pragma once

#include "actors/services.hpp"

#include <cstdint>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::cli {

/// Whether a server that is no root takes the ids that /etc/subuid grants to its user.
enum class granted_ids_mode {
  never,
  if_possible, ///< not where `unix_local` is the default backend, whose commands would notice
  required,
};

/// What `troupe serve` is told. Every member is a field of the configuration file under the name in
/// its comment; command line options win over the file.
struct serve_config {
  std::string host = "127.0.0.1"; ///< `listen`: "HOST:PORT"
  uint16_t port = 8700;
  /// `state_dir`, `node_id`, `default_backend`, `max_sessions`, `env_allowlist`,
  /// `local_source_roots` (the first one is what a relative `src` is relative to), `event_sinks`,
  /// `event_policy`, `event_policy_by_op` (docs/events.md),
  /// `snapshot_stores`, `retention` (docs/snapshots.md)
  actors::node_config node;
  /// `api_keys`: [{"key": "...", "tenant": "..."}]. Without any, the server binds loopback only.
  std::unordered_map<std::string, std::string> keys;
  /// `snapshot_roots`: where tenants may keep local snapshots, besides the server's own folder.
  std::vector<std::string> snapshot_roots;
  /// `backends`: what sessions may ask for besides the default; empty: see `serve`.
  std::set<backend_kind> backends;
  size_t max_connections = 8192; ///< `max_connections`
  /// `shutdown_timeout_s`: how long a clean stop may take to bring sessions into snapshots.
  std::chrono::milliseconds shutdown_timeout{30'000};
  /// `isolated.granted_ids`: "never", "auto" or "required"
  granted_ids_mode granted_ids = granted_ids_mode::if_possible;
};

/// Reads a configuration file over `out`. Unknown fields are refused by name.
result<void> read_config(const std::string& path, serve_config& out);

/// Splits "HOST:PORT" ("[::1]:8700" for IPv6).
result<void> parse_listen(const std::string& text, serve_config& out);

/// Whether an address is only reachable from this machine.
bool is_loopback(const std::string& host);

/// The whole file, up to `limit` bytes.
result<std::string> read_text_file(const std::string& path, size_t limit = 64 * 1024 * 1024);

/// Writes beside and renames.
result<void> write_text_file(const std::string& path, const std::string& text);

} // namespace troupe::cli
