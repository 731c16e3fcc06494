#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/command_runner.hpp"
#include "backends/egress/proxy.hpp"
#include "backends/isolated/init_link.hpp"
#include "backends/isolated/limit_watch.hpp"
#include "backends/isolated/refusal_watch.hpp"

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace troupe::backends::isolated {

class ending;

/// A sandbox from `open` to its end.
struct life {
  std::shared_ptr<command_runner> runner;
  std::shared_ptr<init_link> link;
  std::shared_ptr<egress::proxy> proxy; ///< null: no allow list
  std::shared_ptr<unique_fd> init;      ///< pidfd
  std::shared_ptr<cgroup> group;
  std::shared_ptr<limit_groups> limits;
  std::shared_ptr<limit_watch> limit_hits;
  std::shared_ptr<refusal_watch> refusals; ///< null: nobody would be told
  shared_fd root;
  std::shared_ptr<const layered_workspace> layers;
  std::vector<wall> walls;
  std::shared_ptr<ending> end;
};

/// How a life ends: by `shutdown`, or because its init died. It may outlast the sandbox.
class ending : public std::enable_shared_from_this<ending> {
public:
  ending(runner_services s, life x);

  /// Kills what is there; `done` runs on the reactor thread when all of it is gone, also when it
  /// was gone already. True for the first to ask.
  bool begin(std::function<void()> done, bool lost = false);

  /// Reactor thread. Init's end of the socket is closed. Unless we made it so, that is news.
  void init_died(const std::function<void(sandbox_notice)>& told);

private:
  bool begun_already();
  /// With its last process, the kernel reports init.
  void await_init();
  void proceed();
  void finish();
  sandbox_notice obituary() const;

  const runner_services services_;
  life what_;

  // -- reactor thread only
  reactor::watch_id watch_ = 0;
  bool init_gone_ = false;
  bool commands_gone_ = false;
  bool out_of_memory_ = false;
  int signal_ = 0;

  std::mutex mutex_;
  std::vector<std::function<void()>> waiting_; ///< guarded
  bool begun_ = false;                         ///< guarded
  bool over_ = false;                          ///< guarded
};

} // namespace troupe::backends::isolated
