#pragma once

#include "messages/error.hpp"
#include "messages/session.hpp"
#include "messages/unique_fd.hpp"

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace troupe::backends::isolated {

/// Where the kernel counts and limits what a sandbox uses: the sandbox's group of cgroup v2 where
/// the controllers are there, else groups of version 1. Removed with `remove`.
class limit_groups {
public:
  limit_groups() = default;
  limit_groups(limit_groups&& other) noexcept = default;
  limit_groups& operator=(limit_groups&& other) noexcept = default;

  /// (blocks) Makes groups for the limits that are set. `unified`: the sandbox's own group of
  /// version 2, or -1. An error names the limit that this machine cannot hold.
  /// `every_one`: also those that no limit asks for.
  static result<limit_groups> make(const std::string& name, const session_limits& limits,
                                   int unified, bool every_one = false);

  /// (blocks) Sets limits of groups that were made for every controller.
  result<void> set(const session_limits& limits, int unified) const;

  /// (blocks) Those that an earlier process made under this name.
  static limit_groups find(const std::string& name);

  /// (blocks) Moves a process in, before it has children.
  result<void> attach(pid_t pid) const;

  /// What is counted here and not in the group of version 2.
  void add_usage(session_usage& out) const;

  /// How often the kernel has said no so far. `unified` as for `make`.
  struct hits {
    int64_t memory = 0; ///< processes killed
    int64_t pids = 0;   ///< forks refused
  };
  hits hits_so_far(int unified) const;

  /// What the kernel wakes a waiting epoll by when it has said no, perhaps an instant before it
  /// counts that. It is readable again and again until it is read.
  struct alarm {
    unique_fd fd;
    uint32_t events; ///< to wait for
  };
  /// (blocks) Those that this machine has. `unified` as for `make`.
  std::vector<alarm> alarms(int unified) const;
  /// Whether some count has none: version 1 tells nobody of forks that it refuses.
  bool has_silent() const;

  /// Nothing may be alive in them. Idempotent.
  void remove();

  /// (blocks) Kills what is in groups whose names begin with `prefix`, and removes them; but for
  /// those of which `keep` keeps the rest of the name.
  static void sweep(const std::string& prefix,
                    const std::function<bool(const std::string& rest)>& keep = nullptr);

  /// Whether a limit of this kind ("memory", "pids", "cpu") can be held.
  static bool available(const std::string& controller, int unified);

private:
  std::map<std::string, std::string> v1_; ///< directories, by controller
};

} // namespace troupe::backends::isolated
