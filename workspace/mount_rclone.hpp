#pragma once

#include "messages/error.hpp"
#include "messages/mount.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::workspace {

/// Where configurations are, relative to the root.
constexpr const char* rclone_config_folder = ".sandbox-rclone-config";

/// Where a mount is to be attached, and what its sandbox has.
struct rclone_place {
  std::string session_id;
  std::string root;                       ///< of the workspace, normal
  std::string target;                     ///< where the mount goes, absolute
  std::optional<std::string> base_config; ///< the text of the pattern's `config_file_path`
  bool has_timeout = true;                ///< the program `timeout`
};

/// All that a session runs to attach a mount by rclone, and to detach it. Commands need no shell
/// around them.
struct rclone_mount {
  std::string folder; ///< relative to the root; of the configuration, to leave out of snapshots
  std::string config_path; ///< relative to the root; mode 0600
  std::string config;
  /// Must succeed first, else `mount_missing_tool` with the tool `rclone serve nfs`; empty:
  /// nothing.
  std::vector<std::string> probe;
  std::vector<std::vector<std::string>> attach; ///< in this order, each must succeed
  std::vector<std::vector<std::string>> detach; ///< in this order, whatever they say
};

/// `mount_config_invalid` for what cannot be said to rclone, and for a `base_config` that has no
/// section for the remote.
result<rclone_mount> plan_rclone_mount(const mount_entry& x, const rclone_place& place);

} // namespace troupe::workspace
