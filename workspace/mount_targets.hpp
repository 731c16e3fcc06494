#pragma once

#include "messages/error.hpp"
#include "messages/manifest.hpp"

#include <string>
#include <vector>

namespace troupe::workspace {

/// Where a mount goes.
struct mount_target {
  const mount_entry* mount = nullptr; ///< into the manifest
  std::string path;                   ///< absolute
  std::string inside; ///< the same below the root, "." for the root itself; empty: elsewhere
};

bool has_mounts(const manifest& x);

/// The mounts at any depth, those with the longest paths (by components) first; equally long ones
/// in the order of the manifest. `invalid_manifest_path` as for the paths of entries.
result<std::vector<mount_target>> mount_targets(const manifest& x);

/// Whether `path`, a normal path to leave out of snapshots, keeps clear of all mounts: it must not
/// be, contain or lie below where one goes. `mount_config_invalid`.
result<void> check_skip_path(const manifest& x, const std::string& path);

} // namespace troupe::workspace
