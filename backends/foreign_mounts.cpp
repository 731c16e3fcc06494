#include "backends/foreign_mounts.hpp"

#include "backends/granted_ids.hpp"
#include "backends/proc.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>
#include <vector>

namespace troupe::backends {

namespace {

/// Where helpers have mounted something at or below `folder`, in the order in which they did.
std::vector<std::string> helper_mounts(const std::string& folder) {
  std::vector<std::string> out;
  std::istringstream mounts{read_kernel_file(AT_FDCWD, "/proc/self/mountinfo")};
  for (std::string line; std::getline(mounts, line);) {
    auto kind = line.find(" - ");
    if (kind == std::string::npos)
      continue;
    kind += 3;
    if (line.compare(kind, 5, "fuse.") != 0 && line.compare(kind, 3, "nfs") != 0)
      continue;
    std::istringstream fields{line};
    std::string skipped;
    std::string target;
    fields >> skipped >> skipped >> skipped >> skipped >> target;
    target = unescape_mount_path(target);
    if (target == folder || target.starts_with(folder + "/"))
      out.push_back(std::move(target));
  }
  return out;
}

} // namespace

bool can_mount_fuse() {
  return ::access("/dev/fuse", R_OK | W_OK) == 0
         && (::geteuid() == 0
             // Which has no rights of root in a user namespace of ours.
             || (!granted_ids() && ::access("/usr/bin/fusermount3", X_OK) == 0));
}

result<void> detach_helper_mounts(const std::string& folder) {
  auto mounts = helper_mounts(folder);
  for (auto at = mounts.rbegin(); at != mounts.rend(); ++at)
    if (::umount2(at->c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL
        && errno != ENOENT)
      return unexpected(make_error(errc::mount_failed, op::materialize,
                                   "cannot detach " + *at + ": " + std::strerror(errno))
                          .with("path", *at));
  return {};
}

} // namespace troupe::backends
