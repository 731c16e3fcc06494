#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/isolated/shared_parts.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::backends::isolated {

/// What stands between a sandbox and its host, for the session record. `uid_base`: the first of
/// its ids, or 0. `layers`: what its workspace lies on, or null.
std::vector<wall> describe_walls(const shared_parts& parts, const cgroup_tree& cgroups,
                                 const sandbox_config& config, uint32_t uid_base,
                                 uint32_t landlock_abi, const layered_workspace* layers,
                                 const std::string& why_no_layers);

} // namespace troupe::backends::isolated
