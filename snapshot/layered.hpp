#pragma once

#include "snapshot/blob_store.hpp"
#include "snapshot/capture.hpp"
#include "snapshot/repository.hpp"
#include "snapshot/tree_writer.hpp"
#include "snapshot/zstd_stream.hpp"

#include <optional>
#include <stop_token>

// Snapshots as layers: what the repository does with those whose `{id}.tar` is a reference.

namespace troupe::snapshot {

class layer_cache;

/// The layered snapshot that `{id}.tar` refers to; nullopt: that is an archive.
result<std::optional<layered_snapshot>> find_layered(const blob_store& store,
                                                     const snapshot_ref& ref);

/// The upper tree of a request says what changed only if its overlay lies on the first of these
/// layers; else nullopt.
std::optional<upper_tree> usable_upper(const persist_request& request,
                                       const std::vector<layer_info>& layers);

result<snapshot_outcome> persist_layered(const persist_request& request, std::stop_token stop,
                                         const progress& report, zstd_pool& pool);

/// `cache`, if there is one, has the layers unpacked where the file system can give files of it to
/// the new tree without copying.
result<void> restore_layered(const blob_store& store, const layered_snapshot& snapshot,
                             const restore_request& request, std::stop_token stop,
                             const progress& report, zstd_pool& pool, layer_cache* cache);

/// Puts a snapshot into the empty directory `out` writes to. `folders`: of its layers, unpacked,
/// the oldest first. Their contents are not verified again.
result<void> clone_layered(const blob_store& store, const layered_snapshot& snapshot,
                           const std::vector<std::string>& folders, tree_writer& out, job& work);

/// The fingerprint of a live tree; contents are read where the base does not know them.
result<std::string> fingerprint_layered(const persist_request& request, std::stop_token stop);

/// What changed from one snapshot to another or, with `live`, to a tree as it is now. `text`: with
/// the differences of small text files.
result<workspace_diff> diff_layered(const snapshot_ref& from, const snapshot_ref& to,
                                    const persist_request* live, bool text, std::stop_token stop);

/// Reads and verifies all of a snapshot.
result<void> verify_layered(const blob_store& store, const layered_snapshot& snapshot,
                            std::stop_token stop);

/// Writes the tree of a snapshot as a plain tar.
result<void> export_tar_layered(const blob_store& store, const layered_snapshot& snapshot,
                                int out_fd, std::stop_token stop);

/// Copies a snapshot into `folder`, which it makes, as an OCI image layout of its own.
result<void> export_layout(const blob_store& store, const layered_snapshot& snapshot,
                           const std::string& folder);

/// Takes the snapshot of an OCI image layout that `export_layout` wrote, or a tool that copied it.
/// All of it is verified before `ref` refers to it.
result<snapshot_info> import_layout(const std::string& folder, const snapshot_ref& ref,
                                    std::stop_token stop);

/// Puts one layer by itself into `folder_fd`, as an overlay takes it for a lower directory.
/// `older`: the folders of the layers below it. Of a file in one of those, a new name is a copy: an
/// overlay knows no links between its layers.
result<void> unpack_layer(const blob_store& store, const layer_info& layer, int folder_fd,
                          const std::vector<std::string>& older, std::stop_token stop);

/// Makes one layer of a snapshot's layers, if they are many or mostly dead. Whether it did. `held`:
/// see `repository::flatten`; what there was when it was done before is noted beside the
/// statistics.
result<bool> flatten_layered(const snapshot_ref& ref, const std::string& held, std::stop_token stop,
                             zstd_pool& pool);

} // namespace troupe::snapshot
