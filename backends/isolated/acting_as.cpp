#include "backends/isolated/acting_as.hpp"

#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

namespace troupe::backends::isolated {

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
  : uid_(::geteuid()), gid_(::getegid()), changed_(uid_ == 0 && who.uid != 0) {
  if (!changed_)
    return;
  own_groups();
  set_groups(who.groups);
  ::setfsgid(who.gid);
  ::setfsuid(who.uid); // last: with it the file capabilities go
  if (static_cast<uint32_t>(::setfsuid(static_cast<uid_t>(-1))) != who.uid)
    std::abort();
}

acting_as::~acting_as() {
  if (!changed_)
    return;
  ::setfsuid(uid_);
  ::setfsgid(gid_);
  set_groups(own_groups());
}

} // namespace troupe::backends::isolated
