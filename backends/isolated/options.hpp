#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::backends {

/// What an operator says of isolated sandboxes.
struct isolated_options {
  /// Where the root file system's template is made; empty: there are no isolated sandboxes.
  std::string dir;
  /// Names of walls that may be missing: `user_range`, `seccomp`, `landlock`, `cgroup`.
  std::vector<std::string> waive;
  /// What the file system is made of: `host`, or the path of a directory.
  std::string root = "host";
  /// Whether a session may ask for the server's own network.
  bool allow_host_network = false;
  /// Which ranges of user ids are taken, by all servers of this machine.
  std::string uid_dir = "/var/lib/troupe/uids";
  /// The first id of the first range.
  uint32_t uid_base = 0x80000000;
  /// How long a sandbox outlives its server.
  uint32_t grace_seconds = 300;
  /// Unless a session says otherwise.
  int64_t default_pids = 1024;
  int64_t default_open_files = 4096;
  /// Of /tmp and /dev/shm, each.
  int64_t tmp_bytes = int64_t{256} << 20;
  int64_t tmp_inodes = 65'536;
};

} // namespace troupe::backends
