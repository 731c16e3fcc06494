#pragma once

#include "actors/local_messages.hpp"
#include "actors/repository_layers.hpp"
#include "actors/sinks/sink_set.hpp"
#include "actors/snapshot_pins.hpp"
#include "backends/runtime.hpp"
#include "backends/thread_pool.hpp"
#include "snapshot/repository.hpp"
#include "workspace/dependencies.hpp"
#include "workspace/materialize.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::actors {

/// How much a tenant keeps of the snapshots that no session needs to go on. Nullopt: no bound.
struct retention_policy {
  std::optional<int64_t> max_age_ms;
  std::optional<int64_t> max_count;
  std::optional<int64_t> max_bytes; ///< of the files inside
};

/// What an operator configures of a node. Durations in milliseconds.
struct node_config {
  std::string node_id = "local";
  std::string state_dir;
  backend_kind default_backend = backend_kind::isolated;
  uint32_t shards = 8;
  uint32_t max_sessions = 10'000;
  /// Starts and resumes at once on this node; more wait.
  uint32_t concurrent_starts = 32;
  /// Waiting or running requests of one session; over it: `overloaded`.
  uint32_t requests_per_session = 1024;
  int64_t default_output_bytes = 10 * 1024 * 1024;
  /// Kept by a session at once for reading and writing files.
  uint32_t open_files_per_session = 64;
  uint32_t snapshot_jobs = 2;
  uint32_t queued_snapshot_jobs = 64;
  std::vector<std::string> env_allowlist
    = {"PATH", "LANG", "LANGUAGE", "LC_*", "TERM", "TZ", "USER", "LOGNAME", "SHELL"};
  workspace::local_source_policy local_sources;
  /// Object stores for snapshots of type `remote`, by `client_dependency_key`.
  std::map<std::string, snapshot::remote_options> snapshot_stores;
  /// The most that copies of what they have may take on this machine.
  uint64_t remote_cache_bytes = uint64_t{20} << 30;
  retention_policy retention;
  std::map<std::string, retention_policy> tenant_retention; ///< instead of `retention`
  /// Between two looks at what goes, also in the remote stores.
  int64_t retention_interval_ms = 600'000;
  backends::isolated_options isolated;
  /// Whether a manifest's own path grants widen what local sources may read; only where the
  /// manifest is the operator's (`troupe run`).
  bool grants_widen_sources = false;
  /// Restarts of a session in `restart_window_ms` before it counts as failed.
  uint32_t max_restarts = 3;
  int64_t restart_window_ms = 60'000;
  /// Before the first restart; doubled for each further one in the window.
  int64_t restart_backoff_ms = 100;
  /// Who gets events besides the journal, and what of them.
  std::vector<sink_config> event_sinks;
  actors::event_policies event_policies;
  /// Objects of the embedding program; every session gets a clone of its own. Null: none.
  std::shared_ptr<const workspace::dependencies> dependencies;
};

/// A running session's workspace, for what the node itself writes into it.
struct open_workspace {
  shared_fd root;
  std::optional<backends::user_ids> owner; ///< as whom; nullopt: as this process
};

/// The current handles of the actors that a restart may replace.
class directory {
public:
  /// The actors of one session, for a supervisor that takes over from one that died.
  struct session_actors {
    local_session_actor session;
    backend_actor backend;
    std::string tenant = {};
    bool reachable = true; ///< false: only its supervisor can say why not
  };

  registry_actor registry() const {
    std::lock_guard lock{mutex_};
    return registry_;
  }
  event_hub_actor events() const {
    std::lock_guard lock{mutex_};
    return events_;
  }
  local_snapshot_store_actor snapshots() const {
    std::lock_guard lock{mutex_};
    return snapshots_;
  }
  local_supervisor_actor supervisor(uint32_t shard) const {
    std::lock_guard lock{mutex_};
    return supervisors_.at(shard);
  }
  std::vector<local_supervisor_actor> supervisors() const {
    std::lock_guard lock{mutex_};
    return supervisors_;
  }

  // What is replaced goes after the lock: with its last handle an actor ends, and may look here.

  // -- written by the node
  // ----------------------------------------------------------------------------

  void set(registry_actor x) {
    std::lock_guard lock{mutex_};
    std::swap(registry_, x);
  }
  void set(event_hub_actor x) {
    std::lock_guard lock{mutex_};
    std::swap(events_, x);
  }
  void set(local_snapshot_store_actor x) {
    std::lock_guard lock{mutex_};
    std::swap(snapshots_, x);
  }
  void set(uint32_t shard, local_supervisor_actor x) {
    std::lock_guard lock{mutex_};
    supervisors_.resize(std::max<size_t>(supervisors_.size(), shard + 1));
    std::swap(supervisors_[shard], x);
  }
  /// Lets go of every handle: the system goes down.
  void clear() {
    set(registry_actor{});
    set(event_hub_actor{});
    set(local_snapshot_store_actor{});
    decltype(supervisors_) supervisors;
    decltype(sessions_) sessions;
    decltype(dependencies_) dependencies;
    std::lock_guard lock{mutex_};
    supervisors.swap(supervisors_);
    sessions.swap(sessions_);
    dependencies.swap(dependencies_);
    workspaces_.clear();
  }

  // -- written by a session's supervisor
  // --------------------------------------------------------------

