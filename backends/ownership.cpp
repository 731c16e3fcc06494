#include "backends/ownership.hpp"

#include "backends/granted_ids.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace troupe::backends {

namespace {

/// The server's own, which do not change while it runs.
const std::vector<gid_t>& own_groups() {
  static const std::vector<gid_t> groups = [] {
    std::vector<gid_t> out(static_cast<size_t>(::getgroups(0, nullptr)));
    if (!out.empty())
      out.resize(static_cast<size_t>(::getgroups(static_cast<int>(out.size()), out.data())));
    return out;
  }();
  return groups;
}

void set_groups(const std::vector<uint32_t>& groups) {
  if (::syscall(SYS_setgroups, groups.size(), groups.data()) != 0)
    std::abort(); // with the rights of the wrong groups, nothing may be done
}

} // namespace

acting_as::acting_as(const user_ids& who)
  : uid_(::geteuid()), gid_(::getegid()),
    changed_((uid_ == 0 || granted_ids()) && who.uid != uid_) {
  if (!changed_)
    return;
  own_groups();
  set_groups(who.groups);
  ::setfsgid(who.gid);
  ::setfsuid(who.uid); // last: with it the file capabilities go, if it was 0 before
  if (static_cast<uint32_t>(::setfsuid(static_cast<uid_t>(-1))) != who.uid)
    std::abort();
  use_file_rights(false);
}

acting_as::~acting_as() {
  if (!changed_)
    return;
  ::setfsuid(uid_);
  ::setfsgid(gid_);
  set_groups(own_groups());
  use_file_rights(true);
}

result<void> give_tree(int root_fd, const user_ids& to) {
  auto own = ::geteuid();
  int failed = 0;
  auto give = [&](int dir, const char* name, int flags) {
    if (::fchownat(dir, name, to.uid, to.gid, flags) != 0 && errno != ENOENT)
      failed = errno;
  };
  auto walked = workspace::walk(root_fd, [&](const workspace::tree_item& x) {
    if (x.info->st_uid == own)
      give(x.parent_fd, x.name, AT_SYMLINK_NOFOLLOW);
    return workspace::walk_next::enter;
  });
  if (!walked)
    return walked;
  struct stat info {};
  if (::fstat(root_fd, &info) == 0 && info.st_uid == own)
    give(root_fd, "", AT_EMPTY_PATH);
  if (failed != 0)
    return unexpected{
      make_error(errc::workspace_start_error, op::start,
                 std::string{"cannot give the workspace to its user: "} + std::strerror(failed))};
  return {};
}

} // namespace troupe::backends
