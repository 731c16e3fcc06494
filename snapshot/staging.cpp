#include "snapshot/staging.hpp"

#include "messages/ids.hpp"
#include "snapshot/leftover.hpp"
#include "snapshot/merge.hpp"
#include "snapshot/unpack.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

namespace troupe::snapshot {

namespace {

constexpr std::string_view marker = ".troupe-";
constexpr size_t random_bytes = 8;
constexpr size_t max_root_name = 200; // with the rest it stays below NAME_MAX

bool is_mount_point(int fd) {
  struct statx x;
  return ::statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &x) == 0
         && (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

std::string real_path(const std::string& path) {
  std::unique_ptr<char, decltype(&std::free)> real{::realpath(path.c_str(), nullptr), std::free};
  return real ? real.get() : path;
}

/// Names directly in `dir_fd`.
result<std::vector<std::string>> names_in(int dir_fd) {
  std::vector<std::string> names;
  auto ok = workspace::walk(dir_fd, [&](const workspace::tree_item& item) {
    names.emplace_back(item.path);
    return workspace::walk_next::skip;
  });
  if (!ok)
    return unexpected(std::move(ok.error()));
  return names;
}

} // namespace

result<staging> staging::make(const std::string& root) {
  staging x;
  x.root_ = root;
  if (root.starts_with("/proc/self/fd/")) {
    x.old_root_.reset(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!x.old_root_ || ::fstat(x.old_root_.get(), &x.old_info_) != 0)
      return unexpected(cannot_write(root, errno));
    x.inside_ = true;
    int made = x.create(".troupe-restore");
    if (made < 0)
      return unexpected(cannot_write(root, -made));
    x.fd_.reset(made);
    return x;
  }
  auto path = real_path(root);
  path.resize(path.find_last_not_of('/') + 1);
  auto slash = path.rfind('/');
  if (slash == path.npos || slash + 1 == path.size())
    return unexpected(cannot_write(root, EINVAL));
  x.root_name_ = path.substr(slash + 1);
  auto parent = workspace::open_or_make_directory(slash == 0 ? "/" : path.substr(0, slash), 0755);
  if (!parent)
    return unexpected(std::move(parent.error()));
  x.parent_ = std::move(*parent);
  x.old_root_.reset(::openat(x.parent_.get(), x.root_name_.c_str(),
                             O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!x.old_root_ && errno != ENOENT)
    return unexpected(cannot_write(root, errno));
  if (x.old_root_ && ::fstat(x.old_root_.get(), &x.old_info_) != 0)
    return unexpected(cannot_write(root, errno));
  x.inside_ = x.old_root_ && is_mount_point(x.old_root_.get());
  int fd = x.inside_ ? -EBUSY : x.create('.' + x.root_name_.substr(0, max_root_name));
  if (fd < 0 && x.old_root_ && (fd == -EBUSY || fd == -EACCES || fd == -EPERM || fd == -EROFS)) {
    x.inside_ = true;
    fd = x.create(".troupe-restore");
  }
  if (fd < 0)
    return unexpected(cannot_write(root, -fd));
  x.fd_.reset(fd);
  return x;
}

void staging::sweep(const std::string& root) {
  auto [parent, name] = workspace::split_last(real_path(root));
  unique_fd fd{::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!fd)
    return;
  auto prefix = '.' + name.substr(0, max_root_name) + std::string{marker};
  remove_leftovers(
    fd.get(), [&](std::string_view found) { return found.starts_with(prefix) && is_name(found); });
}

bool staging::is_name(std::string_view name) {
  auto at = name.rfind(marker);
  return name.starts_with('.') && at != name.npos && at > 0
         && name.size() - at - marker.size() == 2 * random_bytes
         && name.find_first_not_of("0123456789abcdef", at + marker.size()) == name.npos;
}

std::string staging::path() const {
  return (inside_ ? root_ : workspace::split_last(real_path(root_)).parent) + '/' + name_;
}

int staging::create(const std::string& prefix) {
  return make_locked([&] {
    name_ = prefix + std::string{marker} + random_hex(random_bytes);
    if (::mkdirat(container(), name_.c_str(), 0700) != 0)
      return -errno;
    int fd = ::openat(container(), name_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
  });
}

staging::~staging() {
  if (fd_) // not moved from
    (void) workspace::remove_tree(container(), name_);
}

result<void> staging::replace(bool has_mode) {
  if (inside_)
    return replace_entries();
  if (old_root_) {
    // An owner that we may not give away stays ours.
    if (::fchown(fd_.get(), old_info_.st_uid, old_info_.st_gid) != 0 && errno != EPERM)
      return unexpected(cannot_write(root_, errno));
    if (::fchmod(fd_.get(), old_info_.st_mode & 07777) != 0)
      return unexpected(cannot_write(root_, errno));
  } else if (!has_mode && ::fchmod(fd_.get(), 0755) != 0) {
    return unexpected(cannot_write(root_, errno));
  }
  unsigned how = old_root_ ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  if (::renameat2(parent_.get(), name_.c_str(), parent_.get(), root_name_.c_str(), how) != 0) {
    // Some file systems cannot exchange, or cannot rename a directory of a lower layer.
    if (old_root_ && (errno == EINVAL || errno == EXDEV || errno == EBUSY))
      return replace_entries();
    return unexpected(cannot_write(root_, errno));
  }
  if (!old_root_)
    fd_.reset(); // nothing is left to remove
  return {};
}

result<void> staging::replace_entries() {
  auto old_names = names_in(old_root_.get());
  if (!old_names)
    return unexpected(std::move(old_names.error()));
  auto new_names = names_in(fd_.get());
  if (!new_names)
    return unexpected(std::move(new_names.error()));
  std::erase(*old_names, inside_ ? name_ : "");
  // What was there goes to where the new tree comes from, under another name, and with it in the
  // end.
  auto attic_name = "old-" + random_hex(random_bytes);
  unique_fd attic;
  if (::mkdirat(fd_.get(), attic_name.c_str(), 0700) == 0)
    attic.reset(::openat(fd_.get(), attic_name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!attic)
    return unexpected(cannot_write(root_, errno));
  auto move_all = [](int from, int to, const std::vector<std::string>& names, size_t& moved) {
    for (moved = 0; moved < names.size(); ++moved)
      if (int err = move_entry(from, names[moved], to); err != 0 && err != ENOENT)
        return err;
    return 0;
  };
  size_t out = 0;
  size_t in = 0;
  int err = move_all(old_root_.get(), attic.get(), *old_names, out);
  if (err == 0)
    err = move_all(fd_.get(), old_root_.get(), *new_names, in);
  if (err == 0)
    return {};
  while (in > 0)
    (void) move_entry(old_root_.get(), (*new_names)[--in], fd_.get());
  while (out > 0)
    (void) move_entry(attic.get(), (*old_names)[--out], old_root_.get());
  return unexpected(cannot_write(root_, err));
}

result<void> staging::merge(const std::map<std::string, std::string>& implied) {
  if (!old_root_)
    return replace(false);
  return merge_tree(fd_.get(), old_root_.get(), root_, implied);
}

} // namespace troupe::snapshot