  void set(const std::string& session_id, session_actors x) {
    std::lock_guard lock{mutex_};
    std::swap(sessions_[session_id], x);
  }
  /// Requests go by way of the supervisor from now on, which knows what to answer.
  void hide(const std::string& session_id) {
    std::lock_guard lock{mutex_};
    if (auto i = sessions_.find(session_id); i != sessions_.end())
      i->second.reachable = false;
  }
  void erase(const std::string& session_id) {
    decltype(sessions_)::node_type gone;
    std::lock_guard lock{mutex_};
    gone = sessions_.extract(session_id);
    workspaces_.erase(session_id);
  }
  session_actors find(const std::string& session_id) const {
    std::lock_guard lock{mutex_};
    auto i = sessions_.find(session_id);
    return i == sessions_.end() ? session_actors{} : i->second;
  }
  /// A session that takes requests now; null: its supervisor has to be asked.
  local_session_actor reachable(const std::string& session_id, const std::string& tenant) const {
    std::lock_guard lock{mutex_};
    auto i = sessions_.find(session_id);
    bool found = i != sessions_.end() && i->second.reachable && i->second.tenant == tenant;
    return found ? i->second.session : local_session_actor{};
  }

  std::vector<session_actors> sessions() const {
    std::lock_guard lock{mutex_};
    std::vector<session_actors> all;
    for (const auto& [id, x] : sessions_)
      all.push_back(x);
    return all;
  }

  // -- written by a session
  // ----------------------------------------------------------------------------

  /// Where the node may write into a session's workspace; nullopt: not now, as it is not running.
  void set_workspace(const std::string& session_id, std::optional<open_workspace> x) {
    std::lock_guard lock{mutex_};
    if (x)
      workspaces_[session_id] = std::move(*x);
    else
      workspaces_.erase(session_id);
  }
  std::optional<open_workspace> workspace_of(const std::string& session_id) const {
    std::lock_guard lock{mutex_};
    auto i = workspaces_.find(session_id);
    return i == workspaces_.end() ? std::nullopt : std::optional{i->second};
  }

  // -- used by whoever embeds the node
  // --------------------------------------------------------------

  /// The objects of a session, cloned from `of` (or empty) when first asked for; null for a session
  /// that is not known.
  std::shared_ptr<workspace::dependencies> dependencies_of(const std::string& session_id,
                                                           const workspace::dependencies* of) {
    std::lock_guard lock{mutex_};
    if (!sessions_.contains(session_id))
      return nullptr;
    auto& x = dependencies_[session_id];
    if (!x)
      x = of ? of->clone() : std::make_unique<workspace::dependencies>();
    return x;
  }
  /// Takes them away, to be closed; null: nobody asked for them.
  std::shared_ptr<workspace::dependencies> take_dependencies(const std::string& session_id) {
    std::lock_guard lock{mutex_};
    auto node = dependencies_.extract(session_id);
    return node ? std::move(node.mapped()) : nullptr;
  }

private:
  mutable std::mutex mutex_;
  registry_actor registry_;
  event_hub_actor events_;
  local_snapshot_store_actor snapshots_;
  std::vector<local_supervisor_actor> supervisors_;
  std::unordered_map<std::string, session_actors> sessions_;
  std::unordered_map<std::string, open_workspace> workspaces_;
  std::unordered_map<std::string, std::shared_ptr<workspace::dependencies>> dependencies_;
};

/// Counters for /metrics.
struct metrics {
  std::atomic<uint64_t> sessions_created{0};
  std::atomic<uint64_t> sessions_removed{0};
  std::atomic<uint64_t> session_restarts{0};
  std::atomic<uint64_t> commands_started{0};
  std::atomic<uint64_t> commands_failed{0};
  std::atomic<uint64_t> snapshots_persisted{0};
  std::atomic<uint64_t> snapshots_restored{0};
  std::atomic<uint64_t> events_published{0};
  std::atomic<uint64_t> events_dropped{0};
};

/// What the actors of one process share: made before the first of them, gone after the last.
struct services {
  node_config config;
  backends::runtime& runtime;
  backends::thread_pool& io;  ///< file trees, the registry: may block
  backends::thread_pool& cpu; ///< tar, zstd, hashing: may block, niced
  snapshot::repository& snapshots;
  actors::directory directory;
  actors::metrics metrics;
  std::unique_ptr<sink_set> sinks = nullptr;           ///< null: none are configured
  std::shared_ptr<repository_layers> layers = nullptr; ///< null: workspaces are copied
  snapshot_pins pins = {};
  std::stop_source stopping = {}; ///< the node ends: whatever takes long gives up
};

/// Milliseconds since the epoch, UTC.
inline int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
           std::chrono::system_clock::now().time_since_epoch())
    .count();
}

/// Where snapshots of a tenant go unless asked otherwise.
inline std::string snapshot_dir(const node_config& config, const std::string& tenant) {
  return config.state_dir + "/snapshots/" + tenant;
}

/// Where what remote stores have is on this machine.
inline std::string remote_dir(const node_config& config) {
  return config.state_dir + "/cache/remote";
}

/// The same snapshot with its folder on this machine.
inline snapshot_ref placed(const node_config& config, snapshot_ref ref, const std::string& tenant) {
  if (ref.kind == snapshot_kind::remote)
    ref.base_path
      = snapshot::remote_base_path(remote_dir(config), ref.client_dependency_key, tenant);
  return ref;
}

/// Where a session keeps what is its own.
inline std::string session_dir(const node_config& config, const std::string& id) {
  return config.state_dir + "/sessions/" + id;
}

/// Where a session's workspace is on this machine; inside, it may be elsewhere.
inline std::string workspace_dir(const node_config& config, const session_spec& spec) {
  if (spec.state.type != backend_kind::isolated)
    return spec.state.manifest.root;
  // With a limit, on the file system that holds it (backends/isolated/disk_image.hpp).
  return session_dir(config, spec.id)
         + (spec.state.limits.disk_bytes ? "/disk/workspace" : "/workspace");
}

} // namespace troupe::actors
