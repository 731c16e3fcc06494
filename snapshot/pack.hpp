#pragma once

#include "messages/error.hpp"
#include "snapshot/job.hpp"
#include "snapshot/tar_writer.hpp"
#include "snapshot/tree_index.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace troupe::snapshot {

/// Reads everything below `root_fd` once and gives it to `tar` and to `index`; either may be null.
/// Counts files and bytes in `work`. What changes or vanishes meanwhile is no failure. Returns
/// warnings about what was left out or could not be taken as it was.
///
/// Errors: `workspace_archive_read_error` for what cannot be read, `cancelled`, those of the sink.
result<std::vector<std::string>> pack_tree(int root_fd, const std::vector<std::string>& skip,
                                           tar_writer* tar, tree_index* index, job& work);

/// Longer or deeper paths are refused on both ways: what is stored can be restored, and unpacking
/// has a bounded cost per member.
inline constexpr size_t max_path_size = 64 * 1024;
inline constexpr size_t max_path_depth = 2048;

} // namespace troupe::snapshot
