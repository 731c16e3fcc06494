#include "workspace/file_ops.hpp"

#include "workspace/file_errors.hpp"
#include "workspace/tree.hpp"

#include <cerrno>
#include <climits>
#include <cstdio>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace troupe::workspace {

namespace {

/// As many links in a row as the kernel follows.
constexpr int max_links = 40;

bool names_entry(const std::string& name) {
  return !name.empty() && name != "." && name != "..";
}

int64_t nanoseconds(const timespec& x) {
  return int64_t{x.tv_sec} * 1'000'000'000 + x.tv_nsec;
}

std::optional<std::string> read_link(int dir_fd, const char* name) {
  char buffer[PATH_MAX];
  auto size = ::readlinkat(dir_fd, name, buffer, sizeof buffer);
  if (size < 0)
    return std::nullopt;
  return std::string{buffer, static_cast<size_t>(size)};
}

/// Where a write goes.
struct place {
  unique_fd parent;
  std::string name;
  std::optional<struct stat> existing;
};

/// Follows links at the end of `path` as opening it for writing would, so a dangling one leads to a
/// new file at its target. The target itself is only ever replaced by name, never opened: whatever
/// it is swapped for, nothing outside of the root can be written. Returns errno negated on failure.
int find_place(int root_fd, std::string path, place& found) {
  for (int links = 0; links <= max_links; ++links) {
    auto [parent, name] = split_last(path);
    if (!names_entry(name)) {
      unique_fd folder{open_beneath(root_fd, path, O_PATH)};
      return folder.get() == -EXDEV ? -EXDEV : -EISDIR;
    }
    if (name.find('\0') != std::string::npos)
      return -EINVAL;
    int fd = open_or_make_beneath(root_fd, parent);
    if (fd < 0)
      return fd;
    found.parent.reset(fd);
    found.name = name;
    struct stat st;
    if (::fstatat(fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      found.existing.reset();
      return errno == ENOENT ? 0 : -errno;
    }
    if (!S_ISLNK(st.st_mode)) {
      found.existing = st;
      return S_ISREG(st.st_mode) ? 0 : S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO;
    }
    auto target = read_link(fd, name.c_str());
    if (!target)
      continue; // swapped meanwhile
    if (target->starts_with('/'))
      return -EXDEV;
    path = parent + '/' + *target;
  }
  return -ELOOP;
}

std::string temporary_name() {
  uint64_t value = 0;
  while (::getrandom(&value, sizeof value, 0) != sizeof value) {
  }
  char name[40];
  std::snprintf(name, sizeof name, ".troupe-%016llx.tmp", static_cast<unsigned long long>(value));
  return name;
}

file_entry make_entry(std::string path, const struct stat& st, int dir_fd, const char* name) {
  file_entry x;
  x.path = std::move(path);
  x.kind = S_ISDIR(st.st_mode)   ? file_kind::directory
           : S_ISREG(st.st_mode) ? file_kind::file
           : S_ISLNK(st.st_mode) ? file_kind::symlink
                                 : file_kind::other;
  x.mode = st.st_mode & 0777;
  x.owner = std::to_string(st.st_uid);
  x.group = std::to_string(st.st_gid);
  x.size = static_cast<uint64_t>(st.st_size);
  x.mtime_ns = nanoseconds(st.st_mtim);
  if (x.kind == file_kind::symlink)
    x.link_target = read_link(dir_fd, name);
  return x;
}

} // namespace

result<open_file> open_for_read(int root_fd, const std::string& path, const std::string& shown) {
  open_file x;
  // O_NONBLOCK: a fifo opens at once, and a leased file fails instead of waiting for its holder.
  int fd = open_beneath(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (fd < 0)
    return unexpected(read_failure(-fd, shown, path));
  x.fd.reset(fd);
  struct stat st;
  if (::fstat(fd, &st) != 0)
    return unexpected(read_failure(errno, shown, path));
  if (!S_ISREG(st.st_mode))
    return unexpected(read_failure(S_ISDIR(st.st_mode) ? EISDIR : ENXIO, shown, path));
  x.size = static_cast<uint64_t>(st.st_size);
  x.mode = st.st_mode & 0777;
  x.mtime_ns = nanoseconds(st.st_mtim);
  x.inode = st.st_ino;
  return x;
}

// -- staged_file ----------------------------------------------------------------------------------

struct staged_file::impl {
  unique_fd fd;
  place target;
  std::string temporary; ///< its name until it is committed; empty: it has none
  std::string path;
  std::string shown;

  ~impl() {
    if (!temporary.empty())
      ::unlinkat(target.parent.get(), temporary.c_str(), 0);
  }
  result<void> failure(int err) const {
    return unexpected(write_failure(err, shown, path));
  }
  bool link(const std::string& name) const {
    auto self = "/proc/self/fd/" + std::to_string(fd.get());
    return ::linkat(AT_FDCWD, self.c_str(), target.parent.get(), name.c_str(), AT_SYMLINK_FOLLOW)
           == 0;
  }

  /// Gives it its place. Errno; 0: it is there.
  int put_in_place() {
    if (temporary.empty()) {
      if (!target.existing && link(target.name))
        return 0;
      if (!target.existing && errno != EEXIST)
        return errno;
      auto name = temporary_name();
      if (!link(name))
        return errno;
      temporary = std::move(name);
    }
    int dir = target.parent.get();
    if (::renameat(dir, temporary.c_str(), dir, target.name.c_str()) != 0)
      return errno;
    temporary.clear();
    return 0;
  }
};

staged_file::staged_file(std::unique_ptr<impl> x) : impl_(std::move(x)) {}

staged_file::staged_file(staged_file&&) noexcept = default;
staged_file& staged_file::operator=(staged_file&&) noexcept = default;
staged_file::~staged_file() = default;

result<staged_file> staged_file::create(int root_fd, const std::string& path,
                                        const std::string& shown) {
  auto x = std::make_unique<impl>();
  x->path = path;
  x->shown = shown;
  if (int err = find_place(root_fd, path, x->target); err < 0)
    return unexpected(write_failure(-err, shown, path));
  // Without a name nobody sees it half written, neither a command nor a snapshot.
  int dir = x->target.parent.get();
  x->fd.reset(::openat(dir, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (!x->fd && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT)) {
    auto name = temporary_name();
    x->fd.reset(
      ::openat(dir, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (x->fd)
      x->temporary = std::move(name);
  }
  if (!x->fd)
    return unexpected(write_failure(errno, shown, path));
  return staged_file{std::move(x)};
}

result<void> staged_file::append(const char* data, size_t size) {
  int err = write_all(impl_->fd.get(), data, size);
  return err < 0 ? impl_->failure(-err) : result<void>{};
}

int staged_file::fd() const {
  return impl_->fd.get();
}

result<void> staged_file::commit(std::optional<uint32_t> mode, bool durable) {
  auto& x = *impl_;
  const auto& old = x.target.existing;
  // As if the file had been written in place it stays with its owner, if we may give it away.
  if (struct stat st; old && ::fstat(x.fd.get(), &st) == 0
                      && (st.st_uid != old->st_uid || st.st_gid != old->st_gid))
    (void) !::fchown(x.fd.get(), old->st_uid, old->st_gid);
  if (::fchmod(x.fd.get(), mode.value_or(old ? old->st_mode & 0777 : 0644)) != 0)
    return x.failure(errno);
  if (durable && ::fsync(x.fd.get()) != 0) // not fdatasync, which may leave the mode behind
    return x.failure(errno);
  bool had_name = !x.temporary.empty();
  if (int err = x.put_in_place(); err != 0)
    return x.failure(err);
  if (durable) {
    // Without a journal, a file that had no name still counts as removed on the disk.
    if (!had_name && ::fsync(x.fd.get()) != 0)
      return x.failure(errno);
    unique_fd folder{::openat(x.target.parent.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (!folder || ::fsync(folder.get()) != 0)
      return x.failure(errno);
  }
  return {};
}

// -- directories ----------------------------------------------------------------------------------

result<void> sweep_unfinished(int root_fd) {
  constexpr std::string_view prefix = ".troupe-";
  constexpr size_t digits = 16;
  auto is_unfinished = [&](std::string_view name) {
    auto end = prefix.size() + digits;
    return name.size() == end + 4 && name.starts_with(prefix)
           && (name.ends_with(".tmp") || name.ends_with(".old"))
           && name.find_first_not_of("0123456789abcdef", prefix.size()) == end;
  };
  return walk(root_fd, [&](const tree_item& item) {
    if (!S_ISDIR(item.info->st_mode) && is_unfinished(item.name))
      ::unlinkat(item.parent_fd, item.name, 0);
    return walk_next::enter;
  });
}

result<std::vector<file_entry>> list_directory(int root_fd, const std::string& path,
                                               const std::string& shown) {
  auto failure = [&](int err) {
    if (err == EXDEV)
      return unexpected(escape_failure(path));
    return unexpected(command_failure({"ls", "-la", "--", shown}, errno_text(err) + ": " + shown));
  };
  unique_fd top{open_beneath(root_fd, path, O_PATH | O_NOFOLLOW)};
  if (!top)
    return failure(-top.get());
  struct stat st;
  if (::fstat(top.get(), &st) != 0)
    return failure(errno);
  if (S_ISDIR(st.st_mode) && st.st_nlink == 0)
    return failure(ENOENT); // somebody holds it open, but it was removed
  std::vector<file_entry> entries;
  if (!S_ISDIR(st.st_mode)) {
    entries.push_back(make_entry(shown, st, top.get(), "")); // "": the descriptor itself
    return entries;
  }
  unique_fd dir{::openat(top.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!dir)
    return failure(errno);
  auto prefix = shown.ends_with('/') ? shown : shown + '/';
  auto listed = walk(dir.get(), [&](const tree_item& item) {
    entries.push_back(make_entry(prefix + item.name, *item.info, item.parent_fd, item.name));
    return walk_next::skip;
  });
  if (!listed)
    return unexpected(std::move(listed.error()));
  return entries;
}

result<void> make_directory(int root_fd, const std::string& path, bool parents,
                            const std::string& shown) {
  auto failure = [&](int err) { return unexpected(write_failure(err, shown, path)); };
  auto open = [&] { return unique_fd{open_beneath(root_fd, path, O_PATH | O_DIRECTORY)}; };
  auto there = parents ? unique_fd{open_or_make_beneath(root_fd, path)} : open();
  if (there)
    return {};
  if (parents || there.get() != -ENOENT)
    return failure(-there.get());
  auto [parent, name] = split_last(path);
  unique_fd dir{open_beneath(root_fd, parent, O_PATH | O_DIRECTORY)};
  if (!dir)
    return failure(-dir.get());
  if (::mkdirat(dir.get(), name.c_str(), 0755) == 0)
    return {};
  int err = errno;
  return err == EEXIST && open() ? result<void>{} : failure(err);
}

result<void> remove_path(int root_fd, const std::string& path, bool recursive,
                         const std::string& shown) {
  auto failure = [&](int err) -> result<void> {
    if (recursive && (err == ENOENT || err == ENOTDIR))
      return {};
    if (err != ENOENT)
      return unexpected(write_failure(err, shown, path));
    return unexpected(command_failure({"rm", "--", shown}, errno_text(err) + ": " + shown));
  };
  auto [parent, name] = split_last(path);
  if (!names_entry(name))
    return unexpected(make_error(errc::workspace_archive_write_error, op::write,
                                 "the workspace root cannot be removed: " + shown)
                        .with("path", shown)
                        .with("reason", "is_root"));
  unique_fd dir{open_beneath(root_fd, parent, O_PATH | O_DIRECTORY)};
  if (!dir)
    return failure(-dir.get());
  if (recursive)
    return remove_tree(dir.get(), name, shown);
  if (name.find('\0') != std::string::npos)
    return failure(EINVAL);
  if (::unlinkat(dir.get(), name.c_str(), 0) == 0)
    return {};
  if (errno == EISDIR && ::unlinkat(dir.get(), name.c_str(), AT_REMOVEDIR) == 0)
    return {};
  return failure(errno);
}

} // namespace troupe::workspace
