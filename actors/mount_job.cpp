#include "actors/mount_job.hpp"

#include "backends/foreign_mounts.hpp"
#include "workspace/mount_rclone.hpp"
#include "workspace/mount_targets.hpp"
#include "workspace/tree.hpp"
#include "workspace/write_files.hpp"

#include <algorithm>

namespace troupe::actors {

namespace {

error mount_error(const std::vector<std::string>& argv, const std::vector<std::string>& probe,
                  const result<exec_result>& failed) {
  if (argv == probe)
    return make_error(errc::mount_missing_tool, op::materialize,
                      "required mount tool missing: rclone serve nfs")
      .with("tool", "rclone serve nfs");
  return make_error(errc::mount_failed, op::materialize, "mount command failed")
    .with("command", argv)
    .with("stderr", failed ? failed->stderr_data : failed.error().message);
}

} // namespace

void plan_mount(entry_job& job, const std::shared_ptr<const application>& work,
                const mount_entry& x) {
  job.run = [] { return std::vector<materialized_file>{}; };
  workspace::rclone_place place;
  place.session_id = work->session_id;
  place.root = work->root_path;
  std::string inside;
  // The session has checked them.
  if (auto targets = workspace::mount_targets(*work->manifest))
    for (const auto& target : *targets)
      if (target.mount == &x) {
        place.target = target.path;
        inside = target.inside;
      }
  auto plan = workspace::plan_rclone_mount(x, place);
  if (!plan) {
    job.prepare = [problem = plan.error()]() -> result<void> { return unexpected(problem); };
    return;
  }
  workspace::file_edit config;
  config.path = plan->config_path;
  config.shown = plan->config_path;
  config.text = plan->config;
  config.mode = 0600;
  config.fresh = true;
  job.prepare = [work, inside, config, target = place.target]() -> result<void> {
    if (auto detached = backends::detach_helper_mounts(target); !detached)
      return detached;
    if (auto made = workspace::make_directories(work->root->get(), inside); !made)
      return made;
    return workspace::write_files(work->root->get(), {config});
  };
  auto& commands = job.attempts.emplace_back();
  if (!plan->probe.empty())
    commands.push_back(plan->probe);
  std::ranges::move(plan->attach, std::back_inserter(commands));
  // A store that hangs must not hold up whoever touches its files for minutes, as it would with
  // rclone's own limits; these give in after one and a half.
  job.environment
    = {{"RCLONE_CONTIMEOUT", "10s"}, {"RCLONE_TIMEOUT", "30s"}, {"RCLONE_LOW_LEVEL_RETRIES", "3"}};
  job.command_error = [probe = plan->probe](const auto& argv, const auto& failed) {
    return mount_error(argv, probe, failed);
  };
}

} // namespace troupe::actors
