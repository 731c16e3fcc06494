#pragma once

#include "messages/error.hpp"
#include "messages/session.hpp"
#include "messages/snapshot.hpp"
#include "snapshot/remote/remote_store.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

namespace troupe::snapshot {

struct layer_lease;

using troupe::archive_limits;

/// Reports how far a job has come: files and bytes so far. Called on the job's own thread, at most
/// some ten times a second.
using progress = std::function<void(uint64_t files, uint64_t bytes)>;

/// What to put into a snapshot.
struct persist_request {
  snapshot_ref ref;
  std::string session_id;
  std::string tenant;
  int root_fd = -1; ///< the workspace root
  /// Workspace-relative paths that are left out, with all below them; matched by whole components,
  /// anchored at the root.
  std::vector<std::string> skip;
  /// SHA-256 of the canonical manifest; part of the fingerprint.
  std::string manifest_digest;
  /// The snapshot in the same folder that the workspace came from or was last written to: only what
  /// changed since is written. Empty, or not there any more: the one of `ref`.
  std::string base = {};
  std::string name = {}; ///< of a restore point
  /// Others write to the tree meanwhile: look again until nothing changed between two looks.
  bool settle = false;
  /// The upper directory of the overlay that is the workspace, so that nothing else need be looked
  /// at; with the digests of the layers that lie below it, the oldest first.
  int upper_fd = -1;
  std::vector<std::string> lower_layers = {};
  /// What `hold` gave for these layers: the base if the other ones do not have them any more.
  std::string held = {};
};

/// Where to put a snapshot back.
struct restore_request {
  snapshot_ref ref;
  std::string root; ///< absolute path of the workspace root; made if missing
};

/// Keeps and gives back workspaces. Of a remote snapshot, `ref.base_path` is its folder on this
/// machine (`remote_base_path`), in which it is as a local one is. All calls block (I/O and CPU
/// pools) and may run on several threads at once; two jobs of one snapshot id must not overlap. The
/// cost and the format of a snapshot are this interface's secret.
class repository {
public:
  virtual ~repository() = default;

  /// Writes the tree as it is now. Durable on return: the file and its folder are synced; the one
  /// that was there before stays until then.
  virtual result<snapshot_outcome> persist(const persist_request& request, std::stop_token stop,
                                           const progress& report)
    = 0;

  /// Verifies the whole snapshot while unpacking it beside `root`, then swaps it in. On failure the
  /// old tree is untouched.
  virtual result<void> restore(const restore_request& request, std::stop_token stop,
                               const progress& report)
    = 0;

  virtual result<bool> restorable(const snapshot_ref& ref) = 0;

  /// Where the snapshot is in a remote store: brings it to its folder on this machine, from which
  /// the other calls take it. Waits for the network.
  virtual result<void> fetch(const snapshot_ref& ref, std::stop_token stop) = 0;

  /// Whether all of such a snapshot is in its folder on this machine, be that of late or not; that
  /// counts as a use of it.
  virtual bool is_here(const snapshot_ref& ref) = 0;

  /// Where the snapshot belongs into a remote store: makes it there what it is in its folder.
  /// Durable there on return. Waits for the network.
  virtual result<void> publish(const snapshot_ref& ref, std::stop_token stop) = 0;

  /// Removes from the remote store of a folder what no snapshot in it reaches. Waits for the
  /// network. Gives the bytes.
  virtual result<uint64_t> collect_remote(const std::string& base_path, std::stop_token stop) = 0;

  /// Where what remote stores have takes more than `remote_stores::max_bytes` on this machine:
  /// forgets here what was used longest ago, but no snapshot of which `in_use` says so, and nothing
  /// that is held. Who uses one says so before it looks whether that is there. False: there is more
  /// to go, when those are done who work there.
  virtual bool trim_mirrors(const std::function<bool(const std::string& id)>& in_use) = 0;

  /// Without `collect`, what it took is freed by the next `sweep`.
  virtual result<void> remove(const snapshot_ref& ref, bool collect = true) = 0;

  /// The fingerprint that `persist` would record, without writing anything. Contents are read only
  /// where `base` or `ref` do not know them.
  virtual result<std::string> fingerprint(const persist_request& request, std::stop_token stop) = 0;

  /// Makes `to` the same snapshot as `from`, in the same folder, without copying.
  virtual result<snapshot_info> link(const snapshot_ref& from, const snapshot_ref& to) = 0;

  /// The same for many new ones: all at once on the disk.
  virtual result<void> link_all(const snapshot_ref& from, const std::vector<std::string>& ids) = 0;

  /// Digests of the layers, the oldest first; none for an archive.
  virtual result<std::vector<std::string>> layers(const snapshot_ref& ref) = 0;

  /// The layers of a snapshot, unpacked on this machine, for an overlay. Unpacks what is missing.
  /// Fails where there is no cache.
  virtual result<std::shared_ptr<const layer_lease>> lease(const snapshot_ref& ref,
                                                           std::stop_token stop)
    = 0;

  /// What of these layers is unpacked already, held as `lease` does.
  virtual std::shared_ptr<const layer_lease> pin(const snapshot_ref& ref) = 0;

