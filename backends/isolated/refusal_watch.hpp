#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/reactor.hpp"
#include "messages/unique_fd.hpp"

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

namespace troupe::backends::isolated {

/// Where a sandbox's walls refuse without a word, and what can be seen of it from outside.
struct refusal_sources {
  pid_t init = -1;
  std::shared_ptr<const unique_fd> pidfd; ///< of init
  bool own_network = true;
  shared_fd workspace;                 ///< null: its space has no limit
  std::shared_ptr<const cgroup> group; ///< null: no processes are counted
  int64_t processes = 0; ///< of each user; 0: another limit, which counts what it refuses
};

/// Tells of refusals that the kernel tells nobody of: packets to where no route leads, a file
/// system without room, a user without processes. Looks a moment after commands have ended, now and
/// then while they run, and before the end.
class refusal_watch : public std::enable_shared_from_this<refusal_watch> {
public:
  using listener = std::function<void(sandbox_notice)>;

  /// `events` must outlive it.
  refusal_watch(reactor& events, refusal_sources sources, listener told);

  // -- any thread --------------------------------------------------------------------------------

  /// What was refused so far is no news.
  void skip_past();
  void command_began();
  void command_ended();

  /// A last look.
  void finish();

  /// No more. Reactor thread.
  void stop();

private:
  void look();
  void look_in(std::chrono::milliseconds pause);
  void look_at_network();
  void look_at_space(const std::string& path, const std::string& name, int fd = -1);
  void look_at_processes();
  /// Once until it is over.
  void tell_limit(const std::string& limit, bool met);

  reactor& events_;
  const refusal_sources sources_;
  std::atomic<int64_t> running_ = 0; ///< commands
  std::atomic<bool> is_due_ = false; ///< the next look

  // -- reactor thread only
  listener told_;
  int64_t without_route_ = 0;
  std::set<std::string> met_;
  reactor::timer_id timer_ = 0;
  reactor::clock::time_point due_;
};

} // namespace troupe::backends::isolated
