#pragma once

#include "snapshot/blob_store.hpp"
#include "snapshot/index_fold.hpp"
#include "snapshot/job.hpp"
#include "snapshot/layer_writer.hpp"
#include "snapshot/walk_ahead.hpp"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace troupe::snapshot {

/// Told of each path that differs: as it is now, as it was; one of them may be null.
using change_listener = std::function<void(const index_entry* now, const index_entry* before)>;

/// What to compare a tree with.
struct capture_base {
  /// The index of what the tree was when it was last written; null: nothing was.
  std::unique_ptr<index_fold> index;
  /// What files were on this disk since then (`write_stats`); null: only what the index says.
  std::unique_ptr<index_decoder> stats;
  /// A walk through the tree that has begun already (`look_ahead`); null: none.
  std::unique_ptr<walk_ahead> ahead;
};

/// Begins to look at a tree that is to be compared.
std::unique_ptr<walk_ahead> look_ahead(int root_fd, const std::vector<std::string>& skip);

/// The upper tree of an overlay, instead of the whole.
struct upper_tree {
  int fd = -1;
  /// How many layers of the base lie below the overlay. What newer ones have and the upper tree
  /// lacks was removed.
  uint32_t lower_layers = 0;
};

struct capture_outcome {
  std::optional<layer_info> layer; ///< nullopt: nothing changed
  digest_bytes tree{};             ///< of the tree as it is now
  uint64_t files = 0;
  uint64_t bytes = 0;
  uint64_t hashed_again = 0; ///< bytes that were read only to find them unchanged
  std::vector<std::string> warnings;
  bool changed = false;
};

/// Writes to `out` what is new in the tree since `base`, whiteouts for what is gone, and digests
/// the whole. Contents are read only where size, times, inode or kind moved, or where the last look
/// came too soon after the last change to see another one. `out` null: nothing is written, only the
/// digest and whether anything changed is found out.
result<capture_outcome> capture(int root_fd, const std::optional<upper_tree>& upper,
                                const std::vector<std::string>& skip, capture_base base,
                                layer_writer* out, job& work, const change_listener& listener = {});

/// Whether the tree differs from `base` in anything that a digest covers or a save would write.
/// Ends with the first difference.
result<bool> differs(int root_fd, const std::optional<upper_tree>& upper,
                     const std::vector<std::string>& skip, capture_base base, job& work);

/// Writes to `path` how the files of a tree are on this disk, for later captures. A file that
/// changed at `before` or later is left out. Best effort: without it, contents are read again.
void write_stats(int root_fd, const std::string& path, const timespec& before, zstd_pool& pool);

/// What `write_stats` wrote; null if there is none.
std::unique_ptr<index_decoder> read_stats(const std::string& path);

/// The time as the file system takes it for what changes now, or a little before.
timespec file_clock();

} // namespace troupe::snapshot
