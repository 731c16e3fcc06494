#pragma once

#include "messages/session.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace troupe::backends {

/// The user that commands run as unless told otherwise, inside; layers belong to it on the disk.
inline constexpr uint32_t default_sandbox_user = 1000;

/// What an operator says of isolated sandboxes.
struct isolated_options {
  /// Where the root file system's template is made; empty: there are no isolated sandboxes.
  std::string dir;
  /// Names of walls that may be missing: `user_range`, `seccomp`, `landlock`, `cgroup`;
  /// `layers`: workspaces are copied, not laid on layers.
  std::vector<std::string> waive;
  /// What the file system is made of: `host`, or the path of a directory.
  std::string root = "host";
  /// Whether a session may ask for the server's own network.
  bool allow_host_network = false;
  /// What the allow list of a session may name, in the form of such a list; nullopt: anything.
  std::optional<std::vector<std::string>> egress_names;
  /// Addresses that are reached though they are no public ones: "10.1.0.0/16".
  std::vector<std::string> egress_ranges;
  /// Of one session, through the proxy, at once.
  int64_t egress_connections = 64;
  /// After which a connection without traffic is closed.
  uint32_t egress_idle_seconds = 300;
  /// Which ranges of user ids are taken, by all servers of this machine.
  std::string uid_dir = "/var/lib/troupe/uids";
  /// The first id of the first range.
  uint32_t uid_base = 0x80000000;
  /// How long a sandbox outlives its server.
  uint32_t grace_seconds = 300;
  /// Sandboxes of an earlier server may be alive, on root file systems that it made.
  bool may_adopt = false;
  /// Unless a session says otherwise.
  int64_t default_pids = 1024;
  int64_t default_open_files = 4096;
  /// The most that a session may ask for, and what it gets when it asks for nothing.
  session_limits max_limits;
  /// How many sandboxes wait to be taken, by the place of the workspace inside.
  std::map<std::string, uint32_t> warm;
  /// Limits of disk space are held by a file system in a file; the server must have mounts of its
  /// own (see disk_image.hpp). Otherwise such limits are refused.
  bool disk_images = false;
  /// Of /tmp and /dev/shm, each.
  int64_t tmp_bytes = int64_t{256} << 20;
  int64_t tmp_inodes = 65'536;
};

/// The sandboxes made in advance for one place of a workspace.
struct warm_count {
  std::string root;
  size_t ready = 0;
  size_t wanted = 0;
};

} // namespace troupe::backends
