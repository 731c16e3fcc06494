#include "workspace/tree.hpp"

#include "workspace/file_errors.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <limits>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <memory>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace troupe::workspace {

namespace {

constexpr int directory_flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

/// Directories that one traversal holds open, besides its start.
constexpr size_t max_open = 64;

/// How often one removal starts again on something that others change under its hands: names that
/// were swapped or directories that were filled, in all.
constexpr int max_retries = 100'000;

/// How often a directory that stays itself is listed again because names keep coming.
constexpr int max_passes = 16;

/// One directory of a descent.
struct level {
  unique_fd fd; ///< closed while far above the current one
  dev_t device = 0;
  ino_t inode = 0;
  size_t path_size = 0;
  std::vector<std::string> names;
  size_t next = 0;
  bool all_listed = false; ///< no names are left to read
  bool failed = false;     ///< removal: something in here has to stay
  bool entered = false;    ///< removal: the current name, once
};

/// Opens a directory below `start` that may lie deeper than one path can say.
int open_deep(int start, std::string_view path) {
  constexpr size_t chunk = 3072;
  unique_fd at;
  while (path.size() > chunk) {
    auto cut = path.rfind('/', chunk);
    int next = open_beneath(at ? at.get() : start, std::string{path.substr(0, cut)},
                            O_PATH | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS);
    if (next < 0)
      return next;
    at.reset(next);
    path.remove_prefix(cut + 1);
  }
  return open_beneath(at ? at.get() : start, std::string{path}, directory_flags, 0,
                      RESOLVE_NO_SYMLINKS);
}

/// The directories from the start of a traversal to where it is, on the heap and not on the call
/// stack. Only the deepest few stay open, so that no depth can use up the descriptors.
class descent {
public:
  explicit descent(unique_fd start) {
    levels_.emplace_back().fd = std::move(start);
  }

  level& top() {
    return levels_.back();
  }
  bool at_start() const {
    return levels_.size() == 1;
  }
  const std::string& path() const {
    return path_;
  }

  /// Appends `name` to the path; `enter` or `drop_name` must follow.
  void add_name(std::string_view name) {
    if (!path_.empty())
      path_ += '/';
    path_ += name;
  }
  void drop_name() {
    path_.resize(top().path_size);
  }

  /// Goes down into `fd`, the directory that `add_name` named.
  void enter(unique_fd fd) {
    if (levels_.size() > max_open) {
      auto& far = levels_[levels_.size() - max_open];
      struct stat st;
      if (::fstat(far.fd.get(), &st) == 0) {
        far.device = st.st_dev;
        far.inode = st.st_ino;
      }
      far.fd.reset();
    }
    auto& x = levels_.emplace_back();
    x.fd = std::move(fd);
    x.path_size = path_.size();
  }

  /// Goes up. `top().fd` is empty then if that directory is not to be found any more.
  void leave() {
    unique_fd child = std::move(top().fd);
    levels_.pop_back();
    path_.resize(top().path_size);
    if (!top().fd)
      reopen(child.get());
  }

private:
  // ".." of a directory that somebody moved leads elsewhere, so it counts only if it is the very
  // directory that was open before. Else by name, from the start, through no link.
  void reopen(int child_fd) {
    auto& x = top();
    x.fd.reset(::openat(child_fd, "..", directory_flags));
    struct stat st;
    if (x.fd && ::fstat(x.fd.get(), &st) == 0 && st.st_dev == x.device && st.st_ino == x.inode)
      return;
    x.fd.reset(open_deep(levels_.front().fd.get(), path_));
  }

