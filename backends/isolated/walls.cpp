#include "backends/isolated/walls.hpp"

#include "backends/granted_ids.hpp"

#include <utility>

namespace troupe::backends::isolated {

namespace {

void add_users(const shared_parts& parts, uint32_t uid_base, std::vector<wall>& out) {
  if (uid_base == 0) {
    auto why = parts.waived("user_range")
                 ? "waived by the operator: commands run as the server's user"
                 : "the server is no root: commands run as its user";
    auto none = why_no_granted_ids().empty() ? "" : "; " + why_no_granted_ids();
    out.push_back({"user_range", false, why + none});
    out.push_back({"users", false, "whatever its users are called, they are one: the server's"});
    return;
  }
  auto shared = parts.is_shared(uid_base);
  out.push_back({"user_range", !shared,
                 shared ? "65536 user ids, which other sandboxes of the server's user have as well"
                        : "65536 user ids of its own"});
  out.push_back({"users", true, "its users are kept apart, and none is the server's"});
}

} // namespace

std::vector<wall> describe_walls(const shared_parts& parts, const cgroup_tree& cgroups,
                                 const sandbox_config& config, uint32_t uid_base,
                                 uint32_t landlock_abi, const layered_workspace* layers,
                                 const std::string& why_no_layers) {
  auto unified = cgroups.available();
  const auto& x = config.limits;
  std::vector<wall> out;
  auto add = [&](const char* name, bool enforced, std::string note) {
    out.push_back({name, enforced, std::move(note)});
  };
  add("namespaces", true, "user, mount, pid, net, ipc, uts and cgroup of its own");
  add_users(parts, uid_base, out);
  add("mounts", true, "a read-only root, nothing setuid, no devices but the harmless ones");
  add("proc", true,
      "only its own processes, files that tell of the machine masked, settings read-only, no /sys");
  add("capabilities", true, "none, and none to be had by exec");
  auto seccomp = !parts.waived("seccomp");
  add("seccomp", seccomp, seccomp ? "a list of what is allowed" : "waived by the operator");
  auto landlock = !parts.waived("landlock");
  add("landlock", landlock,
      landlock ? "version " + std::to_string(landlock_abi) + ": files, beside the mounts"
               : "waived by the operator");
  auto scoped = landlock && landlock_abi >= 6;
  auto why
    = landlock ? "Landlock of this kernel has no scopes (version 6)" : "waived by the operator";
  add("landlock_sockets", scoped, scoped ? "no abstract socket of anyone outside" : why);
  add("landlock_signals", scoped, scoped ? "no signal to anyone outside" : why);
  add("landlock_tcp", false,
      "not used: its rules are of ports, which cannot tell the sandbox's own loopback from "
      "elsewhere; the network namespace is this wall");
  std::string reach = "none but its own loopback";
  if (config.network == network_mode::host)
    reach = "the server's own network, as the operator allows";
  for (const auto& entry : config.network_allow)
    (reach += &entry == &config.network_allow.front() ? ", and through a proxy " : ", ") += entry;
  add("network", config.network != network_mode::host, std::move(reach));
  add("cgroup", unified, unified ? "killed whole" : cgroups.reason());
  add("memory", x.memory_bytes.has_value(),
      x.memory_bytes ? std::to_string(*x.memory_bytes) + " bytes, no swap" : "no limit asked for");
  add("pids", true,
      std::to_string(x.pids.value_or(parts.options.default_pids))
        + (x.pids ? " together" : " of each user"));
  add("cpu", x.cpu_millis.has_value(),
      x.cpu_millis ? std::to_string(*x.cpu_millis) + " thousandths of a processor"
                   : "no limit asked for");
  // A workspace that was never restored has none, and lacks nothing.
  if (layers != nullptr)
    add("layers", true,
        "the workspace lies on " + std::to_string(layers->below.folders.size())
          + " read-only layers; what it changes is a tree of its own");
  else if (config.layers && !why_no_layers.empty())
    add("layers", false, "workspaces are restored by copying: " + why_no_layers);
  add("disk", x.disk_bytes.has_value(),
      x.disk_bytes ? std::to_string(*x.disk_bytes) + " bytes, a file system of its own"
                   : "no limit asked for; /tmp and /dev/shm have limits of their own");
  return out;
}

} // namespace troupe::backends::isolated
