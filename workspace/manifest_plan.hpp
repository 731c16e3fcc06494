#pragma once

#include "messages/error.hpp"
#include "messages/manifest.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace troupe::workspace {

/// How many directories may nest; what reads a manifest recurses.
inline constexpr size_t max_entry_depth = 200;

/// One entry to apply, with where it goes.
struct planned_entry {
  std::string destination;              ///< relative to the workspace root, normal
  const troupe::entry* entry = nullptr; ///< into the manifest
};

/// Steps run one after the other; the entries of one step touch disjoint subtrees and may run at
/// once.
using plan_step = std::vector<planned_entry>;

/// Checks every path of a manifest (all nesting levels), the root, permission digits, users, grants
/// and where mounts go; who may use them is `check_mounts`. Nothing may be done with a manifest
/// before this said yes. `allow_accounts`: whether the backend makes users and groups.
///
/// `invalid_manifest_path` with reason `absolute`, `escape_root`, `nul`, `newline` or `too_long`;
/// `sandbox_config_invalid` for the root, grants and what the backend does not do;
/// `invalid_manifest` with `details` for the rest.
result<void> check_manifest(const manifest& x, bool allow_accounts);

/// The ordered plan of the top level. `only_ephemeral`: what a resume has to put back, at any
/// depth.
std::vector<plan_step> plan_manifest(const manifest& x, bool only_ephemeral);

/// The ordered plan of the children of a directory that is at `destination`.
std::vector<plan_step> plan_children(const entry& x, const std::string& destination);

/// Paths of ephemeral entries at any depth, relative to the root, sorted: left out of snapshots.
/// Never the root itself, whose entry only sets its mode. A mount counts, with the path of its
/// entry and the one that it goes to.
std::vector<std::string> ephemeral_paths(const manifest& x);

/// The manifest as a tree of names (`contract: describe`). `depth` nullopt: all of it; below 1:
/// `invalid_request`. Checks entry paths as `check_manifest` does.
result<std::string> describe(const manifest& x, std::optional<int> depth);

} // namespace troupe::workspace
