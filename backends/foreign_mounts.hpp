#pragma once

#include "messages/error.hpp"

#include <string>

namespace troupe::backends {

/// Whether a helper of a session could mount something here by FUSE.
bool can_mount_fuse();

/// (blocks) Detaches what mount helpers attached at or below `folder`, whoever still uses it, also
/// when the helper is gone. Mounts of other kinds are not ours and stay.
result<void> detach_helper_mounts(const std::string& folder);

} // namespace troupe::backends
