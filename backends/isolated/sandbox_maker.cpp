#include "backends/isolated/sandbox_maker.hpp"

#include "backends/egress/rules.hpp"
#include "backends/isolated/overlay.hpp"
#include "backends/isolated/uid_range.hpp"
#include "backends/ownership.hpp"
#include "messages/ids.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

namespace troupe::backends::isolated {

namespace {

/// Of files in /proc that tell of the machine, or would change it.
const std::vector<std::string> masked_files{
  "/proc/kcore",      "/proc/keys",        "/proc/key-users",     "/proc/kallsyms",
  "/proc/timer_list", "/proc/sched_debug", "/proc/sysrq-trigger", "/proc/modules"};

/// What also the root of a sandbox may only read: settings, of the sandbox's own namespaces too.
const std::string read_only_settings{mark_of_read_only + std::string{"/proc/sys"}};
/// And where that root is the machine's own.
const std::vector<std::string> read_only_for_root{
  mark_of_read_only + std::string{"/proc/acpi"},   mark_of_read_only + std::string{"/proc/bus"},
  mark_of_read_only + std::string{"/proc/driver"}, mark_of_read_only + std::string{"/proc/fs"},
  mark_of_read_only + std::string{"/proc/irq"},    mark_of_read_only + std::string{"/proc/mtrr"},
  mark_of_read_only + std::string{"/proc/scsi"}};

constexpr const char* life_note = "/life";

error start_failed(const std::string& path, int code) {
  return make_error(errc::workspace_start_error, op::start,
                    "cannot make " + path + ": " + std::strerror(code))
    .with("path", path);
}

/// The kernel needs a moment for the last process.
void remove_patiently(const cgroup& group) {
  for (int i = 0; i < 100 && !group.remove(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds{5});
}

std::string limits_name(const shared_parts& parts, const std::string& name) {
  return "troupe-" + parts.instance + "-" + name;
}

} // namespace

void made_sandbox::end() {
  end_init(init);
  limits.remove();
  if (group)
    remove_patiently(*group);
}

std::string life_name(const std::string& private_dir) {
  std::array<char, 256> text{};
  auto n = ::readlink((private_dir + life_note).c_str(), text.data(), text.size());
  return n > 0 ? std::string{text.data(), static_cast<size_t>(n)} : std::string{};
}

void remove_groups(cgroup_tree& cgroups, const shared_parts& parts, const std::string& name) {
  if (name.empty())
    return;
  if (auto group = cgroups.find(name)) {
    group->kill();
    remove_patiently(*group);
  }
  limit_groups::find(limits_name(parts, name)).remove();
}

limit_groups find_limits(const shared_parts& parts, const std::string& name) {
  return limit_groups::find(limits_name(parts, name));
}

result<uint32_t> sandbox_maker::take_ids() const {
  return parts_.take_ids(config_.private_dir);
}

result<made_sandbox> sandbox_maker::make(uint32_t uid_base, const layered_workspace* layers,
                                         bool every_group) const {
  if (auto ok = give_root_to_its_user(uid_base, layers); !ok)
    return unexpected{std::move(ok.error())};
  auto orders = plan(uid_base, layers);
  if (!orders)
    return unexpected{std::move(orders.error())};
  auto listener = listen();
  if (!listener)
    return unexpected{std::move(listener.error())};
  orders->listener = listener->get();
  made_sandbox out;
  out.uid_base = uid_base;
  auto name = config_.session_id + "-" + random_hex(6);
  if (auto ok = note_life(name); !ok)
    return unexpected{std::move(ok.error())};
  if (cgroups_.available()) {
    auto group = cgroups_.make(name);
    if (!group)
      return unexpected{std::move(group.error())};
    out.group = std::make_shared<cgroup>(std::move(*group));
    orders->cgroup_fd = out.group->directory()->get();
  } else if (!parts_.waived("cgroup") && ::geteuid() == 0) {
    return unexpected{make_error(errc::sandbox_config_invalid, op::start,
                                 "the wall `cgroup` cannot be had: " + cgroups_.reason())
                        .with("wall", "cgroup")
                        .with("cause", cgroups_.reason())};
  }
  auto undo = [&](error why) {
    out.limits.remove();
    if (out.group)
      out.group->remove();
    return unexpected{std::move(why)};
  };
  auto limits
    = limit_groups::make(limits_name(parts_, name), config_.limits, orders->cgroup_fd, every_group);
  if (!limits)
    return undo(std::move(limits.error()));
  out.limits = std::move(*limits);
  auto init = launch_init(*orders);
  if (!init)
    return undo(std::move(init.error()));
  out.init = std::move(*init);
  if (auto ok = out.limits.attach(out.init.pid); !ok) {
    out.end();
    return unexpected{std::move(ok.error())};
  }
  out.alarms = out.limits.alarms(orders->cgroup_fd);
  return out;
}

result<void> sandbox_maker::note_life(const std::string& name) const {
  auto path = config_.private_dir + life_note;
  ::unlink(path.c_str());
  if (::symlink(name.c_str(), path.c_str()) != 0)
    return unexpected{start_failed(path, errno)};
  return {};
}

/// Beside the session's files, where nothing inside can see it.
result<unique_fd> sandbox_maker::listen() const {
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
result<void> sandbox_maker::give_root_to_its_user(uint32_t uid_base,
                                                  const layered_workspace* layers) const {
  const auto owner = uid_base + default_sandbox_user;
  if (layers) {
    if (::fchown(layers->upper->get(), owner, owner) != 0)
      return unexpected{start_failed(config_.private_dir, errno)};
    return {};
  }
  auto root = workspace::open_or_make_directory(config_.workspace_root, 0755);
  if (!root)
    return unexpected{std::move(root.error())};
  struct stat info {};
  if (::fstat(root->get(), &info) != 0)
    return unexpected{start_failed(config_.workspace_root, errno)};
  // Its ids may have been taken away from the server since.
  auto own = ::geteuid();
  if (own != 0 && info.st_uid != own && (uid_base == 0 || info.st_uid != owner))
    return unexpected{make_error(errc::workspace_start_error, op::start,
                                 "the workspace belongs to a user that this server cannot act as")
                        .with("path", config_.workspace_root)
                        .with("uid", int64_t{info.st_uid})};
  if (uid_base == 0 || info.st_uid == owner)
    return {};
  return give_tree(root->get(), {owner, owner, {}});
}

result<launch_plan> sandbox_maker::plan(uint32_t uid_base, const layered_workspace* layers) const {
  const auto& options = parts_.options;
  launch_plan out;
  auto mounts = parts_.templates.mounts(config_.inside_root, config_.private_dir);
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
  if (auto ok = who_.write(config_, out); !ok)
    return unexpected{std::move(ok.error())};
  out.masked = masked_files;
  out.masked.push_back(read_only_settings);
  if (uid_base == 0 && ::geteuid() == 0)
    out.masked.insert(out.masked.end(), read_only_for_root.begin(), read_only_for_root.end());
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
  if (uid_base != 0) {
    out.uid_base = uid_base;
    out.uid_count = ids_per_range;
  }
  return out;
}

result<void> sandbox_maker::plan_network(launch_plan& out) const {
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

} // namespace troupe::backends::isolated
