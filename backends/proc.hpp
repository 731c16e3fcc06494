#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::backends {

/// What /proc says of a process.
struct process_info {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t session = 0;
  bool dead = false; ///< a zombie with no thread left
};

/// nullopt if there is no such process (any more).
std::optional<process_info> read_process(pid_t pid);

/// Every process that we can see.
std::vector<process_info> all_processes();

/// Children of `pid`, of all its threads. nullopt if the kernel keeps no such list.
std::optional<std::vector<pid_t>> children_of(pid_t pid);

/// The pid, as we see it, of a process that we have a pidfd of; -1 if it is gone.
pid_t pid_of(int pidfd);

/// Whether the environment that `pid` was started with has the entry `assignment`.
bool started_with(pid_t pid, const std::string& assignment);

/// The text of a small file of a kernel file system, relative to `dir_fd` (or absolute); empty if
/// it cannot be read.
std::string read_kernel_file(int dir_fd, const std::string& path);

/// A path as it is, of one in /proc/self/mountinfo, which writes blanks, tabs, newlines and
/// backslashes as \ooo.
std::string unescape_mount_path(std::string_view text);

} // namespace troupe::backends
