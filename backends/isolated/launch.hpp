#pragma once

#include "backends/isolated/init/protocol.hpp"
#include "backends/isolated/overlay.hpp"
#include "messages/error.hpp"
#include "messages/unique_fd.hpp"

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace troupe::backends::isolated {

/// One mount of a sandbox. `source` is a path of ours for those that are handed over.
struct mount_plan {
  mount_kind kind = mount_kind::handed;
  uint32_t flags = 0;
  std::string source;
  std::string target; ///< below the root, without a leading slash
  uint64_t bytes = 0;
  uint64_t inodes = 0;
};

/// What an init is started with.
struct launch_plan {
  std::vector<mount_plan> mounts;
  /// What the mounts of the kind `sent` are.
  std::optional<overlay_plan> overlay;
  std::vector<std::string> masked; ///< or, after a `mark_of_read_only`, only made that
  std::string host_name = "sandbox";
  std::string workspace = "/workspace";
  std::string seccomp_filter; ///< empty: waived
  bool landlock = true;
  bool own_network = true;
  uint16_t proxy_port = 0; ///< 0: no proxy
  uint32_t uid_base = 0;
  uint32_t uid_count = 0; ///< 0: only our own id, as 0
  uint32_t grace_seconds = 300;
  uint64_t open_files = 4096;
  uint64_t processes = 0;
  int cgroup_fd = -1;
  int listener = -1; ///< where a later controller connects
};

/// An init that is ready.
struct launched_init {
  pid_t pid = -1;
  unique_fd pidfd;
  unique_fd control;
  unique_fd root;
  unique_fd terminals; ///< the directory of its devpts
  unique_fd proxy;     ///< where the proxy takes connections; empty: there is none
  uint32_t landlock_abi = 0;
};

/// An unwritable, executable file in memory that holds init; one for the process. -1: there is
/// none.
int init_program();

/// (blocks, some milliseconds) Makes the namespaces and starts init in them. An error names the
/// wall that could not be had, in its context.
result<launched_init> launch_init(const launch_plan& plan);

/// (blocks) The init that an earlier server left alive beside its socket in the directory
/// `private_dir`, once nobody else controls it; nullopt: there is none.
result<std::optional<launched_init>> adopt_init(int private_dir);

/// (blocks) Whether an init that was taken over has the ids that a plan with these would give it.
bool has_ids(const launched_init& init, uint32_t uid_base, uint32_t uid_count);

/// (blocks) Ends it, and with it everything inside.
void end_init(launched_init& x);

} // namespace troupe::backends::isolated