  std::vector<level> levels_;
  std::string path_;
};

/// Reads the next names of `x`, one kernel buffer full; errno negated on failure.
int list_some(level& x) {
  alignas(dirent64) char buffer[32 * 1024];
  auto size = ::syscall(SYS_getdents64, x.fd.get(), buffer, sizeof buffer);
  if (size < 0 && errno != ENOENT) // ENOENT: removed while it was open
    return -errno;
  x.all_listed = size <= 0;
  for (long at = 0; at < size;) {
    auto* item = reinterpret_cast<const dirent64*>(buffer + at);
    at += item->d_reclen;
    if (std::strcmp(item->d_name, ".") != 0 && std::strcmp(item->d_name, "..") != 0)
      x.names.emplace_back(item->d_name);
  }
  return 0;
}

int list_sorted(level& x) {
  while (!x.all_listed)
    if (int err = list_some(x); err < 0)
      return err;
  std::ranges::sort(x.names);
  return 0;
}

bool vanished(int err) {
  return err == ENOENT || err == ENOTDIR || err == ELOOP;
}

/// Copies `size` bytes, or to the end if that comes first.
int copy_up_to(int in_fd, int out_fd, off_t size) {
  off_t copied = 0;
  while (copied < size) {
    auto piece = static_cast<size_t>(std::min<off_t>(size - copied, 1 << 30));
    auto n = ::copy_file_range(in_fd, nullptr, out_fd, nullptr, piece, 0);
    if (n == 0 && copied > 0)
      return 0;
    if (n <= 0 && !(n < 0 && errno == EINTR))
      break; // not between these files, or not from this kind; reading tells
    copied += std::max<off_t>(n, 0);
  }
  constexpr off_t buffer_size = 256 * 1024;
  auto buffer = std::make_unique_for_overwrite<char[]>(buffer_size);
  while (copied < size) {
    auto n = ::read(in_fd, buffer.get(), static_cast<size_t>(std::min(size - copied, buffer_size)));
    if (n == 0)
      return 0;
    if (n < 0) {
      if (errno == EINTR)
        continue;
      return -errno;
    }
    if (int err = write_all(out_fd, buffer.get(), static_cast<size_t>(n)); err < 0)
      return err;
    copied += n;
  }
  return 0;
}

// -- removal --------------------------------------------------------------------------------------

/// Lets us list and change a directory of which we are the owner.
int make_accessible(int fd) {
  struct stat st;
  if (::fstat(fd, &st) != 0)
    return -errno;
  return change_mode(fd, (st.st_mode & 07777) | S_IRWXU);
}

int open_to_empty(int dir_fd, const std::string& name) {
  constexpr uint64_t how = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
  int fd = open_beneath(dir_fd, name, directory_flags, 0, how);
  if (fd != -EACCES)
    return fd;
  unique_fd closed{open_beneath(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, how)};
  if (!closed || make_accessible(closed.get()) < 0)
    return -EACCES;
  return open_beneath(dir_fd, name, directory_flags, 0, how);
}

int unlink_in(int dir_fd, const std::string& name, int flags) {
  if (::unlinkat(dir_fd, name.c_str(), flags) == 0)
    return 0;
  if (errno != EACCES || make_accessible(dir_fd) < 0)
    return -errno;
  return ::unlinkat(dir_fd, name.c_str(), flags) == 0 ? 0 : -errno;
}

/// Empties directories, deepest first.
class removal {
public:
  /// Of all that is in `start`.
  explicit removal(unique_fd start) : at_(std::move(start)) {}

  /// Of `name` in `start`, and nothing else there.
  removal(unique_fd start, const std::string& name) : at_(std::move(start)), only_one_(true) {
    at_.top().names = {name};
    at_.top().all_listed = true;
  }

  /// Goes on after a failure. Returns the first one's errno, negated.
  int run() {
    for (;;) {
      auto& x = at_.top();
      if (x.fd && x.next < x.names.size()) {
        remove_current();
      } else if (x.fd && !x.all_listed) {
        refill();
      } else if (!at_.at_start()) {
        bool failed = x.failed;
        at_.leave();
        if (failed)
          keep_current();
      } else if (!list_again()) {
        return error_;
      }
    }
  }

  /// What could not be removed first, relative to the start.
  const std::string& where() const {
    return where_;
  }

private:
  void refill() {
    auto& x = at_.top();
    x.names.clear();
    x.next = 0;
    if (int err = list_some(x); err < 0) {
      note(err, at_.path());
      x.failed = x.all_listed = true;
    }
    found_ |= at_.at_start() && !x.names.empty();
  }

  /// The start has no name to be removed by, so it is listed until nothing is found: others may add
  /// to it, and some file systems skip names when some are removed between two reads.
  bool list_again() {
    auto& x = at_.top();
    if (only_one_ || x.failed || !std::exchange(found_, false))
      return false;
    if (++passes_ > max_passes) {
      note(-ENOTEMPTY, at_.path());
      return false;
    }
    ::lseek(x.fd.get(), 0, SEEK_SET);
    x.all_listed = false;
    return true;
  }

  /// Removes the current name, or goes down into it; it is then met again on the way up.
  void remove_current() {
    auto& x = at_.top();
    const auto& name = x.names[x.next];
    int err = unlink_in(x.fd.get(), name, 0);
    if (err == -EISDIR)
      err = unlink_in(x.fd.get(), name, AT_REMOVEDIR);
    if (err == 0 || err == -ENOENT)
      return next_name();
    bool full = err == -ENOTEMPTY || err == -EEXIST;
    bool swapped = err == -ENOTDIR;
    if (!full && !swapped)
      return keep_current(err);
    if ((swapped || std::exchange(x.entered, true)) && ++retries_ > max_retries)
      return keep_current(err);
    if (swapped)
      return;
    int fd = open_to_empty(x.fd.get(), name);
    if (fd >= 0) {
      at_.add_name(name);
      at_.enter(unique_fd{fd});
    } else if (!vanished(-fd)) {
      keep_current(fd == -EXDEV ? -EBUSY : fd); // EXDEV: something is mounted there
    }
  }

