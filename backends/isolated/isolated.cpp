#include "backends/isolated/isolated.hpp"

#include "backends/isolated/overlay.hpp"
#include "backends/isolated/seccomp.hpp"
#include "backends/isolated/thaw_guard.hpp"
#include "backends/isolated/uid_range.hpp"
#include "backends/isolated/walls.hpp"
#include "backends/isolated/warm_pool.hpp"
#include "backends/ownership.hpp"
#include "backends/proc.hpp"
#include "backends/unix_local/argv.hpp"
#include "messages/ids.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <thread>

namespace troupe::backends {

using namespace isolated;

namespace {

/// Variables of the server's that say who it is, not how commands shall speak.
bool is_personal(const std::string& name) {
  return name == "PATH" || name == "USER" || name == "LOGNAME" || name == "SHELL" || name == "HOME";
}

std::map<std::string, std::string> allowed_environment(const std::vector<std::string>& allowlist) {
  std::map<std::string, std::string> out;
  for (auto entry = ::environ; *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    auto end = text.find('=');
    if (end == std::string_view::npos)
      continue;
    auto name = std::string{text.substr(0, end)};
    if (!is_personal(name) && is_allowed(name, allowlist))
      out.emplace(name, text.substr(end + 1));
  }
  return out;
}

error invalid(const std::string& what) {
  return make_error(errc::invalid_request, op::exec, what);
}

error start_failed(const std::string& path, int code) {
  return make_error(errc::workspace_start_error, op::start,
                    "cannot make " + path + ": " + std::strerror(code))
    .with("path", path);
}

std::string exit_text(const orphan_news& x) {
  if (!x.exit_code)
    return "{\"what\":\"command_runs\",\"pid\":" + std::to_string(x.pid) + "}";
  return "{\"what\":\"command_ended\",\"pid\":" + (x.pid > 0 ? std::to_string(x.pid) : "null")
         + ",\"exit_code\":" + std::to_string(*x.exit_code) + ",\"stdout\":" + json_quote(x.out)
         + ",\"stderr\":" + json_quote(x.err) + ",\"dropped_bytes\":" + std::to_string(x.dropped)
         + "}";
}

} // namespace

isolated_sandbox::isolated_sandbox(runner_services services, cgroup_tree& cgroups,
                                   shared_parts& parts, sandbox_config config)
  : runner_sandbox(services), cgroups_(cgroups), parts_(parts), config_(std::move(config)),
    host_environment_(allowed_environment(config_.env_allowlist)), mapped_(parts.gives_ranges()),
    accounts_(config_, mapped_), maker_(cgroups_, parts_, config_, accounts_),
    disk_(config_.private_dir, parts_.options.dir) {}

void isolated_sandbox::observe(std::function<void(sandbox_notice)> told) {
  told_ = std::move(told);
}

isolated_sandbox::~isolated_sandbox() {
  isolated_sandbox::shutdown([] {});
}

// -- opening -------------------------------------------------------------------------------------

result<void> isolated_sandbox::open() {
  std::lock_guard one{opening_};
  if (current().runner)
    return {};
  auto made = start();
  if (!made)
    return unexpected{std::move(made.error())};
  std::lock_guard guard{mutex_};
  life_ = std::move(*made);
  return {};
}

result<life> isolated_sandbox::start() {
  if (auto warm = take_warm())
    return std::move(*warm);
  auto private_dir = workspace::open_or_make_directory(config_.private_dir, 0700);
  if (!private_dir)
    return unexpected{std::move(private_dir.error())};
  if (::fchmod(private_dir->get(), 0700) != 0)
    return unexpected{start_failed(config_.private_dir, errno)};
  auto base = maker_.take_ids();
  if (!base)
    return unexpected{std::move(base.error())};
  {
    std::lock_guard guard{mutex_};
    uid_base_ = *base;
  }
  auto earlier_name = life_name(config_.private_dir);
  // One that died while it held everything cannot let go.
  if (auto group = cgroups_.find(earlier_name))
    group->freeze(false);
  if (auto ok = open_disk(); !ok)
    return unexpected{std::move(ok.error())};
  auto earlier = adopt_init(private_dir->get());
  if (!earlier)
    return unexpected{std::move(earlier.error())};
  // The server has become root since, or was given ids, or has lost them.
  if (*earlier && !has_ids(**earlier, *base, mapped_ ? ids_per_range : 0)) {
    end_init(**earlier);
    earlier->reset();
    if (told_) {
      sandbox_notice x;
      x.data = R"({"what":"replaced"})";
      told_(std::move(x));
    }
  }
  auto layers = find_layers();
  if (!layers)
    return unexpected{std::move(layers.error())};
  if (*earlier)
    return take_over(std::move(**earlier), std::move(*layers));
  remove_groups(cgroups_, parts_, earlier_name);
  if (*layers)
    if (auto ok = prepare_overlay(config_.private_dir); !ok)
      return unexpected{std::move(ok.error())};
  auto made = maker_.make(*base, layers->get());
  if (!made)
    return unexpected{std::move(made.error())};
  return assemble(std::move(*made), std::move(*layers), true);
}

std::optional<life> isolated_sandbox::take_warm() {
  auto made = parts_.warm != nullptr ? parts_.warm->take(config_) : std::nullopt;
  if (!made)
    return std::nullopt;
  {
    std::lock_guard guard{mutex_};
    uid_base_ = made->uid_base;
  }
  return assemble(std::move(*made), nullptr, true);
}

life isolated_sandbox::take_over(launched_init init,
                                 std::shared_ptr<const layered_workspace> layers) {
  auto name = life_name(config_.private_dir);
  made_sandbox made;
  made.init = std::move(init);
  if (auto found = cgroups_.find(name))
    made.group = std::make_shared<cgroup>(std::move(*found));
  made.limits = find_limits(parts_, name);
  made.alarms = made.limits.alarms(made.group ? made.group->directory()->get() : -1);
  if (told_) {
    sandbox_notice x;
    x.data = R"({"what":"adopted"})";
    told_(std::move(x));
  }
  return assemble(std::move(made), std::move(layers), false);
}

life isolated_sandbox::assemble(made_sandbox made, std::shared_ptr<const layered_workspace> layers,
                                bool is_new) {
  auto& init = made.init;
  uint32_t base;
  {
    std::lock_guard guard{mutex_};
    base = uid_base_;
  }
  life out;
  out.walls = describe_walls(parts_, cgroups_, config_, base, init.landlock_abi, layers.get(),
                             why_no_layers());
  out.layers = std::move(layers);
  out.init = std::make_shared<unique_fd>(std::move(init.pidfd));
  out.group = std::move(made.group);
  out.root = std::make_shared<const unique_fd>(std::move(init.root));
  out.limits = std::make_shared<limit_groups>(std::move(made.limits));
  out.limit_hits
    = std::make_shared<limit_watch>(out.limits, out.group, std::move(made.alarms), is_new);
  if (told_) {
    out.limit_hits->start(services_.events, told_);
    out.refusals
      = std::make_shared<refusal_watch>(services_.events, refusal_sources_of(out, init.pid), told_);
    if (!is_new)
      out.refusals->skip_past();
  }
  out.link = std::make_shared<init_link>(services_.events, std::move(init.control),
                                         std::move(init.terminals), base, mapped_);
  out.link->watch_orphans([told = told_](const orphan_news& x) {
    if (!told)
      return;
    sandbox_notice notice;
    notice.data = exit_text(x);
    told(std::move(notice));
  });
  out.link->watch_denials([told = told_](const denied_message& x) {
    if (!told)
      return;
    auto name = name_of_call(x.call);
    sandbox_notice notice;
    notice.data = R"({"what":"denied","call":)" + json_quote(name) + ",\"pid\":"
                  + std::to_string(x.pid) + ",\"count\":" + std::to_string(x.count) + "}";
    notice.failure
      = make_error(errc::call_denied, op::sandbox, "a system call was refused: " + name);
    told(std::move(notice));
  });
  if (init.proxy)
    out.proxy = start_proxy(std::move(init.proxy));
  out.runner = std::make_shared<command_runner>(services_, config_.session_id, out.link);
  out.end = std::make_shared<ending>(services_, out);
  out.link->open([end = out.end, told = told_] { end->init_died(told); });
  return out;
}

refusal_sources isolated_sandbox::refusal_sources_of(const life& x, pid_t init) const {
  refusal_sources out;
  out.init = init;
  out.pidfd = x.init;
  out.own_network = config_.network != network_mode::host;
  if (config_.limits.disk_bytes)
    out.workspace = x.root;
  if (!config_.limits.pids) {
    out.group = x.group;
    out.processes = parts_.options.default_pids;
  }
  return out;
}

result<void> isolated_sandbox::open_disk() {
  const auto& limits = config_.limits;
  if (!limits.disk_bytes && !limits.disk_inodes)
    return {};
  auto cannot = [](const std::string& why) {
    return unexpected{
      make_error(errc::sandbox_config_invalid, op::start, "the wall `disk` cannot be had: " + why)
        .with("wall", "disk")
        .with("cause", why)};
  };
  if (!parts_.options.disk_images)
    return cannot("the operator has not turned it on (`isolated.disk`: \"image\")");
  if (!limits.disk_bytes)
    return cannot("a limit of inodes needs one of bytes");
  return disk_.open(services_.starts, {*limits.disk_bytes, limits.disk_inodes.value_or(0)});
}

std::shared_ptr<egress::proxy> isolated_sandbox::start_proxy(unique_fd listener) const {
  auto rules = egress::parse_rules(config_.network_allow).value_or(std::vector<egress::rule>{});
  auto tell = [told = told_](const egress::decision& x) {
    if (!told)
      return;
    sandbox_notice notice;
    notice.operation = op::network;
    notice.data = "{\"host\":" + json_quote(x.host) + ",\"port\":" + std::to_string(x.port)
                  + ",\"verdict\":" + (x.allowed ? "\"allowed\"" : "\"denied\"")
                  + ",\"reason\":" + json_quote(x.reason)
                  + ",\"address\":" + (x.address.empty() ? "null" : json_quote(x.address))
                  + ",\"count\":" + std::to_string(x.count) + "}";
    if (!x.allowed)
      notice.failure = make_error(errc::network_denied, op::network,
                                  "the sandbox may not reach " + x.host + ": " + x.reason);
    told(std::move(notice));
  };
  auto made = std::make_shared<egress::proxy>(parts_.egress(), config_.session_id, std::move(rules),
                                              std::move(listener), tell);
  made->start();
  return made;
}

void isolated_sandbox::end_all() {
  struct gate {
    std::mutex mutex;
    std::condition_variable wake;
    bool open = false;
  };
  auto g = std::make_shared<gate>();
  shutdown([g] {
    {
      std::lock_guard guard{g->mutex};
      g->open = true;
    }
    g->wake.notify_all();
  });
  {
    std::unique_lock lock{g->mutex};
    g->wake.wait(lock, [&] { return g->open; });
  }
  unique_fd dir{::open(config_.private_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  if (!dir)
    return;
  // What an earlier server left is taken over to be ended.
  auto name = life_name(config_.private_dir);
  if (auto group = cgroups_.find(name))
    group->freeze(false);
  if (auto earlier = adopt_init(dir.get()); earlier && *earlier) {
    end_init(**earlier);
  }
  remove_groups(cgroups_, parts_, name);
}

result<void> isolated_sandbox::reopen_root() {
  // Another directory stands in the root's place, but inside the old one is mounted: a new life.
  // Whoever replaces the root has no commands running.
  end_all();
  if (auto below = layers_below(config_.private_dir)) {
    if (auto dropped = drop_overlay(config_.private_dir); !dropped)
      return dropped;
    config_.layers->release(*below);
  }
  return open();
}

// -- layers --------------------------------------------------------------------------------------

std::string isolated_sandbox::why_no_layers() const {
  if (!config_.layers)
    return "there is no store of layers";
  if (config_.limits.disk_bytes)
    return "a limit of its space is held by a file system of its own";
  if (::geteuid() != 0)
    return "the server is no root";
  if (!mapped_)
    return "it has no user ids of its own";
  return parts_.why_no_layers();
}

std::shared_ptr<const layered_workspace> isolated_sandbox::layers() const {
  return current().layers;
}

result<std::shared_ptr<const layered_workspace>> isolated_sandbox::find_layers() const {
  auto held = layers_below(config_.private_dir);
  if (!held)
    return nullptr;
  if (!config_.layers || !mapped_ || ::geteuid() != 0)
    return unexpected{
      make_error(errc::sandbox_config_invalid, op::start,
                 "the workspace lies on layers, which cannot be mounted: " + why_no_layers())
        .with("wall", "layers")
        .with("cause", why_no_layers())};
  auto below = config_.layers->lease(*held);
  if (!below)
    return unexpected{std::move(below.error())};
  auto path = config_.private_dir + '/' + overlay_dir + "/upper";
  unique_fd upper{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  if (!upper)
    return unexpected{start_failed(path, errno)};
  return std::make_shared<const layered_workspace>(layered_workspace{
    std::move(*held), std::move(*below), std::make_shared<const unique_fd>(std::move(upper))});
}

result<void> isolated_sandbox::rebase(held_layers held) {
  auto refuse = [&](error why) {
    config_.layers->release(held);
    return unexpected{std::move(why)};
  };
  if (auto why = why_no_layers(); !why.empty())
    return refuse(make_error(errc::backend_unavailable, op::start, why));
  auto below = config_.layers->lease(held); // `open` will need them
  if (!below)
    return refuse(std::move(below.error()));
  auto made = workspace::open_or_make_directory(config_.private_dir, 0700);
  if (!made)
    return refuse(std::move(made.error()));
  struct stat root {};
  auto lay_before = layers_below(config_.private_dir);
  auto old_root
    = lay_before ? config_.private_dir + '/' + overlay_dir + "/upper" : config_.workspace_root;
  // The root keeps its mode; a new one has that of the tree.
  if (::stat(old_root.c_str(), &root) != 0
      && (below->folders.empty() || ::stat(below->folders.front().c_str(), &root) != 0))
    root.st_mode = 0755;
  end_all();
  auto swapped = overlay_swap::make(config_.private_dir, held, root.st_mode);
  if (!swapped)
    return refuse(std::move(swapped.error()));
  if (auto opened = open(); !opened) {
    if (opened.error().code == errc::backend_unavailable)
      parts_.no_layers(opened.error().message);
    return refuse(std::move(opened.error()));
  }
  swapped->keep();
  if (lay_before)
    config_.layers->release(*lay_before);
  else
    (void) workspace::remove_tree_at(config_.workspace_root);
  return {};
}

std::shared_ptr<const void> isolated_sandbox::freeze() {
  auto group = current().group;
  return group ? freeze_guarded(std::move(group)) : nullptr;
}

result<unique_fd> isolated_sandbox::file_system() const {
  auto init = current().init;
  unique_fd top;
  if (init) {
    auto path = "/proc/" + std::to_string(pid_of(init->get())) + "/root";
    top.reset(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  // Init lives, so that the id was its own.
  if (!top || ::syscall(SYS_pidfd_send_signal, init->get(), 0, nullptr, 0) != 0)
    return unexpected{make_error(errc::conflict, op::read, "the sandbox is not open")};
  return top;
}

shared_fd isolated_sandbox::root() const {
  return current().root;
}

// -- commands ------------------------------------------------------------------------------------

result<std::optional<user_ids>>
isolated_sandbox::file_identity(const std::optional<std::string>& user) const {
  auto ids = accounts_.ids_of(user);
  if (!ids)
    return unexpected{std::move(ids.error())};
  if (!mapped_)
    return std::optional<user_ids>{};
  std::lock_guard guard{mutex_};
  ids->uid += uid_base_;
  ids->gid += uid_base_;
  for (auto& group : ids->groups)
    group += uid_base_;
  return std::optional{std::move(*ids)};
}

result<command_spec> isolated_sandbox::prepare(
  const exec_request& request,
  const std::vector<std::pair<std::string, std::string>>& environment) const {
  if (request.command.empty())
    return unexpected{invalid("the command is empty")};
  for (const auto& [name, value] : request.env)
    if (name.empty() || name.find('=') != std::string::npos)
      return unexpected{invalid("an environment variable has no proper name")};
  auto ids = accounts_.ids_of(request.user);
  if (!ids)
    return unexpected{std::move(ids.error())};
  command_spec spec;
  spec.as = std::move(*ids);
  auto as_is = request;
  as_is.user.reset();
  spec.argv = prepare_argv(as_is, "-lc");
  spec.cwd = config_.inside_root;
  if (request.cwd && !request.cwd->empty())
    spec.cwd
      = request.cwd->front() == '/' ? *request.cwd : config_.inside_root + "/" + *request.cwd;
  spec.env = environment_of(request, environment);
  spec.stdin_data = request.stdin_data;
  spec.timeout = request.timeout;
  if (request.output_limit > 0)
    spec.output_limit = request.output_limit;
  return spec;
}

std::vector<std::string> isolated_sandbox::environment_of(
  const exec_request& request,
  const std::vector<std::pair<std::string, std::string>>& environment) const {
  auto variables = host_environment_;
  auto user = request.user && !request.user->empty() ? *request.user : "sandbox";
  variables["PATH"] = default_path;
  variables["USER"] = variables["LOGNAME"] = user;
  if (config_.network == network_mode::allow) {
    for (auto name : {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"})
      variables[name] = "http://127.0.0.1:" + std::to_string(proxy_port);
    variables["no_proxy"] = variables["NO_PROXY"] = "localhost,127.0.0.1,::1";
  }
  for (const auto& [name, value] : environment)
    variables[name] = value;
  variables["HOME"] = config_.inside_root;
  for (const auto& [name, value] : request.env)
    variables[name] = value;
  variables["TROUPE_SESSION_ID"] = config_.session_id;
  std::vector<std::string> out;
  for (const auto& [name, value] : variables)
    out.emplace_back(name).append("=").append(value);
  return out;
}

command_id isolated_sandbox::exec(command_spec spec, command_handlers handlers) {
  std::shared_ptr<limit_watch> limits;
  std::shared_ptr<refusal_watch> refusals;
  {
    std::lock_guard guard{mutex_};
    limits = life_.limit_hits;
    refusals = life_.refusals;
  }
  if (refusals) {
    refusals->command_began();
    handlers.on_exit
      = [limits, refusals, done = std::move(handlers.on_exit)](result<command_exit> outcome) {
          if (outcome && outcome->exit_code != 0)
            limits->tell();
          refusals->command_ended();
          if (done)
            done(std::move(outcome));
        };
  }
  return runner_sandbox::exec(std::move(spec), std::move(handlers));
}

command_id isolated_sandbox::open_terminal(command_spec spec, terminal_options options,
                                           terminal_handlers handlers) {
  if (auto refusals = current().refusals) {
    refusals->command_began();
    handlers.on_exit
      = [refusals, done = std::move(handlers.on_exit)](result<command_exit> outcome) {
          refusals->command_ended();
          if (done)
            done(std::move(outcome));
        };
  }
  return runner_sandbox::open_terminal(std::move(spec), options, std::move(handlers));
}

std::shared_ptr<command_runner> isolated_sandbox::runner() const {
  std::lock_guard guard{mutex_};
  return life_.runner;
}

void isolated_sandbox::connect(uint16_t port, std::function<void(result<unique_fd>)> done) {
  if (config_.network == network_mode::host)
    services_.events.post([done = std::move(done)] { done(unique_fd{}); });
  else if (auto link = current().link)
    link->connect(port, std::move(done));
  else
    services_.events.post([done = std::move(done)] {
      done(unexpected{
        make_error(errc::conflict, op::resolve_exposed_port, "the sandbox is not open")});
    });
}

// -- ending --------------------------------------------------------------------------------------

void isolated_sandbox::shutdown(std::function<void()> done) {
  std::shared_ptr<ending> x;
  {
    std::lock_guard guard{mutex_};
    if (life_.runner)
      ending_ = std::exchange(life_, {}).end;
    x = ending_;
  }
  if (x)
    x->begin(std::move(done));
  else
    services_.events.post(std::move(done));
}

result<void> isolated_sandbox::remove() {
  uint32_t base;
  {
    std::lock_guard guard{mutex_};
    base = uid_base_;
    ending_.reset();
  }
  end_all();
  auto below = layers_below(config_.private_dir);
  if (base == 0) // never opened by this process
    base = maker_.take_ids().value_or(0);
  disk_.unmount();
  auto removed = workspace::remove_tree_at(config_.private_dir);
  if (removed && below && config_.layers)
    config_.layers->release(*below);
  if (removed)
    parts_.release_ids(base);
  return removed;
}

session_usage isolated_sandbox::usage() const {
  auto x = current();
  auto out = x.group ? x.group->usage() : session_usage{};
  if (x.limits)
    x.limits->add_usage(out);
  if (config_.limits.disk_bytes)
    out.disk_bytes = disk_.used_bytes();
  return out;
}

std::vector<wall> isolated_sandbox::walls() const {
  return current().walls;
}

life isolated_sandbox::current() const {
  std::lock_guard guard{mutex_};
  return life_;
}

} // namespace troupe::backends
