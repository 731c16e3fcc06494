#include "snapshot/merge.hpp"

#include "messages/unique_fd.hpp"
#include "snapshot/unpack.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

namespace troupe::snapshot {

namespace {

using workspace::tree_item;
using workspace::walk_next;

/// One pass over the new tree, to check or to move.
class merger {
public:
  merger(int new_fd, int root_fd, const std::string& root,
         const std::map<std::string, std::string>& implied)
    : new_fd_(new_fd), root_fd_(root_fd), root_(root), implied_(implied) {}

  result<void> run(bool move) {
    move_ = move;
    target_path_.reset();
    auto ok = workspace::walk(new_fd_, [this](const tree_item& item) { return visit(item); });
    if (failure_)
      return unexpected(std::move(*failure_));
    if (!ok)
      return ok;
    return apply_metadata();
  }

private:
  struct merged_directory {
    std::string path;
    struct stat info;
  };

  walk_next visit(const tree_item& item) {
    struct stat there;
    if (int err = open_target(item.path))
      return fail(cannot_write(root_, err), item.path);
    if (::fstatat(target_.get(), item.name, &there, AT_SYMLINK_NOFOLLOW) != 0)
      return errno == ENOENT ? take(item) : fail(cannot_write(root_, errno), item.path);
    if (!S_ISDIR(item.info->st_mode))
      return S_ISDIR(there.st_mode) ? refuse(
               "destination directory already exists: " + std::string{item.path}, item.path)
                                    : take(item);
    auto implied = implied_.find(std::string{item.path});
    if (S_ISDIR(there.st_mode)) {
      if (move_ && implied == implied_.end())
        merged_.push_back({std::string{item.path}, *item.info});
      return walk_next::enter;
    }
    if (implied != implied_.end())
      return S_ISLNK(there.st_mode)
               ? refuse(leads_out(std::string{item.path}) ? "path escapes root after resolution"
                                                          : "symlink in parent path",
                        implied->second)
               : refuse("destination is not a directory: " + std::string{item.path},
                        implied->second);
    if (move_ && ::unlinkat(target_.get(), item.name, 0) != 0 && errno != ENOENT)
      return fail(cannot_write(root_, errno), item.path);
    return take(item);
  }

  walk_next take(const tree_item& item) {
    if (move_)
      if (int err = move_entry(item.parent_fd, item.name, target_.get()))
        return fail(cannot_write(root_, err), item.path);
    return walk_next::skip;
  }

  bool leads_out(const std::string& path) const {
    return unique_fd{workspace::open_beneath(root_fd_, path, O_PATH)}.get() == -EXDEV;
  }

  walk_next refuse(const std::string& reason, std::string_view member) {
    return fail(make_error(errc::workspace_archive_write_error, op::write,
                           "failed to write archive for path: " + root_)
                  .with("path", root_)
                  .with("reason", reason),
                member);
  }

  walk_next fail(error x, std::string_view member) {
    failure_ = std::move(x.with("member", member));
    return walk_next::stop;
  }

  /// Opens the directory of the root that `path` goes to; an errno, or 0.
  int open_target(std::string_view path) {
    auto slash = path.rfind('/');
    auto parent = slash == path.npos ? std::string_view{} : path.substr(0, slash);
    if (target_path_ == parent)
      return 0;
    int fd = workspace::open_beneath(root_fd_, std::string{parent}, O_RDONLY | O_DIRECTORY, 0,
                                     RESOLVE_NO_SYMLINKS);
    if (fd < 0)
      return -fd;
    target_.reset(fd);
    target_path_ = parent;
    return 0;
  }

  /// Deepest first, as what is moved into a directory changes its time.
  result<void> apply_metadata() {
    for (auto i = merged_.rbegin(); i != merged_.rend(); ++i) {
      const auto& x = *i;
      unique_fd fd{
        workspace::open_beneath(root_fd_, x.path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS)};
      timespec times[2] = {{0, UTIME_OMIT}, x.info.st_mtim};
      if (!fd || ::fchmod(fd.get(), x.info.st_mode & 07777) != 0
          || ::futimens(fd.get(), times) != 0)
        return unexpected(cannot_write(root_, errno).with("member", x.path));
    }
    return {};
  }

  int new_fd_;
  int root_fd_;
  const std::string& root_;
  const std::map<std::string, std::string>& implied_;
  bool move_ = false;
  unique_fd target_;
  std::optional<std::string> target_path_;
  std::vector<merged_directory> merged_;
  std::optional<error> failure_;
};

} // namespace

result<void> merge_tree(int new_fd, int root_fd, const std::string& root,
                        const std::map<std::string, std::string>& implied) {
  merger x{new_fd, root_fd, root, implied};
  if (auto ok = x.run(false); !ok)
    return ok;
  return x.run(true);
}

int move_entry(int from_fd, const std::string& name, int to_fd) {
  if (::renameat(from_fd, name.c_str(), to_fd, name.c_str()) == 0)
    return 0;
  if (errno != EACCES)
    return errno;
  // Moving a directory rewrites its "..", for which its owner needs to be allowed to write it.
  unique_fd fd{::openat(from_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  struct stat st;
  if (!fd || ::fstat(fd.get(), &st) != 0 || (st.st_mode & S_IWUSR) != 0
      || ::fchmod(fd.get(), (st.st_mode & 07777) | S_IRWXU) != 0)
    return EACCES;
  int err = ::renameat(from_fd, name.c_str(), to_fd, name.c_str()) == 0 ? 0 : errno;
  return ::fchmod(fd.get(), st.st_mode & 07777) == 0 ? err : errno;
}

} // namespace troupe::snapshot
