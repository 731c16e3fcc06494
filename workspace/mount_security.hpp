#pragma once

#include "messages/error.hpp"
#include "messages/session.hpp"
#include "workspace/mount_kinds.hpp"

#include <string>
#include <vector>

// Whoever holds a credential of a mount can use the storage, and all that is inside a sandbox
// belongs to the model: which mounts may be, and what of them may be stored.

namespace troupe::workspace {

/// Whether rclone takes this as the name of a remote, and nothing else does more with it.
bool is_safe_remote_name(std::string_view name);

/// The fields that give access to the storage, by name: `access_key_id`,
/// `mount_strategy.pattern.extra_args`.
std::vector<std::string> mount_authority(const mount_entry& x);

/// Takes out of all mounts what gives access to their storage, and the content of files that do.
/// Whether a resume needs any of that again.
bool redact_mounts(manifest& x);

/// What a session can do with mounts.
struct mount_support {
  backend_kind backend = backend_kind::unix_local;
  bool runs_rclone = false; ///< attaches `in_container` mounts of that pattern
  std::string search_path;  ///< of its commands: directories with `:` between them
};

/// Whether a session with this backend may have these mounts, at any time of its life, of a
/// manifest that `check_manifest` let through. `mount_config_invalid`; the context names fields,
/// never what is in them.
result<void> check_mounts(const manifest& x, backend_kind backend);

/// Whether they can be attached, too: to be asked before anything is made.
/// `mount_missing_tool`, `mount_config_invalid`.
result<void> check_mounts_supported(const manifest& x, const mount_support& support);

} // namespace troupe::workspace
