#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/isolated/accounts.hpp"
#include "backends/isolated/disk_image.hpp"
#include "backends/isolated/life.hpp"
#include "backends/isolated/sandbox_maker.hpp"
#include "backends/isolated/shared_parts.hpp"
#include "backends/runner_sandbox.hpp"

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace troupe::backends {

/// Runs commands in namespaces of their own, as users of their own, behind seccomp and Landlock,
/// beneath an init that starts them (init/). Killing that init kills everything.
///
/// Starting fails with the wall that cannot be had, unless the operator waived it.
class isolated_sandbox : public runner_sandbox {
public:
  isolated_sandbox(runner_services services, cgroup_tree& cgroups, isolated::shared_parts& parts,
                   sandbox_config config);
  ~isolated_sandbox() override;

  void observe(std::function<void(sandbox_notice)> told) override;

  // -- sandbox -----------------------------------------------------------------------------------

  result<void> open() override;
  shared_fd root() const override;
  result<unique_fd> file_system() const override;
  result<void> reopen_root() override;
  std::string why_no_layers() const override;
  result<void> rebase(held_layers held) override;
  std::shared_ptr<const layered_workspace> layers() const override;
  std::shared_ptr<const void> freeze() override;
  result<command_spec>
  prepare(const exec_request& request,
          const std::vector<std::pair<std::string, std::string>>& environment) const override;
  result<std::optional<user_ids>>
  file_identity(const std::optional<std::string>& user) const override;
  command_id exec(command_spec spec, command_handlers handlers) override;
  command_id open_terminal(command_spec spec, terminal_options options,
                           terminal_handlers handlers) override;
  void connect(uint16_t port, std::function<void(result<unique_fd>)> done) override;
  void shutdown(std::function<void()> done) override;
  result<void> remove() override;
  session_usage usage() const override;
  std::vector<wall> walls() const override;

private:
  using life = isolated::life;

  /// (blocks) One from the pool, one that outlived an earlier server, or a new one.
  result<life> start();
  std::optional<life> take_warm();
  life take_over(isolated::launched_init init, std::shared_ptr<const layered_workspace> layers);
  life assemble(isolated::made_sandbox made, std::shared_ptr<const layered_workspace> layers,
                bool is_new);
  /// (blocks) Null: the workspace is a plain directory.
  result<std::shared_ptr<const layered_workspace>> find_layers() const;
  /// (blocks) Nothing runs any more, not even what an earlier server left.
  void end_all();
  result<void> open_disk();
  std::shared_ptr<egress::proxy> start_proxy(unique_fd listener) const;
  std::vector<std::string>
  environment_of(const exec_request& request,
                 const std::vector<std::pair<std::string, std::string>>& environment) const;
  isolated::refusal_sources refusal_sources_of(const life& x, pid_t init) const;
  life current() const;
  std::shared_ptr<command_runner> runner() const override;

  cgroup_tree& cgroups_;
  isolated::shared_parts& parts_;
  const sandbox_config config_;
  std::map<std::string, std::string> host_environment_;
  const bool mapped_; ///< it has a range of ids
  const isolated::accounts accounts_;
  const isolated::sandbox_maker maker_;
  const isolated::disk_image disk_;

  std::function<void(sandbox_notice)> told_; ///< null: nobody; set before `open`

  mutable std::mutex mutex_;
  life life_;                                ///< guarded; empty: not open
  uint32_t uid_base_ = 0;                    ///< guarded; 0: none yet
  std::shared_ptr<isolated::ending> ending_; ///< guarded; the last shutdown
  std::mutex opening_;                       ///< one `open` at a time
};

} // namespace troupe::backends
