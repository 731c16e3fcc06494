#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/egress/proxy.hpp"
#include "backends/isolated/disk_image.hpp"
#include "backends/isolated/init_link.hpp"
#include "backends/isolated/launch.hpp"
#include "backends/isolated/limit_groups.hpp"
#include "backends/isolated/options.hpp"
#include "backends/isolated/root_template.hpp"
#include "backends/runner_sandbox.hpp"

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace troupe::backends::isolated {

/// What all isolated sandboxes of a process share.
struct shared_parts {
  shared_parts(isolated_options opts, std::string instance_name)
    : options(std::move(opts)), instance(std::move(instance_name)),
      templates(options.dir, options.root, options.may_adopt) {}

  /// (blocks) The filter, made once.
  result<std::string> filter();

  bool waived(const std::string& name) const;

  /// Why no workspace can lie on layers on this machine, as far as is known; empty: one can.
  std::string why_no_layers() const;
  void no_layers(const std::string& why);

  /// Carries what sandboxes with an allow list send; made when first asked for.
  egress::service& egress();

  const isolated_options options;
  const std::string instance;
  root_templates templates;

private:
  mutable std::mutex mutex_;
  std::string filter_;                      ///< guarded
  std::string why_no_layers_;               ///< guarded
  std::unique_ptr<egress::service> egress_; ///< guarded
};

} // namespace troupe::backends::isolated

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
  void connect(uint16_t port, std::function<void(result<unique_fd>)> done) override;
  void shutdown(std::function<void()> done) override;
  result<void> remove() override;
  session_usage usage() const override;
  std::vector<wall> walls() const override;

private:
  struct ending;
  struct limit_watch;

  /// From `open` to its end.
  struct life {
    std::shared_ptr<command_runner> runner;
    std::shared_ptr<isolated::init_link> link;
    std::shared_ptr<egress::proxy> proxy; ///< null: no allow list
    std::shared_ptr<unique_fd> init;      ///< pidfd
    std::shared_ptr<cgroup> group;
    std::shared_ptr<isolated::limit_groups> limits;
    std::shared_ptr<limit_watch> limit_hits;
    shared_fd root;
    std::shared_ptr<const layered_workspace> layers;
    std::vector<wall> walls;
    std::shared_ptr<ending> end;
  };

  /// (blocks) Makes the directories, the listening socket and the ids; then init.
  result<life> start();
  /// (blocks) The same with an init that outlived an earlier server.
  life take_over(isolated::launched_init init, std::shared_ptr<const layered_workspace> layers);
  life assemble(isolated::launched_init init, std::shared_ptr<cgroup> group,
                isolated::limit_groups limits, std::shared_ptr<const layered_workspace> layers);
  /// (blocks) Null: the workspace is a plain directory.
  result<std::shared_ptr<const layered_workspace>> find_layers() const;
  /// (blocks) Nothing runs any more, not even what an earlier server left.
  void end_all();
  result<unique_fd> listen() const;
  result<void> open_disk();
  std::string limits_name(const std::string& name) const;
  /// (blocks) Of a life that an earlier server began and that has ended.
  void remove_groups(const std::string& name);
  result<void> give_root_to_its_user(const layered_workspace* layers) const;
  result<isolated::launch_plan> plan(const layered_workspace* layers) const;
  result<void> write_accounts(isolated::launch_plan& out) const;
  result<void> plan_network(isolated::launch_plan& out) const;
  std::shared_ptr<egress::proxy> start_proxy(unique_fd listener) const;
  std::vector<wall> describe(const isolated::launched_init& init,
                             const layered_workspace* layers) const;
  result<user_ids> ids_of(const std::optional<std::string>& user) const;
  std::vector<std::string>
  environment_of(const exec_request& request,
                 const std::vector<std::pair<std::string, std::string>>& environment) const;
  life current() const;
  std::shared_ptr<command_runner> runner() const override;

  cgroup_tree& cgroups_;
  isolated::shared_parts& parts_;
  const sandbox_config config_;
  std::map<std::string, std::string> host_environment_;
  std::map<std::string, user_ids> accounts_; ///< by name
  const isolated::disk_image disk_;
  bool mapped_; ///< it has a range of ids of its own

  std::function<void(sandbox_notice)> told_; ///< null: nobody; set before `open`

  mutable std::mutex mutex_;
  life life_;                      ///< guarded; empty: not open
  uint32_t uid_base_ = 0;          ///< guarded; 0: none yet
  std::shared_ptr<ending> ending_; ///< guarded; the last shutdown
  std::mutex opening_;             ///< one `open` at a time
};

} // namespace troupe::backends
