#include "backends/isolated/isolated.hpp"

#include "backends/isolated/overlay.hpp"
#include "backends/isolated/seccomp.hpp"
#include "backends/isolated/uid_range.hpp"
#include "backends/ownership.hpp"
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

constexpr uint32_t default_id = default_sandbox_user;
constexpr uint32_t first_account = 2000;
constexpr size_t max_accounts = 1000;
/// Of the loopback inside.
constexpr uint16_t proxy_port = 3128;

/// Of files in /proc that tell of the machine, or would change it.
const std::vector<std::string> masked_files{
  "/proc/kcore",      "/proc/keys",        "/proc/key-users",     "/proc/kallsyms",
  "/proc/timer_list", "/proc/sched_debug", "/proc/sysrq-trigger", "/proc/modules"};

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

bool is_account_name(const std::string& name) {
  return !name.empty() && name.size() <= 32
         && std::all_of(name.begin(), name.end(), [](unsigned char c) {
              return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
            });
}

void wait_for(int pidfd) {
  pollfd p{pidfd, POLLIN, 0};
  while (::poll(&p, 1, -1) < 0 && errno == EINTR) {
  }
  siginfo_t info{};
  ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG);
}

/// Beside the session's files: the name of its groups, for a later server.
constexpr const char* life_note = "life";

