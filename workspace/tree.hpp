#pragma once

#include "messages/error.hpp"
#include "messages/unique_fd.hpp"

#include <sys/stat.h>

#include <functional>
#include <string>
#include <string_view>

// Whole trees beneath a descriptor. Nothing here follows a symbolic link or leaves the tree it was
// given, whatever another process does to it meanwhile.

namespace troupe::workspace {

/// Opens `path` (relative) beneath `root_fd`; the kernel refuses to leave it (openat2 with
/// RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS). `flags` as for open; O_CLOEXEC is added. Returns
/// errno negated on failure.
int open_beneath(int root_fd, const std::string& path, int flags, mode_t mode = 0,
                 uint64_t extra_resolve = 0);

/// Opens `path` as if `root_fd` were "/", links included. Else as `open_beneath`.
int open_in_root(int root_fd, const std::string& path, int flags);

/// The last component of a path, and what is before it ("." for nothing).
struct path_parts {
  std::string parent;
  std::string name; ///< may be "", "." or "..", which name no entry
};

path_parts split_last(const std::string& path);

/// One thing met by `walk`.
struct tree_item {
  std::string_view path; ///< relative to the start, without "./"; bytes, maybe not UTF-8
  int parent_fd = -1;    ///< of the directory it is in
  const char* name = ""; ///< within `parent_fd`
  const struct stat* info = nullptr;
};

/// What `walk` does after an item.
enum class walk_next { enter, skip, stop };

/// Visits everything below `root_fd` (not the root itself), parents before children, the names of a
/// directory in byte order. Of a directory, `visit` says whether to enter it. What vanishes
/// meanwhile is passed over.
result<void> walk(int root_fd, const std::function<walk_next(const tree_item&)>& visit);

/// Removes everything below `dir_fd`, however deep, but nothing of another mount. What vanishes
/// meanwhile is fine. Goes on after a failure and reports the first.
result<void> remove_contents(int dir_fd);

/// Removes `name` (one component) in `dir_fd`, with all below it. A missing one is fine. Errors
/// name it `shown` (empty: `name`).
result<void> remove_tree(int dir_fd, const std::string& name, const std::string& shown = {});

/// Like `remove_tree` for a host path whose parent is ours.
result<void> remove_tree_at(const std::string& path);

/// Makes `path` and its missing parents beneath `root_fd`; existing directories are fine. The umask
/// applies.
result<void> make_directories(int root_fd, const std::string& path, mode_t mode = 0755);

/// Like `make_directories`, and opens `path` (O_PATH). Returns errno negated on failure.
int open_or_make_beneath(int root_fd, const std::string& path, mode_t mode = 0755);

/// Opens a host directory that we own, making it and its parents if missing.
result<unique_fd> open_or_make_directory(const std::string& path, mode_t mode);

/// Asks the file system to place the directories of `dir_fd` far from each other, where it knows
/// how (ext4). Without, many small trees share inode tables, and one that is made soon after
/// another was removed waits for its inodes to be reused.
void spread_directories(int dir_fd);

/// Writes all of `data`; errno negated on failure.
int write_all(int fd, const char* data, size_t size);

/// Copies from where `in_fd` is to its end, holes as holes; errno negated on failure.
int copy_data(int in_fd, int out_fd);

/// Changes the mode of what `fd` refers to; works for O_PATH too. errno negated on failure.
int change_mode(int fd, mode_t mode);

} // namespace troupe::workspace
