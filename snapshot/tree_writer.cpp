#include "snapshot/tree_writer.hpp"

#include "snapshot/tree_index.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace troupe::snapshot {

namespace {

// Without O_NOFOLLOW, so that RESOLVE_NO_SYMLINKS tells a link (ELOOP) from a file (ENOTDIR).
constexpr int directory_flags = O_RDONLY | O_DIRECTORY;

// Bytes remembered of directories without a member of their own; an ordinary archive has few.
constexpr size_t max_implied_bytes = 32 * 1024 * 1024;

write_fault fault(int err) {
  return {err, {}, {}};
}

write_fault fault(std::string reason, std::string member = {}) {
  return {0, std::move(reason), std::move(member)};
}

bool lies_in(std::string_view path, std::string_view directory) {
  return directory.empty()
         || (path.starts_with(directory)
             && (path.size() == directory.size() || path[directory.size()] == '/'));
}

int set_mtime(int dir_fd, const char* name, const timespec& mtime) {
  timespec times[2] = {{0, UTIME_OMIT}, mtime};
  auto status
    = name ? ::utimensat(dir_fd, name, times, AT_SYMLINK_NOFOLLOW) : ::futimens(dir_fd, times);
  return status == 0 ? 0 : errno;
}

} // namespace

tree_writer::tree_writer(int root_fd) : root_fd_(root_fd) {
  open_.push_back({0, 0755, {0, UTIME_OMIT}});
}

// -- members --------------------------------------------------------------------------------------

