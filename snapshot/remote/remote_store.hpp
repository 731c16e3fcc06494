#pragma once

#include "messages/snapshot.hpp"
#include "snapshot/remote/s3_client.hpp"

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

namespace troupe::snapshot {

/// Where to keep what remote stores have, and what they are.
struct remote_options {
  /// Blobs that nothing refers to stay this long: somebody may be about to refer to them. More than
  /// twice the deadline of a job, which is what makes the collection safe.
  std::chrono::milliseconds grace{24 * 3'600'000};
  s3_options s3;
};

/// One tenant's part of an object store: what a folder of snapshots has, under
///
///     {prefix}/{tenant}/blobs/sha256/{digest}
///     {prefix}/{tenant}/refs/{id}             the bytes of `{id}.tar`, written last
///
/// Beside it there is a folder on this machine, `mirror`, through which everything goes: snapshots
/// are written there and sent, or fetched and then restored from there.
class remote_store {
public:
  /// `name`: of the store, for errors.
  remote_store(const remote_options& options, std::string name, const std::string& tenant,
               std::string mirror);

  /// Whether there is such a snapshot.
  result<bool> exists(const std::string& id, std::stop_token stop) const;

  /// Makes the snapshot in the mirror what it is in the store. What is in the mirror already is not
  /// sent again. `snapshot_restore_error` that names the blob for one that is damaged, cut or
  /// missing; then the mirror refers to what it did before.
  result<void> fetch(const std::string& id, std::stop_token stop) const;

  /// Makes the snapshot in the store what it is in the mirror. What is in the store already is not
  /// sent again; the reference is written last.
  result<void> publish(const std::string& id, std::stop_token stop) const;

  /// Removes the reference; blobs go with `collect`.
  result<void> remove(const std::string& id, std::stop_token stop) const;

  /// Removes blobs that no reference reaches and that are older than the grace. Gives their bytes.
  /// A reference that cannot be followed keeps every blob: nothing is removed.
  result<uint64_t> collect(std::stop_token stop) const;

private:
  result<std::unique_ptr<s3_client>> connect(std::stop_token stop) const;
  error about(const std::string& id, error x, bool restoring) const;
  result<void> fetch_from(s3_client& client, const std::string& id) const;
  result<void> publish_to(s3_client& client, const std::string& id) const;
  result<uint64_t> collect_in(s3_client& client) const;

  s3_options s3_;
  std::chrono::milliseconds grace_;
  std::string name_;
  std::string mirror_;
};

} // namespace troupe::snapshot
