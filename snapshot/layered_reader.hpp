#pragma once

#include "snapshot/blob_store.hpp"
#include "snapshot/index_fold.hpp"
#include "snapshot/layer_writer.hpp"
#include "snapshot/tar_reader.hpp"

#include <memory>
#include <string>
#include <vector>

namespace troupe::snapshot {

/// Reads the tree that layers make: every path once, parents before children, files before the hard
/// links to them, each with its contents. Every blob is read to its end and verified, but what was
/// read before that end may have come from a damaged one.
class layered_reader {
public:
  /// `whiteouts`: of a single layer, they are entries too.
  static result<layered_reader> open(const blob_store& store, const layered_snapshot& snapshot,
                                     bool whiteouts = false);

  /// The next path; false at the verified end.
  result<bool> next(index_entry& x);

  /// Where the current file has contents; null: everywhere.
  const std::vector<extent>* map() const {
    return member_.runs.empty() ? nullptr : &member_.runs;
  }

  /// The next piece of the current file's contents.
  result<file_piece> data();

private:
  struct layer {
    blob_id id;
    std::unique_ptr<byte_source> bytes;
    std::unique_ptr<tar_reader> tar;
    uint64_t position = 0; ///< of the member that is read next
  };

  layered_reader() = default;
  result<bool> next_member(layer& x);

  std::unique_ptr<index_fold> index_;
  std::vector<layer> layers_;
  layer* current_ = nullptr;
  tar_member member_;
};

/// The folded index of a snapshot's layers.
result<std::unique_ptr<index_fold>>
open_fold(const blob_store& store, const std::vector<layer_info>& layers, bool whiteouts = false);

} // namespace troupe::snapshot
