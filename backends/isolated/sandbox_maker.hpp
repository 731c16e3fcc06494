#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/isolated/accounts.hpp"
#include "backends/isolated/launch.hpp"
#include "backends/isolated/limit_groups.hpp"
#include "backends/isolated/shared_parts.hpp"
#include "messages/error.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe::backends::isolated {

/// Of the loopback inside, where the server's proxy listens.
constexpr uint16_t proxy_port = 3128;

/// A sandbox that runs, and nobody speaks to yet.
struct made_sandbox {
  launched_init init;
  std::shared_ptr<cgroup> group; ///< null: this machine has none
  limit_groups limits;
  std::vector<limit_groups::alarm> alarms; ///< of the two
  uint32_t uid_base = 0;                   ///< 0: none of its own

  /// (blocks) Ends it, and removes its groups.
  void end();
};

/// The name of the groups of what lives, or lived, in this private directory; empty: nothing did.
std::string life_name(const std::string& private_dir);

/// (blocks) Ends what is in the groups of a life that an earlier server began, and removes them.
void remove_groups(cgroup_tree& cgroups, const shared_parts& parts, const std::string& name);

/// Those that count and limit such a life.
limit_groups find_limits(const shared_parts& parts, const std::string& name);

/// Makes the sandbox of one configuration, from its private directory on.
class sandbox_maker {
public:
  /// All outlive it.
  sandbox_maker(cgroup_tree& cgroups, shared_parts& parts, const sandbox_config& config,
                const accounts& who)
    : cgroups_(cgroups), parts_(parts), config_(config), who_(who) {}

  /// (blocks) The first of the ids that are this private directory's; 0: those of this server.
  result<uint32_t> take_ids() const;

  /// (blocks, some milliseconds) Starts an init on what is in the private directory. `layers`: what
  /// the workspace lies on, or null. `every_group`: also those that no limit asks for, to be set
  /// later. An error names the wall that cannot be had.
  result<made_sandbox> make(uint32_t uid_base, const layered_workspace* layers,
                            bool every_group = false) const;

private:
  result<unique_fd> listen() const;
  result<void> give_root_to_its_user(uint32_t uid_base, const layered_workspace* layers) const;
  result<launch_plan> plan(uint32_t uid_base, const layered_workspace* layers) const;
  result<void> plan_network(launch_plan& out) const;
  result<void> note_life(const std::string& name) const;

  cgroup_tree& cgroups_;
  shared_parts& parts_;
  const sandbox_config& config_;
  const accounts& who_;
};

} // namespace troupe::backends::isolated