  /// Keeps the layers of a snapshot for a workspace that lies on them, whatever becomes of the
  /// snapshot, until `release`. Gives the id of a hidden snapshot in the same folder; nullopt: it
  /// has no layers.
  virtual result<std::optional<std::string>> hold(const snapshot_ref& ref,
                                                  const std::string& session_id)
    = 0;

  /// Ends what `hold` began.
  virtual void release(const snapshot_ref& held) = 0;

  /// Ends all that is held in a folder but for `wanted`.
  virtual void release_others(const std::string& folder, const std::set<std::string>& wanted) = 0;

  /// Reads all of a snapshot and holds it against its digests.
  virtual result<void> verify(const snapshot_ref& ref, std::stop_token stop) = 0;

  /// What changed from one snapshot to another in the same folder, or with `live` (of which root
  /// and skip paths count) to that tree as it is now. `text`: with diffs of small text files.
  virtual result<workspace_diff> diff(const snapshot_ref& from, const snapshot_ref& to,
                                      const persist_request* live, bool text, std::stop_token stop)
    = 0;

  /// Writes a snapshot as a plain tar.
  virtual result<void> export_tar(const snapshot_ref& ref, int out_fd, std::stop_token stop) = 0;

  /// Copies a snapshot into a new folder as an OCI image layout.
  virtual result<void> export_oci(const snapshot_ref& ref, const std::string& folder) = 0;

  /// Takes a snapshot from such a folder; verified before it is there.
  virtual result<snapshot_info> import_oci(const std::string& folder, const snapshot_ref& ref,
                                           std::stop_token stop)
    = 0;

  /// Makes one layer of many, or of mostly dead ones. Whether it did. `held`: what `hold` gave for
  /// the workspace that goes on with the old layers below it, if one does. Each save of that is
  /// made of them anew, so that only what has come above since the last time counts.
  virtual result<bool> flatten(const snapshot_ref& ref, std::stop_token stop,
                               const std::string& held = {})
    = 0;

  /// What the store recorded of one snapshot. Reads its end only and verifies nothing else. Of an
  /// archive that others wrote: no more than what the file system knows.
  virtual result<snapshot_info> inspect(const snapshot_ref& ref) = 0;

  /// All local snapshots in `base_path`, by id; damaged ones are left out.
  virtual result<std::vector<snapshot_info>> list(const std::string& base_path) = 0;

  /// Removes half-written files and half-restored trees that a killed process left in `folder`: a
  /// `base_path`, or the parent of workspace roots.
  virtual void sweep(const std::string& folder) = 0;
};

/// Where unpacked layers are kept. Empty folder: nowhere.
struct cache_options {
  std::string folder;
  uint64_t max_bytes = uint64_t{20} << 30;
  /// Who what is unpacked belongs to, where the server may give it away: a mount that maps ids
  /// shows it as that user's of a sandbox.
  uint32_t owner = 0;
};

/// The remote stores, and where the folders are that snapshots go through on their way:
/// `{folder}/{name of the store}/{tenant}` is the `base_path` of what a tenant has in a store.
struct remote_stores {
  std::string folder;
  std::map<std::string, remote_options> by_name;
  uint64_t max_bytes = uint64_t{20} << 30; ///< of all these folders, see `trim_mirrors`
};

/// The `base_path` of a tenant's snapshots in a store.
std::string remote_base_path(const std::string& folder, const std::string& name,
                             const std::string& tenant);

/// (blocks) Every such `base_path` that is there.
std::vector<std::string> remote_base_paths(const std::string& folder);

/// The repository for every kind of snapshot this build knows. `workers`: zstd's threads per job.
/// They take over the priority of the thread that runs the first job, and end with the repository.
std::unique_ptr<repository> make_repository(unsigned workers, cache_options cache = {},
                                            remote_stores stores = {});

/// The fingerprint of a live tree as `persist` would record it, under `fingerprint_version`.
result<std::string> fingerprint(int root_fd, const std::vector<std::string>& skip,
                                const std::string& manifest_digest, std::stop_token stop);

/// Names the algorithm of `fingerprint`; a record of another version never matches.
inline constexpr const char* fingerprint_version = "troupe_tree_sha256_v1";

/// Writes the tree as a plain (uncompressed) tar to `out_fd` (a file or a pipe; blocking).
result<std::vector<std::string>> write_tar(int root_fd, const std::vector<std::string>& skip,
                                           int out_fd, std::stop_token stop);

/// Whether an OCI image layout is one that `export_oci` wrote, and not the image of another tool.
/// Nothing of it is verified yet.
bool is_snapshot_layout(const std::string& folder);

/// Unpacks a tar (plain, gzip, zstd, xz, bzip2) from `in_fd` into a sibling of `root`, verifies all
/// of it, swaps it in. `merge`: what is in `root` and not in the archive stays.
///
/// Errors: `workspace_archive_write_error` with `member` and `reason` for a member that may not be,
/// with `reason`, `limit` and `actual` for a limit, with `cause` for an archive that cannot be
/// read; `no_space`, `cancelled`.
result<void> hydrate(int in_fd, const std::string& root, bool merge, const archive_limits& limits,
                     std::stop_token stop);

} // namespace troupe::snapshot