std::string read_note(int dir) {
  std::array<char, 256> text{};
  auto n = ::readlinkat(dir, life_note, text.data(), text.size());
  return n > 0 ? std::string{text.data(), static_cast<size_t>(n)} : std::string{};
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

result<std::string> shared_parts::filter() {
  std::lock_guard guard{mutex_};
  if (filter_.empty()) {
    auto made = build_seccomp_filter();
    if (!made)
      return made;
    filter_ = std::move(*made);
  }
  return filter_;
}

bool shared_parts::waived(const std::string& name) const {
  return std::find(options.waive.begin(), options.waive.end(), name) != options.waive.end();
}

std::string shared_parts::why_no_layers() const {
  if (waived("layers"))
    return "waived by the operator";
  std::lock_guard guard{mutex_};
  return why_no_layers_;
}

void shared_parts::no_layers(const std::string& why) {
  std::lock_guard guard{mutex_};
  why_no_layers_ = why;
}

egress::service& shared_parts::egress() {
  std::lock_guard guard{mutex_};
  if (!egress_) {
    egress::service::options x;
    for (const auto& text : options.egress_ranges)
      if (auto range = egress::parse_range(text))
        x.allowed.push_back(*range);
    x.limits.connections = static_cast<size_t>(options.egress_connections);
    x.limits.idle_time = std::chrono::seconds{options.egress_idle_seconds};
    egress_ = std::make_unique<egress::service>(std::move(x));
  }
  return *egress_;
}

/// Tells of limits that a sandbox met. Reactor thread.
struct isolated_sandbox::limit_watch {
  limit_watch(std::shared_ptr<limit_groups> v1, std::shared_ptr<cgroup> v2)
    : groups(std::move(v1)), unified(std::move(v2)), told_hits(now()) {}

  limit_groups::hits now() const {
    return groups->hits_so_far(unified ? unified->directory()->get() : -1);
  }

  /// Some limit may be why a command failed: the kernel keeps count.
  void tell(const std::function<void(sandbox_notice)>& told) {
    auto all = now();
    auto one = [&](const char* limit, int64_t count) {
      if (count <= 0)
        return;
      sandbox_notice notice;
      notice.data = std::string{R"({"what":"limit","limit":")"} + limit + R"(","count":)"
                    + std::to_string(count) + "}";
      notice.failure = make_error(errc::quota_exceeded, op::sandbox,
                                  std::string{"the sandbox met its limit: "} + limit);
      told(std::move(notice));
    };
    one("memory", all.memory - told_hits.memory);
    one("pids", all.pids - told_hits.pids);
    told_hits = all;
  }

  const std::shared_ptr<limit_groups> groups;
  const std::shared_ptr<cgroup> unified;
  limit_groups::hits told_hits;
};

/// How a life ends: by `shutdown`, or because its init died. It may outlast the sandbox.
struct isolated_sandbox::ending : std::enable_shared_from_this<ending> {
  ending(runner_services s, life x) : services(s), what(std::move(x)) {}

  /// Kills what is there; `done` runs on the reactor thread when all of it is gone, also when it
  /// was gone already. True for the first to ask.
  bool begin(std::function<void()> done, bool lost = false) {
    bool first;
    {
      std::lock_guard guard{mutex};
      if (over)
        services.events.post(std::move(done));
      else
        waiting.push_back(std::move(done));
      first = !std::exchange(begun, true);
    }
    if (!first)
      return false;
    if (what.proxy)
      what.proxy->stop();
    // Those of a lost one have got their error, and whoever comes late gets the same.
    commands_gone = lost;
    if (!lost)
      what.runner->stop([self = shared_from_this()] {
        self->commands_gone = true;
        self->proceed();
      });
    // After `stop` has marked them as cancelled, or they would look like commands that were lost.
    services.events.post([self = shared_from_this()] {
      self->await_init();
      ::syscall(SYS_pidfd_send_signal, self->what.init->get(), SIGKILL, nullptr, 0);
    });
    return true;
  }

  /// Reactor thread. Init's end of the socket is closed. Unless we made it so, that is news.
  void init_died(const std::function<void(sandbox_notice)>& told) {
    if (begun_already())
      return;
    auto tell = [self = shared_from_this(), told] {
      if (told)
        told(self->obituary());
    };
    begin(tell, true);
  }

private:
  bool begun_already() {
    std::lock_guard guard{mutex};
    return begun;
  }

  /// With its last process, the kernel reports init.
  void await_init() {
    watch = services.events.watch(what.init->get(), EPOLLIN, [self = shared_from_this()](uint32_t) {
      self->services.events.unwatch(self->watch);
      siginfo_t info{};
      if (::waitid(P_PIDFD, static_cast<id_t>(self->what.init->get()), &info, WEXITED | WNOHANG)
            == 0
          && info.si_code == CLD_KILLED)
        self->signal = info.si_status;
      self->init_gone = true;
      self->proceed();
    });
  }

  void proceed() {
    if (!init_gone || !commands_gone)
      return;
    out_of_memory = what.limit_hits->now().memory > 0;
    what.limits->remove();
    if (what.group)
      destroy(services.events, what.group, [self = shared_from_this()] { self->finish(); });
    else
      finish();
  }

  void finish() {
    what.runner->close_leftover_pipes();
    what = {};
    std::vector<std::function<void()>> all;
    {
      std::lock_guard guard{mutex};
      over = true;
      all.swap(waiting);
    }
    for (auto& done : all)
      done();
  }

  sandbox_notice obituary() const {
    auto how = signal > 0 ? "its init was killed by signal " + std::to_string(signal)
                          : std::string{"its init ended"};
    if (out_of_memory)
      how += "; the sandbox had run out of memory";
    sandbox_notice out;
    out.lost = true;
    out.data = "{\"what\":\"lost\",\"signal\":" + (signal > 0 ? std::to_string(signal) : "null")
               + ",\"out_of_memory\":" + (out_of_memory ? "true" : "false") + "}";
    out.failure = make_error(errc::backend_lost, op::sandbox, "the sandbox is lost: " + how);
    return out;
  }

  const runner_services services;
  life what;

  // -- reactor thread only
  reactor::watch_id watch = 0;
  bool init_gone = false;
  bool commands_gone = false;
  bool out_of_memory = false;
  int signal = 0;

  std::mutex mutex;
  std::vector<std::function<void()>> waiting; ///< guarded
  bool begun = false;                         ///< guarded
  bool over = false;                          ///< guarded
};

isolated_sandbox::isolated_sandbox(runner_services services, cgroup_tree& cgroups,
                                   shared_parts& parts, sandbox_config config)
  : runner_sandbox(services), cgroups_(cgroups), parts_(parts), config_(std::move(config)),
    host_environment_(allowed_environment(config_.env_allowlist)),
    disk_(config_.private_dir, parts_.options.dir),
    mapped_(::geteuid() == 0 && !parts.waived("user_range")) {
  // With a single id there is but one user, whatever it is called.
  auto id = [this](uint32_t x) { return mapped_ ? x : 0; };
  accounts_["root"] = {0, 0, {}};
  accounts_["sandbox"] = {id(default_id), id(default_id), {}};
  auto next = first_account;
  auto add = [&](const std::string& name) {
    if (accounts_.emplace(name, user_ids{id(next), id(next), {}}).second) {
      if (mapped_)
        accounts_[name].groups = {default_id};
      ++next;
    }
  };
  for (const auto& x : config_.users)
    add(x.name);
  for (const auto& g : config_.groups)
    for (const auto& x : g.users)
      add(x.name);
}

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

result<isolated_sandbox::life> isolated_sandbox::start() {
  auto private_dir = workspace::open_or_make_directory(config_.private_dir, 0700);
  if (!private_dir)
    return unexpected{std::move(private_dir.error())};
  if (::fchmod(private_dir->get(), 0700) != 0)
    return unexpected{start_failed(config_.private_dir, errno)};
  if (mapped_) {
    auto base
      = take_uid_range(parts_.options.uid_dir, parts_.options.uid_base, config_.private_dir);
    if (!base)
      return unexpected{std::move(base.error())};
    std::lock_guard guard{mutex_};
    uid_base_ = *base;
  }
  // One that died while it held everything cannot let go.
  if (auto group = cgroups_.find(read_note(private_dir->get())))
    group->freeze(false);
  if (auto ok = open_disk(); !ok)
    return unexpected{std::move(ok.error())};
  auto earlier = adopt_init(private_dir->get());
  if (!earlier)
    return unexpected{std::move(earlier.error())};
  auto layers = find_layers();
  if (!layers)
    return unexpected{std::move(layers.error())};
  if (*earlier)
    return take_over(std::move(**earlier), std::move(*layers));
  remove_groups(read_note(private_dir->get()));
  if (*layers)
    if (auto ok = prepare_overlay(config_.private_dir); !ok)
      return unexpected{std::move(ok.error())};
  if (auto ok = give_root_to_its_user(layers->get()); !ok)
    return unexpected{std::move(ok.error())};
  auto orders = plan(layers->get());
  if (!orders)
    return unexpected{std::move(orders.error())};
  auto listener = listen();
  if (!listener)
    return unexpected{std::move(listener.error())};
  orders->listener = listener->get();

  std::shared_ptr<cgroup> own_group;
  auto name = config_.session_id + "-" + random_hex(6);
  ::unlinkat(private_dir->get(), life_note, 0);
  if (::symlinkat(name.c_str(), private_dir->get(), life_note) != 0)
    return unexpected{start_failed(config_.private_dir + "/" + life_note, errno)};
  if (cgroups_.available()) {
    auto group = cgroups_.make(name);
    if (!group)
      return unexpected{std::move(group.error())};
    own_group = std::make_shared<cgroup>(std::move(*group));
    orders->cgroup_fd = own_group->directory()->get();
  } else if (!parts_.waived("cgroup") && ::geteuid() == 0) {
    return unexpected{make_error(errc::sandbox_config_invalid, op::start,
                                 "the wall `cgroup` cannot be had: " + cgroups_.reason())
                        .with("wall", "cgroup")
                        .with("cause", cgroups_.reason())};
  }
  auto limits = limit_groups::make(limits_name(name), config_.limits, orders->cgroup_fd);
  auto undo = [&](error why) {
    if (limits)
      limits->remove();
    if (own_group)
      own_group->remove();
    return unexpected{std::move(why)};
  };
  if (!limits)
    return undo(std::move(limits.error()));
  auto init = launch_init(*orders);
  if (!init)
    return undo(std::move(init.error()));
  if (auto ok = limits->attach(init->pid); !ok) {
    ::syscall(SYS_pidfd_send_signal, init->pidfd.get(), SIGKILL, nullptr, 0);
    wait_for(init->pidfd.get());
    return undo(std::move(ok.error()));
  }
  return assemble(std::move(*init), std::move(own_group), std::move(*limits), std::move(*layers));
}

isolated_sandbox::life
isolated_sandbox::take_over(launched_init init, std::shared_ptr<const layered_workspace> layers) {
  unique_fd dir{::open(config_.private_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  auto name = read_note(dir.get());
  std::shared_ptr<cgroup> group;
  if (auto found = cgroups_.find(name))
    group = std::make_shared<cgroup>(std::move(*found));
  if (told_) {
    sandbox_notice x;
    x.data = R"({"what":"adopted"})";
    told_(std::move(x));
  }
  return assemble(std::move(init), std::move(group), limit_groups::find(limits_name(name)),
                  std::move(layers));
}

isolated_sandbox::life isolated_sandbox::assemble(launched_init init, std::shared_ptr<cgroup> group,
                                                  limit_groups limits,
                                                  std::shared_ptr<const layered_workspace> layers) {
  life out;
  out.walls = describe(init, layers.get());
  out.layers = std::move(layers);
  out.init = std::make_shared<unique_fd>(std::move(init.pidfd));
  out.group = std::move(group);
  out.root = std::make_shared<const unique_fd>(std::move(init.root));
  out.limits = std::make_shared<limit_groups>(std::move(limits));
  out.limit_hits = std::make_shared<limit_watch>(out.limits, out.group);
  uint32_t base;
  {
    std::lock_guard guard{mutex_};
    base = uid_base_;
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
  if (init.proxy)
    out.proxy = start_proxy(std::move(init.proxy));
  out.runner = std::make_shared<command_runner>(services_, config_.session_id, out.link);
  out.end = std::make_shared<ending>(services_, out);
  out.link->open([end = out.end, told = told_] { end->init_died(told); });
  return out;
}

std::string isolated_sandbox::limits_name(const std::string& name) const {
  return "troupe-" + parts_.instance + "-" + name;
}

void isolated_sandbox::remove_groups(const std::string& name) {
  if (name.empty())
    return;
  if (auto group = cgroups_.find(name)) {
    group->kill();
    for (int i = 0; i < 100 && !group->remove(); ++i) // the kernel needs a moment for the last one
      std::this_thread::sleep_for(std::chrono::milliseconds{5});
  }
  limit_groups::find(limits_name(name)).remove();
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

/// Beside the session's files, where nothing inside can see it.
result<unique_fd> isolated_sandbox::listen() const {
  unique_fd dir{::open(config_.private_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  unique_fd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  if (!dir || !socket)
    return unexpected{start_failed(config_.private_dir + "/control", errno)};
  ::unlinkat(dir.get(), "control", 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // The whole path may be too long for an address.
  std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/control", dir.get());
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0
      || ::listen(socket.get(), 4) != 0)
    return unexpected{start_failed(config_.private_dir + "/control", errno)};
  return socket;
}

/// A root that is new, or was restored by the server, becomes its user's with all in it. Nothing
/// inside runs meanwhile.
result<void> isolated_sandbox::give_root_to_its_user(const layered_workspace* layers) const {
  uint32_t owner;
  {
    std::lock_guard guard{mutex_};
    owner = uid_base_ + default_id;
  }
  if (layers) {
    if (::fchown(layers->upper->get(), owner, owner) != 0)
      return unexpected{start_failed(config_.private_dir, errno)};
    return {};
  }
  auto root = workspace::open_or_make_directory(config_.workspace_root, 0755);
  if (!root)
    return unexpected{std::move(root.error())};
  if (!mapped_)
    return {};
  struct stat info {};
  if (::fstat(root->get(), &info) == 0 && info.st_uid == owner)
    return {};
  return give_tree(root->get(), {owner, owner, {}});
}

result<launch_plan> isolated_sandbox::plan(const layered_workspace* layers) const {
  const auto& options = parts_.options;
  launch_plan out;
  auto mounts = parts_.templates.mounts(config_.inside_root);
  if (!mounts)
    return unexpected{std::move(mounts.error())};
  out.mounts = std::move(*mounts);
  out.workspace = config_.inside_root;
  out.mounts.push_back({layers ? mount_kind::sent : mount_kind::handed, mount_landlock_write,
                        config_.workspace_root, config_.inside_root.substr(1), 0, 0});
  if (layers) {
    auto dir = config_.private_dir + '/' + overlay_dir;
    out.overlay = overlay_plan{layers->below.folders, dir + "/upper", dir + "/work"};
  }
  out.mounts.push_back({mount_kind::proc, mount_no_exec | mount_landlock_write, "", "proc", 0, 0});
  out.mounts.push_back({mount_kind::devpts,
                        mount_no_exec | mount_with_devices | mount_landlock_write, "", "dev/pts", 0,
                        0});
  for (auto [target, flags] : {std::pair{"tmp", 0U}, std::pair{"dev/shm", 0U + mount_no_exec}})
    out.mounts.push_back({mount_kind::tmpfs, flags | mount_landlock_write, "", target,
                          static_cast<uint64_t>(options.tmp_bytes),
                          static_cast<uint64_t>(options.tmp_inodes)});
  if (auto ok = write_accounts(out); !ok)
    return unexpected{std::move(ok.error())};
  out.masked = masked_files;
  out.landlock = !parts_.waived("landlock");
  if (!parts_.waived("seccomp")) {
    auto filter = parts_.filter();
    if (!filter)
      return unexpected{std::move(filter.error())};
    out.seccomp_filter = std::move(*filter);
  }
  if (auto ok = plan_network(out); !ok)
    return unexpected{std::move(ok.error())};
  out.grace_seconds = options.grace_seconds;
  out.open_files
    = static_cast<uint64_t>(config_.limits.open_files.value_or(options.default_open_files));
  // A limit that was asked for is the control group's, which counts what it refuses.
  out.processes = config_.limits.pids ? 0 : static_cast<uint64_t>(options.default_pids);
  if (mapped_) {
    std::lock_guard guard{mutex_};
    out.uid_base = uid_base_;
    out.uid_count = ids_per_range;
  }
  return out;
}

result<void> isolated_sandbox::plan_network(launch_plan& out) const {
  out.own_network = config_.network != network_mode::host;
  if (!out.own_network && !parts_.options.allow_host_network)
    return unexpected{
      make_error(errc::sandbox_config_invalid, op::start,
                 "the wall `network` cannot be had: the operator does not allow the server's own")
        .with("wall", "network")
        .with("cause", "the operator does not allow the server's own network")};
  if (config_.network != network_mode::allow)
    return {};
  out.proxy_port = proxy_port;
  auto rules = egress::parse_rules(config_.network_allow, parts_.options.egress_names);
  return rules ? result<void>{} : unexpected{std::move(rules.error())};
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

/// The manifest's users and groups, over the template's files.
result<void> isolated_sandbox::write_accounts(launch_plan& out) const {
  if (config_.users.empty() && config_.groups.empty())
    return {};
  auto refuse = [](const std::string& name) {
    return unexpected{make_error(errc::sandbox_config_invalid, op::start,
                                 "`" + name + "` cannot be the name of a user or a group")
                        .with("name", name)};
  };
  if (accounts_.size() + config_.groups.size() > max_accounts)
    return refuse("too many");
  std::string passwd = "root:x:0:0:root:/root:/bin/sh\n";
  std::string group = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
  std::string members;
  for (const auto& [name, ids] : accounts_) {
    if (!is_account_name(name))
      return refuse(name);
    if (name == "root")
      continue;
    auto id = std::to_string(ids.uid);
    passwd += name + ":x:" + id + ":" + std::to_string(ids.gid) + "::" + config_.inside_root
              + ":/bin/sh\n";
    group += name + ":x:" + std::to_string(ids.gid) + ":";
    if (name == "sandbox")
      for (const auto& [member, other] : accounts_)
        if (other.uid >= first_account)
          (group += group.back() == ':' ? "" : ",") += member;
    group += '\n';
  }
  passwd += "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
  auto gid = first_account + static_cast<uint32_t>(max_accounts);
  for (const auto& x : config_.groups) {
    if (!is_account_name(x.name))
      return refuse(x.name);
    if (accounts_.count(x.name) > 0)
      continue;
    group += x.name + ":x:" + std::to_string(gid++) + ":";
    for (const auto& member : x.users)
      (group += group.back() == ':' ? "" : ",") += member.name;
    group += '\n';
  }
  for (const auto& [name, text] : {std::pair{"passwd", &passwd}, std::pair{"group", &group}}) {
    auto path = config_.private_dir + "/" + name;
    unique_fd fd{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (!fd || ::fchmod(fd.get(), 0644) != 0
        || workspace::write_all(fd.get(), text->data(), text->size()) < 0)
      return unexpected{start_failed(path, errno)};
    out.mounts.push_back(
      {mount_kind::handed, mount_read_only, path, std::string{"etc/"} + name, 0, 0});
  }
  return {};
}

std::vector<wall> isolated_sandbox::describe(const launched_init& init,
                                             const layered_workspace* layers) const {
  auto unified = cgroups_.available();
  const auto& x = config_.limits;
  std::vector<wall> out;
  auto add = [&](const char* name, bool enforced, std::string note) {
    out.push_back({name, enforced, std::move(note)});
  };
  add("namespaces", true, "user, mount, pid, net, ipc, uts and cgroup of its own");
  add("user_range", mapped_,
      mapped_            ? "65536 user ids of its own"
      : ::geteuid() == 0 ? "waived by the operator: commands run as the server's user"
                         : "the server is no root: commands run as its user");
  add("mounts", true, "a read-only root, nothing setuid, no devices but the harmless ones");
  add("proc", true, "only its own processes, files that tell of the machine masked, no /sys");
  add("capabilities", true, "none, and none to be had by exec");
  auto seccomp = !parts_.waived("seccomp");
  add("seccomp", seccomp, seccomp ? "a list of what is allowed" : "waived by the operator");
  auto landlock = !parts_.waived("landlock");
  add("landlock", landlock,
      landlock ? "version " + std::to_string(init.landlock_abi)
                   + (init.landlock_abi >= 6 ? ": files, abstract sockets, signals" : ": files")
               : "waived by the operator");
  std::string reach = "none but its own loopback";
  if (config_.network == network_mode::host)
    reach = "the server's own network, as the operator allows";
  for (const auto& entry : config_.network_allow)
    (reach += &entry == &config_.network_allow.front() ? ", and through a proxy " : ", ") += entry;
  add("network", config_.network != network_mode::host, std::move(reach));
  add("cgroup", unified, unified ? "killed whole" : cgroups_.reason());
  add("memory", x.memory_bytes.has_value(),
      x.memory_bytes ? std::to_string(*x.memory_bytes) + " bytes, no swap" : "no limit asked for");
  add("pids", true,
      std::to_string(x.pids.value_or(parts_.options.default_pids))
        + (x.pids ? " together" : " of each user"));
  add("cpu", x.cpu_millis.has_value(),
      x.cpu_millis ? std::to_string(*x.cpu_millis) + " thousandths of a processor"
                   : "no limit asked for");
  // A workspace that was never restored has none, and lacks nothing.
  if (layers != nullptr)
    add("layers", true,
        "the workspace lies on " + std::to_string(layers->below.folders.size())
          + " read-only layers; what it changes is a tree of its own");
  else if (auto why = why_no_layers(); config_.layers && !why.empty())
    add("layers", false, "workspaces are restored by copying: " + why);
  add("disk", x.disk_bytes.has_value(),
      x.disk_bytes ? std::to_string(*x.disk_bytes) + " bytes, a file system of its own"
                   : "no limit asked for; /tmp and /dev/shm have limits of their own");
  return out;
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
  auto name = read_note(dir.get());
  if (auto group = cgroups_.find(name))
    group->freeze(false);
  if (auto earlier = adopt_init(dir.get()); earlier && *earlier) {
    ::syscall(SYS_pidfd_send_signal, (*earlier)->pidfd.get(), SIGKILL, nullptr, 0);
    wait_for((*earlier)->pidfd.get());
  }
  remove_groups(name);
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
  if (!mapped_)
    return ::geteuid() == 0 ? "it has no user ids of its own" : "the server is no root";
  return parts_.why_no_layers();
}

std::shared_ptr<const layered_workspace> isolated_sandbox::layers() const {
  return current().layers;
}

result<std::shared_ptr<const layered_workspace>> isolated_sandbox::find_layers() const {
  auto held = layers_below(config_.private_dir);
  if (!held)
    return nullptr;
  if (!config_.layers || !mapped_)
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
  if (!group)
    return nullptr;
  if (!group->freeze(true)) {
    group->freeze(false);
    return nullptr;
  }
  // The object that is pointed to does not matter, its end does.
  return {group.get(), [group](const void*) { group->freeze(false); }};
}

shared_fd isolated_sandbox::root() const {
  return current().root;
}

// -- commands ------------------------------------------------------------------------------------

result<user_ids> isolated_sandbox::ids_of(const std::optional<std::string>& user) const {
  auto i = accounts_.find(user && !user->empty() ? *user : "sandbox");
  if (i == accounts_.end())
    return unexpected{make_error(errc::sandbox_config_invalid, op::exec,
                                 "there is no user `" + *user + "` in this session")
                        .with("user", *user)};
  return i->second;
}

result<std::optional<user_ids>>
isolated_sandbox::file_identity(const std::optional<std::string>& user) const {
  auto ids = ids_of(user);
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
  auto ids = ids_of(request.user);
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
  {
    std::lock_guard guard{mutex_};
    limits = life_.limit_hits;
  }
  if (limits && told_)
    handlers.on_exit
      = [limits, told = told_, done = std::move(handlers.on_exit)](result<command_exit> outcome) {
          if (outcome && outcome->exit_code != 0)
            limits->tell(told);
          if (done)
            done(std::move(outcome));
        };
  return runner_sandbox::exec(std::move(spec), std::move(handlers));
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
  if (mapped_ && base == 0) { // never opened by this process
    auto known
      = take_uid_range(parts_.options.uid_dir, parts_.options.uid_base, config_.private_dir);
    base = known.value_or(0);
  }
  disk_.unmount();
  auto removed = workspace::remove_tree_at(config_.private_dir);
  if (removed && below && config_.layers)
    config_.layers->release(*below);
  if (removed && base != 0)
    release_uid_range(parts_.options.uid_dir, parts_.options.uid_base, base);
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

isolated_sandbox::life isolated_sandbox::current() const {
  std::lock_guard guard{mutex_};
  return life_;
}

} // namespace troupe::backends
