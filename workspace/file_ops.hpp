#pragma once

#include "messages/error.hpp"
#include "messages/files.hpp"
#include "messages/unique_fd.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

// File operations of a session, on a root descriptor and a path beneath it. Every one blocks. None
// follows a link out of the root, none opens anything but regular files and directories, and none
// of them can be made to wait by a fifo. `shown` is the path that errors name.

namespace troupe::workspace {

/// A file that was opened for reading.
struct open_file {
  unique_fd fd;
  uint64_t size = 0;
  uint32_t mode = 0;
  int64_t mtime_ns = 0;
  uint64_t inode = 0;
};

/// `workspace_read_not_found` if nothing is there, `workspace_archive_read_error` with a reason for
/// anything that is not a regular file.
result<open_file> open_for_read(int root_fd, const std::string& path, const std::string& shown);

/// Removes files that a process which died had begun to write beneath `root_fd`, and what it kept
/// of the old ones meanwhile.
result<void> sweep_unfinished(int root_fd);

/// A file being written beside its place. Dropped without `commit`, it leaves nothing.
class staged_file {
public:
  /// Makes missing parents (0755). A directory at `path` is refused.
  static result<staged_file> create(int root_fd, const std::string& path, const std::string& shown);

  staged_file(staged_file&&) noexcept;
  staged_file& operator=(staged_file&&) noexcept;
  ~staged_file();

  result<void> append(const char* data, size_t size);

  /// For writing in another way than `append`.
  int fd() const;

  /// Puts the file in its place in one step. Mode: `mode` if given, else that of the file replaced,
  /// else 0644. `durable`: synced, with its folder, before this returns.
  result<void> commit(std::optional<uint32_t> mode, bool durable);

private:
  struct impl;
  explicit staged_file(std::unique_ptr<impl> x);
  std::unique_ptr<impl> impl_;
};

/// Entries of a directory (or the file itself), names in byte order. Never follows the last
/// component.
result<std::vector<file_entry>> list_directory(int root_fd, const std::string& path,
                                               const std::string& shown);

/// An existing directory is fine. Without `parents` the parent must be there.
result<void> make_directory(int root_fd, const std::string& path, bool parents,
                            const std::string& shown);

/// Removes a link, never its target. Recursive: a missing target is fine. Not recursive:
/// directories only when empty. The root itself is refused.
result<void> remove_path(int root_fd, const std::string& path, bool recursive,
                         const std::string& shown);

} // namespace troupe::workspace
