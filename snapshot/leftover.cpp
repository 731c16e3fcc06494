#include "snapshot/leftover.hpp"

#include "workspace/tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

namespace troupe::snapshot {

int make_locked(const std::function<int()>& make) {
  for (;;) {
    int made = make();
    if (made < 0)
      return made;
    unique_fd fd{made};
    while (::flock(fd.get(), LOCK_EX) != 0)
      if (errno != EINTR)
        return -errno;
    struct stat st;
    if (::fstat(fd.get(), &st) != 0)
      return -errno;
    if (st.st_nlink > 0)
      return fd.release();
  }
}

void remove_leftovers(int dir_fd, const std::function<bool(std::string_view)>& matches) {
  struct close_dir {
    void operator()(DIR* x) const {
      ::closedir(x);
    }
  };
  int listing = ::openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  std::unique_ptr<DIR, close_dir> dir{listing < 0 ? nullptr : ::fdopendir(listing)};
  if (!dir)
    return;
  std::vector<std::string> found;
  while (auto* item = ::readdir(dir.get()))
    if (matches(item->d_name))
      found.emplace_back(item->d_name);
  for (const auto& name : found) {
    unique_fd fd{::openat(dir_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
    if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0)
      (void) workspace::remove_tree(dir_fd, name);
  }
}

} // namespace troupe::snapshot
