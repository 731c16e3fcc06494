#include "actors/offload.hpp"
#include "actors/session.hpp"
#include "backends/foreign_mounts.hpp"
#include "backends/unix_local/argv.hpp"
#include "workspace/mount_rclone.hpp"
#include "workspace/mount_security.hpp"
#include "workspace/mount_targets.hpp"

#include <algorithm>
#include <cstdlib>

// Mounts are attached by helpers that run in the sandbox, as the agent's commands do: where they
// stand in the manifest (manifest_supervisor.cpp). Here is what is asked before, and done after.

namespace troupe::actors {

namespace {

constexpr auto helper_timeout = std::chrono::seconds{60};
constexpr int64_t helper_output_limit = 64 * 1024;

bool is_attached_inside(const workspace::mount_target& x) {
  return x.mount->strategy.kind == mount_strategy_kind::in_container;
}

/// Where a command of a session with this manifest finds its programs.
std::string search_path(const manifest& x, const std::vector<std::string>& env_allowlist) {
  for (const auto& variable : x.environment)
    if (variable.name == "PATH")
      return variable.value;
  const char* host = std::getenv("PATH"); // NOLINT(concurrency-mt-unsafe): nobody sets variables
  return host && backends::is_allowed("PATH", env_allowlist) ? host : backends::default_path;
}

} // namespace

result<void> session_impl::check_mounts_of(const manifest& x) const {
  workspace::mount_support support;
  support.backend = record_.spec.state.type;
  support.runs_rclone = !is_isolated() && backends::can_mount_fuse();
  const std::vector<std::string> nothing_of_the_host;
  support.search_path
    = search_path(x, is_isolated() ? nothing_of_the_host : shared_.config.env_allowlist);
  return workspace::check_mounts_supported(x, support);
}

bool session_impl::attaches_mounts(const manifest& x) const {
  if (!workspace::has_mounts(x))
    return false;
  auto targets = workspace::mount_targets(x);
  return targets && std::ranges::any_of(*targets, is_attached_inside);
}

co<result<exec_result>> session_impl::run_mount_helper(std::vector<std::string> argv) {
  sandbox_exec command;
  command.call_id = next_handle_++;
  command.request.command = std::move(argv);
  command.request.shell = shell_mode::off;
  command.request.timeout = helper_timeout;
  command.request.output_limit = helper_output_limit;
  command.environment = environment();
  co_return co_await ask<exec_result>(self_, backend_, std::move(command));
}

co<result<void>> session_impl::detach_mounts() {
  const auto& x = record_.spec.state.manifest;
  if (!attaches_mounts(x))
    co_return result<void>{};
  auto targets = workspace::mount_targets(x);
  for (const auto& target : *targets) {
    if (!open_ || !is_attached_inside(target))
      continue;
    workspace::rclone_place place;
    place.session_id = record_.spec.id;
    place.root = x.root;
    place.target = target.path;
    auto plan = workspace::plan_rclone_mount(*target.mount, place);
    if (!plan)
      continue;
    for (const auto& argv : plan->detach) {
      auto ran = co_await run_mount_helper(argv);
      (void) ran; // it may not be attached
    }
  }
  // Also of a helper that a crash has ended.
  auto work = [folder = workspace_dir(shared_.config, record_.spec)] {
    return backends::detach_helper_mounts(folder);
  };
  co_return co_await offload<void>(self_, shared_.io, record_.spec.tenant, work);
}

} // namespace troupe::actors
