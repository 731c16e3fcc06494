#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/runner_sandbox.hpp"

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace troupe::backends {

/// Runs commands as the server's own user, on the server's own file system and network: a workspace
/// directory, and certainty that nothing survives a shutdown. No isolation.
///
/// Every command carries TROUPE_SESSION_ID in its environment.
class unix_local_sandbox : public runner_sandbox {
public:
  unix_local_sandbox(runner_services services, cgroup_tree& cgroups, sandbox_config config);
  ~unix_local_sandbox() override;

  // -- sandbox -----------------------------------------------------------------------------------

  result<void> open() override;
  shared_fd root() const override;
  result<unique_fd> file_system() const override;
  result<void> reopen_root() override;
  result<command_spec>
  prepare(const exec_request& request,
          const std::vector<std::pair<std::string, std::string>>& environment) const override;
  result<std::optional<user_ids>>
  file_identity(const std::optional<std::string>& user) const override;
  void connect(uint16_t port, std::function<void(result<unique_fd>)> done) override;
  void shutdown(std::function<void()> done) override;
  result<void> remove() override;
  session_usage usage() const override;
  std::vector<wall> walls() const override;

private:
  /// From `open` to `shutdown`.
  struct life {
    std::shared_ptr<command_runner> runner;
    std::shared_ptr<cgroup> group; ///< null: the machine has none
  };

  struct ending;

  static void sweep(const std::shared_ptr<ending>& x);
  life current() const;
  std::shared_ptr<command_runner> runner() const override {
    return current().runner;
  }
  std::vector<std::string>
  environment_of(const exec_request& request,
                 const std::vector<std::pair<std::string, std::string>>& environment) const;

  cgroup_tree& cgroups_;
  sandbox_config config_;
  std::map<std::string, std::string> host_environment_; ///< what the allow-list lets through

  mutable std::mutex mutex_;
  life life_;                      ///< guarded; empty: not open
  shared_fd root_;                 ///< guarded
  std::string resolved_root_;      ///< guarded; the workspace root without symbolic links
  std::shared_ptr<ending> ending_; ///< guarded; the last shutdown
};

} // namespace troupe::backends
