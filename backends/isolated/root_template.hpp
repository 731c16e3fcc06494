#pragma once

#include "backends/isolated/launch.hpp"
#include "messages/error.hpp"

#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace troupe::backends::isolated {

/// The read-only root file systems that sandboxes start from: directories that are made once and
/// mounted by every sandbox.
class root_templates {
public:
  /// `source`: `host`, for the host's own programs with an /etc of ours, or a directory that has a
  /// root file system.
  /// `keep_old`: those of an earlier process are in use.
  root_templates(std::string dir, std::string source, bool keep_old);

  /// (blocks) The mounts of a root with a place for the workspace at `workspace` (absolute), the
  /// root itself first; without the workspace's own. When there are too many different ones to be
  /// kept, the session's is made in `private_dir`.
  result<std::vector<mount_plan>> mounts(const std::string& workspace,
                                         const std::string& private_dir);

private:
  result<std::string> make(const std::string& workspace, const std::string& private_dir);

  result<void> fill(const std::string& path, const std::string& workspace) const;

  std::string dir_;
  std::string source_;
  bool swept_; ///< guarded; nothing of an earlier process is to be removed
  std::mutex mutex_;
  std::map<std::string, std::string> made_; ///< guarded; template by workspace
};

} // namespace troupe::backends::isolated
