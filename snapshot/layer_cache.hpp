#pragma once

#include "messages/error.hpp"
#include "messages/unique_fd.hpp"
#include "snapshot/blob_store.hpp"

#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

namespace troupe::snapshot {

/// Unpacked layers that somebody uses: while this lives, they stay. May be held by any thread, and
/// by several processes.
struct layer_lease {
  /// Absolute paths, the oldest layer first. Each is a lower directory for an overlay mount
  /// (whiteouts are devices 0/0); whoever mounts them names the newest first.
  std::vector<std::string> folders;
  std::vector<std::string> digests; ///< of the layers, for `persist_request::lower_layers`
  std::vector<unique_fd> locks;
};

/// Layers unpacked once per machine, each in `{folder}/{boot id}/{digest}`: nothing is synced, so
/// what another boot left is not believed and goes. Above `max_bytes` those used longest ago go, if
/// nobody holds them. The locks are the kernel's: they end with the process.
class layer_cache {
public:
  /// `owner`: see `cache_options`.
  layer_cache(std::string folder, uint64_t max_bytes, uint32_t owner);

  /// Unpacks what is missing. Fails where device nodes cannot be made (then there is no overlay
  /// either), and like a restore for damaged blobs.
  result<std::shared_ptr<const layer_lease>>
  acquire(const blob_store& store, const std::vector<layer_info>& layers, std::stop_token stop);

  /// Those of them that are unpacked already.
  std::shared_ptr<const layer_lease> pin(const std::vector<layer_info>& layers);

  /// Whether files of it can be given to a tree there without copying (reflinks).
  bool can_clone_to(int folder_fd);

  /// Removes what is too much.
  void trim();

private:
  result<void> add(const blob_store& store, const layer_info& layer,
                   const std::vector<std::string>& older, std::stop_token stop);
  unique_fd lock(const std::string& digest) const;
  void keep(layer_lease& lease, const layer_info& layer, unique_fd held) const;
  result<void> give_away(int layer_fd) const;
  result<void> open_folder();

  std::string folder_;
  uint64_t max_bytes_;
  uint32_t owner_;
  std::mutex mutex_; ///< one layer is unpacked at a time, so that none is twice
  unique_fd fd_;
};

} // namespace troupe::snapshot