  void next_name() {
    ++at_.top().next;
    at_.top().entered = false;
  }

  void keep_current(int err = 0) {
    auto& x = at_.top();
    if (err < 0)
      note(err, at_.path().empty() ? x.names[x.next] : at_.path() + '/' + x.names[x.next]);
    x.failed = true;
    next_name();
  }

  void note(int err, const std::string& path) {
    if (error_ == 0) {
      error_ = err;
      where_ = path;
    }
  }

  descent at_;
  const bool only_one_ = false;
  bool found_ = false; ///< in the start, since it was last listed from its beginning
  int passes_ = 0;
  int retries_ = 0;
  int error_ = 0;
  std::string where_;
};

} // namespace

namespace {

int open_resolved(int root_fd, const std::string& path, int flags, mode_t mode, uint64_t resolve) {
  if (path.find('\0') != std::string::npos)
    return -EINVAL;
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = mode;
  how.resolve = resolve | RESOLVE_NO_MAGICLINKS;
  const char* name = path.empty() ? "." : path.c_str();
  // EAGAIN: a rename somewhere made the kernel unsure about a ".."; also a lease on the file.
  for (int tries = 0;; ++tries) {
    auto fd = ::syscall(SYS_openat2, root_fd, name, &how, sizeof how);
    if (fd >= 0)
      return static_cast<int>(fd);
    if (errno != EINTR && (errno != EAGAIN || tries == 128))
      return -errno;
  }
}

} // namespace

int open_beneath(int root_fd, const std::string& path, int flags, mode_t mode,
                 uint64_t extra_resolve) {
  return open_resolved(root_fd, path, flags, mode, RESOLVE_BENEATH | extra_resolve);
}

int open_in_root(int root_fd, const std::string& path, int flags) {
  return open_resolved(root_fd, path, flags, 0, RESOLVE_IN_ROOT);
}

