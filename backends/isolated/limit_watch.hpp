#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/isolated/limit_groups.hpp"
#include "backends/reactor.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

namespace troupe::backends::isolated {

/// Tells of limits that a sandbox met: when it meets them, as soon as the kernel says so or, where
/// it does not, by looking every other second. Between two times is a pause. Reactor thread.
class limit_watch : public std::enable_shared_from_this<limit_watch> {
public:
  using listener = std::function<void(sandbox_notice)>;

  /// `alarms`: of the two. `is_new`: it cannot have met any yet.
  limit_watch(std::shared_ptr<limit_groups> v1, std::shared_ptr<cgroup> v2,
              std::vector<limit_groups::alarm> alarms, bool is_new);

  limit_groups::hits now() const;

  /// Any thread. Tells `told` from now on, on the reactor thread, which must outlive this.
  void start(reactor& events, listener told);

  /// No more; before the groups are removed.
  void stop();

  /// Some limit may be why a command failed: the kernel keeps count. Whether any was met since.
  bool tell();

private:
  struct watched {
    limit_groups::alarm alarm;
    reactor::watch_id id;
  };

  void on_alarm();
  void listen_again();
  void listen_again_after(std::chrono::milliseconds pause);
  void listen(bool on);

  const std::shared_ptr<limit_groups> groups_;
  const std::shared_ptr<cgroup> unified_;
  limit_groups::hits told_hits_;
  listener told_;
  reactor* events_ = nullptr;
  std::vector<watched> alarms_;
  reactor::timer_id pause_ = 0;
};

} // namespace troupe::backends::isolated
