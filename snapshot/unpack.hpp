#pragma once

#include "messages/error.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/job.hpp"
#include "snapshot/member_rules.hpp"
#include "snapshot/tree_index.hpp"
#include "snapshot/tree_writer.hpp"

#include <string>

namespace troupe::snapshot {

/// Writes every member of the tar that `input` gives through `out` and comes to the verified end of
/// both. `root` is what errors name. `index`, unless null, gets what was written.
///
/// Errors: `damaged(...)` for a stream that cannot be trusted, `workspace_archive_write_error` with
/// `member` and `reason` for a member that may not be or cannot be written, `no_space`,
/// `cancelled`.
result<void> unpack_tree(byte_source& input, tree_writer& out, const std::string& root,
                         name_policy names, const archive_limits& limits, tree_index* index,
                         job& work);

/// As `hydrate` to a root that is replaced, for an archive of the operator's: with every name that
/// a snapshot of ours may have, and without limits.
result<void> unpack_own(int in_fd, const std::string& root);

/// `no_space`, or `workspace_archive_write_error` with the reason.
error cannot_write(const std::string& root, int err);

} // namespace troupe::snapshot