tree_writer::outcome tree_writer::add_directory(const std::string& path, const std::string& member,
                                                uint32_t mode,
                                                const std::optional<timespec>& mtime) {
  if (path.empty()) {
    if (auto bad = leave_to(path))
      return bad;
    root_named_ = true;
  } else {
    std::string name;
    if (auto bad = enter_parent(path, member, name))
      return bad;
    if (::mkdirat(top_.get(), name.c_str(), 0700) != 0 && errno != EEXIST)
      return fault(errno);
    struct stat st;
    if (::fstatat(top_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
      return fault(errno);
    if (!S_ISDIR(st.st_mode))
      return fault("duplicate archive path: " + path);
    if (auto bad = descend(name))
      return bad;
    implied_.erase(path);
  }
  open_.back().mode = mode & restored_directory_mode;
  if (mtime)
    open_.back().mtime = *mtime;
  return {};
}

tree_writer::outcome tree_writer::add_symlink(const std::string& path, const std::string& member,
                                              const std::string& target,
                                              const std::optional<timespec>& mtime) {
  std::string name;
  if (auto bad = enter_parent(path, member, name))
    return bad;
  if (::symlinkat(target.c_str(), top_.get(), name.c_str()) != 0)
    return errno == EEXIST ? occupied(path, member_kind::symlink) : fault(errno);
  if (mtime)
    if (int err = set_mtime(top_.get(), name.c_str(), *mtime))
      return fault(err);
  return {};
}

tree_writer::outcome tree_writer::add_hard_link(const std::string& path, const std::string& member,
                                                const std::string& target) {
  constexpr const char* refused = "hardlink member not allowed";
  std::string name;
  if (auto bad = enter_parent(path, member, name))
    return bad;
  auto slash = target.rfind('/');
  auto target_name = slash == target.npos ? target : target.substr(slash + 1);
  unique_fd target_dir{open_deep_directory(
    root_fd_, slash == target.npos ? "" : std::string_view{target}.substr(0, slash))};
  if (!target_dir || target_name.empty())
    return fault(refused);
  if (::linkat(target_dir.get(), target_name.c_str(), top_.get(), name.c_str(), 0) != 0) {
    switch (errno) {
      case EEXIST: return occupied(path, member_kind::hard_link);
      case ENOENT:
      case EPERM: return fault(refused); // EPERM: a directory
      default: return fault(errno);
    }
  }
  return {};
}

tree_writer::outcome tree_writer::add_whiteout(const std::string& path) {
  std::string name;
  if (auto bad = enter_parent(path, path, name))
    return bad;
  if (::mknodat(top_.get(), name.c_str(), S_IFCHR, makedev(0, 0)) != 0)
    return errno == EEXIST ? occupied(path, member_kind::other) : fault(errno);
  return {};
}

tree_writer::outcome tree_writer::set_xattrs(const std::vector<xattr>& all) {
  if (all.empty())
    return {};
  if (!file_)
    if (auto bad = make_top_current())
      return bad;
  for (const auto& x : all)
    if (is_kept_xattr(x.name)
        && ::fsetxattr(file_ ? file_.get() : top_.get(), x.name.c_str(), x.value.data(),
                       x.value.size(), 0)
             != 0
        && errno != ENOTSUP) // a file system without them; nothing can be done about it
      return fault(errno);
  return {};
}

tree_writer::outcome tree_writer::begin_file(const std::string& path, const std::string& member) {
  std::string name;
  if (auto bad = enter_parent(path, member, name))
    return bad;
  file_.reset(
    ::openat(top_.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file_)
    return errno == EEXIST ? occupied(path, member_kind::file) : fault(errno);
  file_end_ = 0;
  return {};
}

tree_writer::outcome tree_writer::write_file(std::string_view data, uint64_t offset) {
  if (offset != file_end_ && ::lseek(file_.get(), static_cast<off_t>(offset), SEEK_SET) < 0)
    return fault(errno);
  if (int err = workspace::write_all(file_.get(), data.data(), data.size()); err < 0)
    return fault(-err);
  file_end_ = offset + data.size();
  return {};
}

tree_writer::outcome tree_writer::clone_file(int from_fd, uint64_t size) {
  if (::ioctl(file_.get(), FICLONE, from_fd) != 0)
    if (int err = workspace::copy_data(from_fd, file_.get()); err < 0)
      return fault(-err);
  file_end_ = size;
  return {};
}

tree_writer::outcome tree_writer::end_file(uint64_t size, uint32_t mode,
                                           const std::optional<timespec>& mtime) {
  if (size != file_end_ && ::ftruncate(file_.get(), static_cast<off_t>(size)) != 0)
    return fault(errno);
  if (::fchmod(file_.get(), mode & restored_file_mode) != 0)
    return fault(errno);
  if (mtime)
    if (int err = set_mtime(file_.get(), nullptr, *mtime))
      return fault(err);
  file_.reset();
  return {};
}

tree_writer::outcome tree_writer::finish() {
  if (auto bad = leave_to(""))
    return bad;
  return close_top();
}

// -- directories ----------------------------------------------------------------------------------

/// Makes the directory that holds `path` the deepest open one; `name` becomes the last component.
tree_writer::outcome tree_writer::enter_parent(const std::string& path, const std::string& member,
                                               std::string& name) {
  auto slash = path.rfind('/');
  auto parent = slash == path.npos ? std::string_view{} : std::string_view{path}.substr(0, slash);
  name = slash == path.npos ? path : path.substr(slash + 1);
  if (auto bad = leave_to(parent))
    return bad;
  while (path_.size() < parent.size()) {
    auto begin = path_.empty() ? 0 : path_.size() + 1;
    auto end = std::min(parent.find('/', begin), parent.size());
    std::string part{parent.substr(begin, end - begin)};
    if (auto bad = make_top_current())
      return bad;
    bool is_new = ::mkdirat(top_.get(), part.c_str(), 0700) == 0;
    if (!is_new && errno != EEXIST)
      return fault(errno);
    if (auto bad = descend(part))
      return bad;
    if (is_new) {
      implied_bytes_ += path_.size() + member.size();
      if (implied_bytes_ > max_implied_bytes)
        return fault("archive member count exceeds limit");
      implied_.try_emplace(path_, member);
      open_.back().mode = 0755;
      open_.back().mtime = {0, UTIME_OMIT};
    }
  }
  return make_top_current();
}

/// Closes directories until the deepest open one contains `path`.
tree_writer::outcome tree_writer::leave_to(std::string_view path) {
  while (open_.size() > 1 && !lies_in(path, path_)) {
    if (auto bad = close_top())
      return bad;
    open_.pop_back();
    path_.resize(open_.back().path_size);
  }
  return {};
}

tree_writer::outcome tree_writer::close_top() {
  if (auto bad = make_top_current())
    return bad;
  const auto& x = open_.back();
  if (::fchmod(top_.get(), x.mode) != 0)
    return fault(errno);
  if (int err = set_mtime(top_.get(), nullptr, x.mtime))
    return fault(err);
  top_.reset();
  return {};
}

/// Opens the directory `name` in the deepest one. Its present mode and time are what it gets back.
tree_writer::outcome tree_writer::descend(const std::string& name) {
  auto path = path_.empty() ? name : path_ + '/' + name;
  int fd = workspace::open_beneath(top_.get(), name, directory_flags, 0, RESOLVE_NO_SYMLINKS);
  if (fd == -ELOOP)
    return fault("archive path descends through symlink: " + path);
  if (fd == -ENOTDIR)
    return fault("archive path descends through non-directory: " + path);
  if (fd < 0)
    return fault(-fd);
  top_.reset(fd);
  struct stat st;
  if (::fstat(fd, &st) != 0)
    return fault(errno);
  if ((st.st_mode & S_IRWXU) != S_IRWXU && ::fchmod(fd, (st.st_mode & 07777) | S_IRWXU) != 0)
    return fault(errno);
  path_ = std::move(path);
  open_.push_back({path_.size(), st.st_mode & 07777, st.st_mtim});
  return {};
}

tree_writer::outcome tree_writer::make_top_current() {
  if (top_)
    return {};
  int fd = open_deep_directory(root_fd_, path_);
  if (fd < 0)
    return fault(-fd);
  top_.reset(fd);
  return {};
}

int open_deep_directory(int root_fd, std::string_view path) {
  constexpr size_t longest = 3072;
  unique_fd at;
  for (;;) {
    auto end = path.size() <= longest ? path.size() : path.rfind('/', longest);
    if (end == path.npos)
      return -ENAMETOOLONG;
    int fd = workspace::open_beneath(at ? at.get() : root_fd, std::string{path.substr(0, end)},
                                     directory_flags, 0, RESOLVE_NO_SYMLINKS);
    if (fd < 0 || end == path.size())
      return fd;
    at.reset(fd);
    path.remove_prefix(end + 1);
  }
}

/// Why nothing can be made at `path`, where something is already.
tree_writer::outcome tree_writer::occupied(const std::string& path, member_kind kind) const {
  auto implied = implied_.find(path);
  if (implied == implied_.end())
    return fault("duplicate archive path: " + path);
  auto what = kind == member_kind::symlink ? "symlink: " : "non-directory: ";
  return fault("archive path descends through " + (what + path), implied->second);
}

} // namespace troupe::snapshot
