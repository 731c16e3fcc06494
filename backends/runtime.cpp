#include "backends/runtime.hpp"

#include "backends/isolated/isolated.hpp"
#include "backends/isolated/warm_pool.hpp"
#include "backends/unix_local/unix_local.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

namespace troupe::backends {

namespace {

/// How long an ended orphan may hold its pid.
constexpr std::chrono::seconds reap_interval{1};

/// Of a group whose name begins with a session's id, or is named itself.
bool is_adoptable(const std::set<std::string>& sessions, const std::string& name) {
  constexpr size_t id_size = 36;
  return sessions.contains(name)
         || (name.size() > id_size && sessions.contains(name.substr(0, id_size)));
}

isolated_options for_sandboxes(const runtime::options& opts) {
  auto out = opts.isolated;
  out.may_adopt = !opts.adoptable.empty();
  return out;
}

/// Before any member is made: the spawner copies what is ignored, and wants low descriptors.
cgroup_tree prepare_process(const runtime::options& opts) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL); // ignored by whoever started us, it would take the exit codes away
  ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  auto keep = [&](const std::string& name) { return is_adoptable(opts.adoptable, name); };
  return opts.cgroups ? cgroup_tree{opts.instance, keep} : cgroup_tree{};
}

} // namespace

runtime::runtime(options opts)
  : cgroups_(prepare_process(opts)),
    isolated_(std::make_unique<isolated::shared_parts>(for_sandboxes(opts), opts.instance)),
    kills_({.name = "killer", .threads = 2}) {
  if (!opts.isolated.dir.empty())
    isolated::limit_groups::sweep("troupe-" + opts.instance + "-", [&](const std::string& name) {
      return is_adoptable(opts.adoptable, name);
    });
  if (!opts.isolated.dir.empty() && !opts.isolated.warm.empty()) {
    warm_ = std::make_unique<isolated::warm_pool>(cgroups_, *isolated_);
    isolated_->warm = warm_.get();
  }
  reactor_.post([this] { reap_regularly(); });
}

runtime::~runtime() {
  warm_.reset();
  // What these run last still posts to the reactor.
  kills_.stop();
  spawner_.stop();
}

runner_services runtime::services() {
  return {reactor_, spawner_, kills_, cgroups_.available() ? nullptr : &sessions_};
}

void runtime::reap_regularly() {
  spawner_.reap_orphans();
  reactor_.at(reactor::clock::now() + reap_interval, [this] { reap_regularly(); });
}

std::vector<warm_count> runtime::warm_sandboxes() const {
  return warm_ ? warm_->counts() : std::vector<warm_count>{};
}

result<std::unique_ptr<sandbox>> runtime::make_sandbox(backend_kind kind, sandbox_config config) {
  if (kind == backend_kind::unix_local)
    return std::make_unique<unix_local_sandbox>(services(), cgroups_, std::move(config));
  if (kind == backend_kind::isolated && !isolated_->options.dir.empty())
    return std::make_unique<isolated_sandbox>(services(), cgroups_, *isolated_, std::move(config));
  auto name = std::string{to_string(kind)};
  return unexpected{make_error(errc::backend_unavailable, op::create,
                               "this build does not have the backend " + name)
                      .with("backend", name)};
}

} // namespace troupe::backends
