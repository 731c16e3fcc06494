#pragma once

#include "backends/cgroups.hpp"

#include <memory>

namespace troupe::backends::isolated {

/// (blocks, about a millisecond more than the kernel needs) Stops everything in the group, init
/// too, until what it gives is gone. Should this process die first, a small one of its own lets the
/// group go on: init cannot, and a command that is stopped between clone and exec would stop it
/// anyhow. Null: it cannot be stopped, or nobody could be found to watch over it.
std::shared_ptr<const void> freeze_guarded(std::shared_ptr<const cgroup> group);

} // namespace troupe::backends::isolated
