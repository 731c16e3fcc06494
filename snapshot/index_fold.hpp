#pragma once

#include "snapshot/index_entry.hpp"

#include <memory>
#include <string>
#include <vector>

namespace troupe::snapshot {

/// Reads the indexes of ordered layers, the oldest first, as the one index of the tree that they
/// make. Memory does not grow with the tree.
class index_fold {
public:
  /// `whiteouts`: give these, too; of use with a single layer.
  explicit index_fold(std::vector<std::unique_ptr<index_decoder>> layers, bool whiteouts = false);

  /// The next path of the tree, with the layer that has it; false at the end of all indexes.
  result<bool> next(index_entry& x);

private:
  struct stream {
    std::unique_ptr<index_decoder> input;
    index_entry entry;
    bool ended = false;
    std::string hides; ///< what older layers have below this is gone
    bool hiding = false;
  };

  static result<void> advance(stream& x);
  static void pass(stream& x, const std::string& path, entry_type type);
  bool is_hidden(size_t layer) const;

  /// The layer whose entry comes next; that is newest among equals. All of them: none is left.
  size_t first();

  std::vector<stream> layers_;
  size_t leading_ = 0; ///< had the entry before, and no other had that
  size_t rival_ = 0;   ///< has the first path of all the others
  bool leads_ = false; ///< whether `leading_` and `rival_` say something
  bool whiteouts_;
  bool started_ = false;
};

} // namespace troupe::snapshot
