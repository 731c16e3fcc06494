#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/command_runner.hpp"
#include "backends/isolated/options.hpp"
#include "backends/process_tree.hpp"
#include "backends/reactor.hpp"
#include "backends/spawner.hpp"
#include "backends/thread_pool.hpp"

#include <memory>
#include <set>
#include <string>

namespace troupe::backends {

namespace isolated {
struct shared_parts;
class warm_pool;
} // namespace isolated

/// What every sandbox of a process shares: the reactor, the spawners and the cgroup tree.
/// Made once, before the first thread starts a process; outlives every sandbox.
///
/// Changes the process: SIGPIPE is ignored, the limit of open files goes to its maximum, and
/// orphans of commands become children, which are reaped here. So no other code may wait for
/// children of its own, but through `spawner::reap`. Commands that still run when it goes down are
/// killed by the kernel and not reported: shut the sandboxes down first.
class runtime {
public:
  struct options {
    /// Distinguishes this server's cgroups; a server with the same name sweeps what an earlier
    /// process of that name left behind. Letters, digits and dashes.
    std::string instance = "default";
    /// Whether to use cgroups where the machine has them.
    bool cgroups = true;
    isolated_options isolated;
    /// Sessions, and names of their groups (`isolated::life_name`), whose sandboxes an earlier
    /// process of this name may have left alive, for this one to take over when they are opened.
    /// What else it left is swept.
    std::set<std::string> adoptable;
  };

  explicit runtime(options opts);
  ~runtime();

  reactor& events() {
    return reactor_;
  }
  spawner& starts() {
    return spawner_;
  }
  cgroup_tree& cgroups() {
    return cgroups_;
  }

  /// Makes a sandbox of `kind`; `backend_unavailable` if this build or machine has none.
  result<std::unique_ptr<sandbox>> make_sandbox(backend_kind kind, sandbox_config config);

  std::vector<warm_count> warm_sandboxes() const;

private:
  runner_services services();
  void reap_regularly();

  cgroup_tree cgroups_;
  std::unique_ptr<isolated::shared_parts> isolated_;
  std::unique_ptr<isolated::warm_pool> warm_; ///< null: none are made in advance
  session_ledger sessions_;
  thread_pool kills_;
  spawner spawner_;
  reactor reactor_; ///< last, so that it ends first: its handlers use all of the above
};

} // namespace troupe::backends
