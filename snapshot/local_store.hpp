#pragma once

#include "messages/error.hpp"
#include "messages/snapshot.hpp"
#include "messages/unique_fd.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::snapshot {

/// `{base_path}/{id}.tar`; an id that is not one path segment is `sandbox_config_invalid`.
result<std::string> local_path(const snapshot_ref& ref, op operation);

/// A snapshot being written to `{base_path}/.{id}.tar.{hex}.tmp`. Dropped without `commit`, it
/// leaves nothing. Errors: `snapshot_persist_error`, `no_space`.
class local_file {
public:
  /// Makes `base_path` with its parents.
  static result<local_file> create(const snapshot_ref& ref, const std::string& path);

  local_file(local_file&&) = default;
  local_file& operator=(local_file&&) = delete;
  ~local_file();

  result<void> write(const char* data, size_t size);

  /// Syncs the file, renames it over the snapshot of before, syncs the folder.
  result<void> commit();

  uint64_t size() const {
    return size_;
  }

private:
  local_file(const snapshot_ref& ref, const std::string& path) : id_(ref.id), path_(path) {}
  error failure(int err) const;
  error failure(errc code, std::string_view reason) const;

  std::string id_;
  std::string path_; ///< of the snapshot
  unique_fd folder_;
  std::string temporary_;
  unique_fd fd_; ///< holds the lock
  uint64_t size_ = 0;
  uint64_t flushed_ = 0;
};

/// Opens a stored snapshot for reading. `snapshot_restore_error`.
result<unique_fd> open_local(const snapshot_ref& ref, const std::string& path);

/// Removes files and trees that a dead process left half-written in `folder`.
void sweep_local(const std::string& folder);

/// Of the hidden snapshots that keep layers for workspaces.
inline constexpr std::string_view held_prefix = ".held-";

/// Ids of the snapshots in `folder`; none if it is missing.
std::vector<std::string> local_ids(const std::string& folder);

/// Ids of the hidden ones.
std::vector<std::string> held_ids(const std::string& folder);

} // namespace troupe::snapshot
