#include "cli/doctor.hpp"

#include "backends/granted_ids.hpp"
#include "backends/runtime.hpp"
#include "workspace/tree.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <map>
#include <string>

namespace troupe::cli {

namespace {

const char* advice(const std::string& wall) {
  static const std::map<std::string, const char*> all{
    {"namespaces", "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, and "
                   "user.max_user_namespaces above 0"},
    {"user_range",
     "run the server as root, with a writable /var/lib/troupe; or grant its user 65536 "
     "ids for each sandbox, and as many more, in /etc/subuid and /etc/subgid, and "
     "configure an `isolated.uid_dir` that it may write to"},
    {"users",
     "run the server as root; or install newuidmap (Debian: package uidmap), and grant its "
     "user 65536 ids in /etc/subuid and /etc/subgid"},
    {"cgroup", "give the server a cgroup v2 of its own to write in (systemd: Delegate=yes)"},
    {"memory", "give the server the memory controller, of cgroup v2 or v1"},
    {"pids", "give the server the pids controller, of cgroup v2 or v1"},
    {"cpu", "give the server the cpu controller, of cgroup v2 or v1"},
    {"landlock", "boot with Landlock among the security modules (lsm=landlock,...)"},
    {"proc", "let the server see an unmasked /proc (containers: systempaths=unconfined)"},
    {"mounts", "let the server mount (containers: no seccomp profile that forbids it)"},
    {"disk", "run the server as root with `isolated.disk`: \"image\", loop devices and mkfs.ext4; "
             "otherwise a workspace takes what its file system has"}};
  auto i = all.find(wall);
  return i == all.end() ? "see the error above" : i->second;
}

/// One sandbox with `limits`, opened and ended again; its walls.
result<std::vector<backends::wall>> try_one(backends::runtime& runtime, const std::string& dir,
                                            const session_limits& limits) {
  backends::sandbox_config config;
  config.session_id = "doctor";
  config.private_dir = dir + "/session";
  config.workspace_root = config.private_dir + "/workspace";
  config.limits = limits;
  auto box = runtime.make_sandbox(backend_kind::isolated, config);
  if (!box)
    return unexpected(std::move(box.error()));
  auto opened = (*box)->open();
  auto walls = (*box)->walls();
  std::promise<void> gone;
  (*box)->shutdown([&] { gone.set_value(); });
  gone.get_future().wait();
  if (auto removed = (*box)->remove(); opened && !removed)
    opened = std::move(removed);
  if (!opened)
    return unexpected(std::move(opened.error()));
  return walls;
}

void say(bool good, const std::string& name, const std::string& note) {
  std::printf("%-4s %-14s %s\n", good ? "ok" : "--", name.c_str(), note.c_str());
  if (!good)
    std::printf("                    %s\n", advice(name));
}

} // namespace

int doctor() {
  std::string dir = "/tmp/troupe-doctor-XXXXXX";
  if (::mkdtemp(dir.data()) == nullptr) {
    std::perror("mkdtemp");
    return 1;
  }
  bool all = true;
  if (::geteuid() != 0)
    (void) backends::enter_granted_ids(dir); // the walls say what came of it
  {
    backends::runtime::options options;
    options.instance = "doctor-" + std::to_string(::getpid());
    options.isolated.dir = dir + "/isolated";
    backends::runtime runtime{options};
    auto bare = try_one(runtime, dir, {});
    if (!bare) {
      std::printf("isolated sandboxes cannot be had: %s\n%s\n", bare.error().message.c_str(),
                  bare.error().context.c_str());
      all = false;
    } else {
      for (const auto& x : *bare)
        if (x.name != "memory" && x.name != "cpu" && x.name != "pids") {
          say(x.enforced, x.name, x.note);
          all = all && (x.enforced || x.name == "disk");
        }
      session_limits memory;
      memory.memory_bytes = int64_t{64} << 20;
      session_limits pids;
      pids.pids = 64;
      session_limits cpu;
      cpu.cpu_millis = 500;
      for (const auto& [name, limits] :
           {std::pair{"memory", memory}, std::pair{"pids", pids}, std::pair{"cpu", cpu}}) {
        auto tried = try_one(runtime, dir, limits);
        say(tried.has_value(), name, tried ? "limits are held" : tried.error().message);
        all = all && tried;
      }
    }
  }
  if (auto gone = workspace::remove_tree_at(dir); !gone)
    std::fprintf(stderr, "%s\n", gone.error().message.c_str());
  return all ? 0 : 1;
}

} // namespace troupe::cli