path_parts split_last(const std::string& path) {
  auto slash = path.rfind('/');
  if (slash == std::string::npos)
    return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

result<void> walk(int root_fd, const std::function<walk_next(const tree_item&)>& visit) {
  auto failure = [](int err, const std::string& path) {
    return unexpected(read_failure(err, path.empty() ? "." : path, path));
  };
  unique_fd start{::openat(root_fd, ".", directory_flags)};
  if (!start)
    return failure(errno, "");
  descent at{std::move(start)};
  if (int err = list_sorted(at.top()); err < 0)
    return failure(-err, "");
  for (;;) {
    auto& x = at.top();
    if (!x.fd || x.next == x.names.size()) {
      if (at.at_start())
        return {};
      at.leave();
      continue;
    }
    const auto& name = x.names[x.next++];
    at.add_name(name);
    struct stat st;
    if (::fstatat(x.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (!vanished(errno))
        return failure(errno, at.path());
      at.drop_name();
      continue;
    }
    auto what = visit({at.path(), x.fd.get(), name.c_str(), &st});
    if (what == walk_next::stop)
      return {};
    if (what == walk_next::skip || !S_ISDIR(st.st_mode)) {
      at.drop_name();
      continue;
    }
    unique_fd fd{::openat(x.fd.get(), name.c_str(), directory_flags)};
    if (!fd) {
      if (!vanished(errno))
        return failure(errno, at.path());
      at.drop_name();
      continue;
    }
    at.enter(std::move(fd));
    if (int err = list_sorted(at.top()); err < 0)
      return failure(-err, at.path());
  }
}

result<void> remove_contents(int dir_fd) {
  int fd = ::openat(dir_fd, ".", directory_flags);
  if (fd < 0 && errno == EACCES && make_accessible(dir_fd) == 0)
    fd = ::openat(dir_fd, ".", directory_flags);
  if (fd < 0)
    return unexpected(write_failure(errno, ".", "."));
  removal all{unique_fd{fd}};
  if (int err = all.run(); err < 0)
    return unexpected(write_failure(-err, all.where(), all.where()));
  return {};
}

result<void> remove_tree(int dir_fd, const std::string& name, const std::string& shown) {
  const auto& top = shown.empty() ? name : shown;
  if (name.empty() || name == "." || name == ".."
      || name.find_first_of(std::string_view{"/\0", 2}) != std::string::npos)
    return unexpected(write_failure(EINVAL, top, name));
  unique_fd dir{::fcntl(dir_fd, F_DUPFD_CLOEXEC, 0)};
  if (!dir)
    return unexpected(write_failure(errno, top, name));
  removal one{std::move(dir), name};
  if (int err = one.run(); err < 0)
    return unexpected(write_failure(-err, top + one.where().substr(name.size()), one.where()));
  return {};
}

result<void> remove_tree_at(const std::string& path) {
  auto [parent, name] = split_last(path.substr(0, path.find_last_not_of('/') + 1));
  unique_fd dir{::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  if (dir)
    return remove_tree(dir.get(), name, path);
  if (vanished(errno))
    return {};
  return unexpected(write_failure(errno, path, path));
}

int open_or_make_beneath(int root_fd, const std::string& path, mode_t mode) {
  int fd = open_beneath(root_fd, path, O_PATH | O_DIRECTORY);
  if (fd != -ENOENT)
    return fd;
  unique_fd at{open_beneath(root_fd, ".", O_PATH | O_DIRECTORY)};
  for (size_t begin = 0; begin < path.size();) {
    auto end = std::min(path.find('/', begin), path.size());
    // Each time from the root, so that a link such as "../x" may be passed inside of it.
    auto prefix = path.substr(0, end);
    int next = open_beneath(root_fd, prefix, O_PATH | O_DIRECTORY);
    if (next == -ENOENT) {
      if (::mkdirat(at.get(), path.substr(begin, end - begin).c_str(), mode) != 0
          && errno != EEXIST)
        return -errno;
      next = open_beneath(root_fd, prefix, O_PATH | O_DIRECTORY);
    }
    if (next < 0)
      return next;
    at.reset(next);
    begin = end + 1;
  }
  return at.release();
}

result<void> make_directories(int root_fd, const std::string& path, mode_t mode) {
  int fd = open_or_make_beneath(root_fd, path, mode);
  if (fd < 0)
    return unexpected(write_failure(-fd, path, path));
  ::close(fd);
  return {};
}

result<unique_fd> open_or_make_directory(const std::string& path, mode_t mode) {
  auto failure = [&](int err) {
    auto code = err == ENOSPC || err == EDQUOT ? errc::no_space : errc::internal;
    return unexpected(
      make_error(code, op::create, "cannot make directory " + path + ": " + errno_text(err))
        .with("path", path)
        .with("reason", errno_reason(err)));
  };
  // Mostly it is there, or only its last part is missing.
  if (::mkdir(path.c_str(), mode) != 0 && errno == ENOENT)
    for (size_t end = 0; end != std::string::npos;) {
      end = path.find('/', end + 1);
      if (::mkdir(path.substr(0, end).c_str(), mode) != 0 && errno != EEXIST)
        return failure(errno);
    }
  unique_fd fd{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!fd)
    return failure(errno);
  return fd;
}

void spread_directories(int dir_fd) {
  int flags = 0;
  if (::ioctl(dir_fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_TOPDIR_FL) == 0) {
    flags |= FS_TOPDIR_FL;
    (void) ::ioctl(dir_fd, FS_IOC_SETFLAGS, &flags);
  }
}

int write_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    auto n = ::write(fd, data, size);
    if (n < 0) {
      if (errno == EINTR)
        continue;
      return -errno;
    }
    data += n;
    size -= static_cast<size_t>(n);
  }
  return 0;
}

int copy_data(int in_fd, int out_fd) {
  struct stat st;
  if (::fstat(in_fd, &st) != 0)
    return -errno;
  auto begin = ::lseek(in_fd, 0, SEEK_CUR);
  auto out_begin = ::lseek(out_fd, 0, SEEK_CUR);
  if (begin < 0 || out_begin < 0 || st.st_blocks * 512 >= st.st_size)
    return copy_up_to(in_fd, out_fd, std::numeric_limits<off_t>::max());
  for (auto at = begin;;) {
    auto data = ::lseek(in_fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) // nothing but a hole is left
      return ::ftruncate(out_fd, out_begin + (st.st_size - begin)) == 0 ? 0 : -errno;
    auto hole = data < 0 ? data : ::lseek(in_fd, data, SEEK_HOLE);
    if (hole < 0 || ::lseek(in_fd, data, SEEK_SET) < 0
        || ::lseek(out_fd, out_begin + (data - begin), SEEK_SET) < 0)
      return -errno;
    if (int err = copy_up_to(in_fd, out_fd, hole - data); err < 0)
      return err;
    at = hole;
  }
}

int change_mode(int fd, mode_t mode) {
  // fchmod refuses O_PATH; the link names the same inode, whatever its path is by now.
  auto link = "/proc/self/fd/" + std::to_string(fd);
  return ::chmod(link.c_str(), mode) == 0 ? 0 : -errno;
}

} // namespace troupe::workspace
