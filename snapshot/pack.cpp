#include "snapshot/pack.hpp"

#include "messages/unique_fd.hpp"
#include "snapshot/member_rules.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <unordered_set>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t buffer_size = 256 * 1024; // stays in the second-level cache between read and hash
constexpr size_t max_warnings = 100;

error read_error(std::string_view path, std::string_view reason) {
  return make_error(errc::workspace_archive_read_error, op::read,
                    "failed to read archive for path: " + to_utf8(path))
    .with("path", path)
    .with("reason", reason);
}

/// One pass over a tree.
class packer {
public:
  packer(tar_writer* tar, tree_index* index, job& work) : tar_(tar), index_(index), work_(work) {}

  result<std::vector<std::string>> run(int root_fd, const std::vector<std::string>& skip) {
    for (const auto& path : skip)
      skip_.insert(plain_path(path));
    skip_.erase("");
    if (::fstat(root_fd, &entry_.info) != 0)
      return unexpected(read_error(".", std::strerror(errno)));
    entry_.path.assign(1, '.');
    if (auto ok = write_entry(); !ok)
      return unexpected(std::move(ok.error()));
    auto walked = workspace::walk(root_fd, [this](const auto& item) { return visit(item); });
    if (failure_)
      return unexpected(std::move(*failure_));
    if (!walked)
      return unexpected(std::move(walked.error()));
    if (more_warnings_ > 0)
      warnings_.push_back("and " + std::to_string(more_warnings_) + " more");
    return std::move(warnings_);
  }

private:
  workspace::walk_next visit(const workspace::tree_item& item) {
    using workspace::walk_next;
    if (!skip_.empty() && skip_.contains(std::string{item.path}))
      return walk_next::skip;
    auto ok = work_.step();
    if (ok)
      ok = add(item);
    if (ok)
      return walk_next::enter;
    failure_ = std::move(ok.error());
    return walk_next::stop;
  }

  result<void> add(const workspace::tree_item& item) {
    auto depth = static_cast<size_t>(std::ranges::count(item.path, '/')) + 1;
    if (item.path.size() > max_path_size || depth > max_path_depth)
      return unexpected(read_error(item.path.substr(0, PATH_MAX), "path too long to be restored"));
    entry_.path.assign("./").append(item.path);
    entry_.info = *item.info;
    entry_.symlink_target.clear();
    entry_.hard_link_target.clear();
    switch (item.info->st_mode & S_IFMT) {
      case S_IFDIR:
        if (index_)
          index_->add_directory(item.path, item.info->st_mode);
        return write_entry();
      case S_IFLNK: return add_symlink(item);
      case S_IFREG: return add_file(item);
      case S_IFIFO: return left_out(item, "fifo");
      case S_IFSOCK: return left_out(item, "socket");
      default: return left_out(item, "device");
    }
  }

  result<void> add_symlink(const workspace::tree_item& item) {
    char target[PATH_MAX];
    auto n = ::readlinkat(item.parent_fd, item.name, target, sizeof target);
    if (n < 0)
      return not_readable(item, errno);
    entry_.symlink_target.assign(target, static_cast<size_t>(n));
    if (index_)
      index_->add_symlink(item.path, entry_.symlink_target);
    return write_entry();
  }

  result<void> add_file(const workspace::tree_item& item) {
    unique_fd fd{
      ::openat(item.parent_fd, item.name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
    if (!fd)
      return not_readable(item, errno);
    if (::fstat(fd.get(), &entry_.info) != 0)
      return not_readable(item, errno);
    if (!S_ISREG(entry_.info.st_mode))
      return left_out(item, "not a file any more");
    if (entry_.info.st_nlink > 1) {
      auto [first, is_new]
        = linked_.try_emplace({entry_.info.st_dev, entry_.info.st_ino}, item.path);
      if (!is_new) {
        entry_.hard_link_target = "./" + first->second;
        if (index_)
          index_->add_hard_link(item.path, first->second);
        return write_entry();
      }
    }
    if (auto ok = write_entry(); !ok)
      return ok;
    if (auto ok = copy_content(item, fd.get()); !ok)
      return ok;
    ++work_.files;
    if (index_)
      index_->add_file(item.path, entry_.info.st_mode, static_cast<uint64_t>(entry_.info.st_size),
                       content_.finish());
    return {};
  }

  /// Copies as many bytes as the header promised, whatever the file does meanwhile.
  result<void> copy_content(const workspace::tree_item& item, int fd) {
    bool ended = false;
    for (auto left = static_cast<uint64_t>(entry_.info.st_size);;) {
      if (auto ok = work_.step(); !ok)
        return ok;
      // One byte more than promised is asked for, which tells without a further call if it grew.
      auto want = std::min<uint64_t>(left + 1, buffer_size);
      auto n = ended ? 0 : ::read(fd, buffer_.get(), want);
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return unexpected(read_error(item.path, std::strerror(errno)));
      if (static_cast<uint64_t>(n) > left) {
        warn(item.path, "grew while it was read; cut");
        n = static_cast<ssize_t>(left);
        ended = true;
      }
      if (left == 0)
        return {};
      if (n == 0) {
        if (!std::exchange(ended, true))
          warn(item.path, "shrank while it was read; padded");
        n = static_cast<ssize_t>(std::min<uint64_t>(left, buffer_size));
        std::memset(buffer_.get(), 0, static_cast<size_t>(n));
      }
      left -= static_cast<uint64_t>(n);
      if (auto ok = take(static_cast<size_t>(n)); !ok)
        return ok;
      if (left == 0 && static_cast<uint64_t>(n) < want)
        return {};
    }
  }

  result<void> take(size_t size) {
    work_.bytes += size;
    if (index_)
      content_.update(buffer_.get(), size);
    return tar_ ? tar_->data(buffer_.get(), size) : result<void>{};
  }

  result<void> write_entry() {
    return tar_ ? tar_->begin(entry_) : result<void>{};
  }

  result<void> not_readable(const workspace::tree_item& item, int err) {
    switch (err) {
      case ENOENT: return left_out(item, "vanished");
      case EINVAL: // of readlinkat
      case ELOOP:
      case ENXIO: return left_out(item, "replaced");
      default: return unexpected(read_error(item.path, std::strerror(err)));
    }
  }

  result<void> left_out(const workspace::tree_item& item, std::string_view why) {
    warn(item.path, "left out: " + std::string{why});
    return {};
  }

  void warn(std::string_view path, const std::string& what) {
    if (warnings_.size() < max_warnings)
      warnings_.push_back(to_utf8(path) + ": " + what);
    else
      ++more_warnings_;
  }

  tar_writer* tar_;
  tree_index* index_;
  job& work_;
  std::unordered_set<std::string> skip_;
  std::map<std::pair<dev_t, ino_t>, std::string> linked_; ///< path of each file's first name
  tar_entry entry_;
  sha256 content_;
  std::unique_ptr<char[]> buffer_ = std::make_unique_for_overwrite<char[]>(buffer_size);
  std::vector<std::string> warnings_;
  size_t more_warnings_ = 0;
  std::optional<error> failure_;
};

} // namespace

result<std::vector<std::string>> pack_tree(int root_fd, const std::vector<std::string>& skip,
                                           tar_writer* tar, tree_index* index, job& work) {
  return packer{tar, index, work}.run(root_fd, skip);
}

} // namespace troupe::snapshot
