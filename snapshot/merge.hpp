#pragma once

#include "messages/error.hpp"

#include <map>
#include <string>

namespace troupe::snapshot {

/// Moves everything below `new_fd` over what is below `root_fd`, on the same file system.
/// Directories are merged, anything else replaced. All conflicts are found before the first move.
///
/// `implied`: directories of the new tree that no member named, with the member that needed each;
/// they replace nothing and leave mode and time of an existing directory alone.
result<void> merge_tree(int new_fd, int root_fd, const std::string& root,
                        const std::map<std::string, std::string>& implied);

/// Moves `name` between directories, also a directory that its owner may not write. An errno, or 0.
int move_entry(int from_fd, const std::string& name, int to_fd);

} // namespace troupe::snapshot
