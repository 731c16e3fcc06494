#pragma once

#include <sys/types.h>

#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::backends {

/// (blocks, some ms) Kills `root`, an unreaped child of ours and a subreaper, with everything below
/// it. Its orphans come to it, so that neither setsid nor a double fork gets anything out of the
/// tree. Gives up after a bounded time on what keeps forking faster than it can be killed.
void kill_tree(pid_t root, int pidfd);

/// Which sandbox last made a session (as in setsid) with a given id. For machines without cgroups:
/// a process keeps its session id although its parent is gone and its environment was emptied.
class session_ledger {
public:
  /// A command of `owner` with this pid, which leads a session of the same number, was started.
  /// Whoever had the number before has no process in it any more, or the kernel would not have
  /// given it out.
  void started(pid_t pid, const std::string& owner);

  std::vector<pid_t> sessions_of(const std::string& owner) const;

  void forget(const std::string& owner);

private:
  mutable std::mutex mutex_;
  std::unordered_map<pid_t, std::string> owners_; ///< by session id
};

/// (blocks) Kills every descendant of this server that was started with `assignment` in its
/// environment or is in one of `sessions`, and all below those, until none is alive. Misses a
/// process that left its session, its environment and its parents.
void kill_marked(const std::string& assignment, const std::vector<pid_t>& sessions);

} // namespace troupe::backends
