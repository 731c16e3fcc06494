#include "workspace/write_files.hpp"

#include "messages/unique_fd.hpp"
#include "workspace/file_errors.hpp"
#include "workspace/file_ops.hpp"
#include "workspace/tree.hpp"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace troupe::workspace {

namespace {

std::string temporary_name() {
  uint64_t value = 0;
  while (::getrandom(&value, sizeof value, 0) != sizeof value) {
  }
  char name[40];
  std::snprintf(name, sizeof name, ".troupe-%016llx.old", static_cast<unsigned long long>(value));
  return name;
}

/// An entry of a folder under a second name. Dropped, that name goes.
class kept_entry {
public:
  /// `in_place`: its own name stays too, if the file system can do that. Nothing there is fine.
  static result<kept_entry> keep(int root_fd, const file_edit& file, bool in_place) {
    auto failure = [&](int err) { return unexpected(write_failure(err, file.shown, file.path)); };
    kept_entry x;
    auto [parent, name] = split_last(file.path);
    x.name_ = name;
    int fd = open_beneath(root_fd, parent, O_PATH | O_DIRECTORY);
    if (fd == -ENOENT)
      return x;
    if (fd < 0)
      return failure(-fd);
    x.parent_.reset(fd);
    struct stat st;
    if (::fstatat(fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
      return errno == ENOENT ? result<kept_entry>{std::move(x)} : failure(errno);
    if (S_ISDIR(st.st_mode))
      return failure(EISDIR);
    auto other = temporary_name();
    if (!(in_place && ::linkat(fd, name.c_str(), fd, other.c_str(), 0) == 0)
        && ::renameat2(fd, name.c_str(), fd, other.c_str(), RENAME_NOREPLACE) != 0)
      return failure(errno);
    x.other_ = std::move(other);
    return x;
  }

  kept_entry(kept_entry&&) noexcept = default;
  kept_entry& operator=(kept_entry&&) = delete;
  ~kept_entry() {
    // After a rename onto itself, which does nothing, the second name is still there.
    if (parent_ && !other_.empty())
      ::unlinkat(parent_.get(), other_.c_str(), 0);
  }

  /// Puts back what was there. `written`: else a new file is there now.
  void restore(bool written) {
    if (!other_.empty())
      ::renameat(parent_.get(), other_.c_str(), parent_.get(), name_.c_str());
    else if (written)
      ::unlinkat(parent_.get(), name_.c_str(), 0);
  }

private:
  kept_entry() = default;

  unique_fd parent_;
  std::string name_;
  std::string other_; ///< empty: nothing was there
};

/// The changes made so far. Dropped before `finish`, it takes them back.
class journal {
public:
  explicit journal(int root_fd) : root_fd_(root_fd) {}
  journal(const journal&) = delete;
  journal& operator=(const journal&) = delete;
  ~journal() {
    if (finished_)
      return;
    for (; !steps_.empty(); steps_.pop_back())
      steps_.back().old.restore(steps_.back().written);
    for (const auto& path : folders_)
      remove_folder(path);
  }

  void finish() {
    finished_ = true;
  }

  result<staged_file> stage(const file_edit& file) {
    note_missing_folders(file.path);
    auto staged = staged_file::create(root_fd_, file.path, file.shown);
    if (!staged)
      return staged;
    if (auto done = staged->append(file.text->data(), file.text->size()); !done)
      return unexpected(std::move(done.error()));
    return staged;
  }

  /// `staged` may be empty for a file that is to be written only when its place is free.
  result<void> write(const file_edit& file, std::optional<staged_file> staged) {
    if (auto kept = keep(file, !file.fresh); !kept)
      return kept;
    if (!staged) {
      auto late = stage(file);
      if (!late)
        return unexpected(std::move(late.error()));
      staged = std::move(*late);
    }
    auto done = staged->commit(file.mode, false);
    steps_.back().written = done.has_value();
    return done;
  }

  result<void> keep(const file_edit& file, bool in_place) {
    auto old = kept_entry::keep(root_fd_, file, in_place);
    if (!old)
      return unexpected(std::move(old.error()));
    steps_.push_back({std::move(*old), false});
    return {};
  }

private:
  struct step {
    kept_entry old;
    bool written;
  };

  void note_missing_folders(const std::string& path) {
    std::vector<std::string> missing;
    for (auto at = split_last(path).parent; at != "."; at = split_last(at).parent) {
      unique_fd fd{open_beneath(root_fd_, at, O_PATH)};
      if (fd.get() != -ENOENT)
        break;
      missing.push_back(at);
    }
    folders_.insert(folders_.begin(), missing.begin(), missing.end());
  }

  void remove_folder(const std::string& path) const {
    auto [parent, name] = split_last(path);
    unique_fd dir{open_beneath(root_fd_, parent, O_PATH | O_DIRECTORY)};
    if (dir)
      ::unlinkat(dir.get(), name.c_str(), AT_REMOVEDIR);
  }

  int root_fd_;
  bool finished_ = false;
  std::vector<step> steps_;
  std::vector<std::string> folders_; ///< maybe made here; what is in a folder before the folder
};

} // namespace

result<void> write_files(int root_fd, const std::vector<file_edit>& files) {
  journal changes{root_fd};
  std::vector<std::optional<staged_file>> staged(files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    if (!files[i].text || files[i].fresh)
      continue;
    auto file = changes.stage(files[i]);
    if (!file)
      return unexpected(std::move(file.error()));
    staged[i] = std::move(*file);
  }
  // Removals last, so that what moves is never nowhere.
  for (bool removing : {false, true})
    for (size_t i = 0; i < files.size(); ++i) {
      if (files[i].text.has_value() == removing)
        continue;
      auto done
        = removing ? changes.keep(files[i], false) : changes.write(files[i], std::move(staged[i]));
      if (!done)
        return done;
    }
  changes.finish();
  return {};
}

} // namespace troupe::workspace
