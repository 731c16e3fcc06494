#pragma once

#include "backends/backend.hpp"
#include "snapshot/repository.hpp"

#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>

namespace troupe::actors {

/// The layers of a repository, for sandboxes.
class repository_layers final : public backends::layer_source {
public:
  explicit repository_layers(snapshot::repository& repository) : repository_(repository) {}

  result<backends::unpacked_layers> lease(const backends::held_layers& held) override {
    return unpack(held, {});
  }
  result<backends::unpacked_layers> unpack(const backends::held_layers& held, std::stop_token stop);
  void release(const backends::held_layers& held) override;

  /// (blocks) Of a session that an earlier process ran: its sandbox may be alive on these, so they
  /// stay until it leases them or is gone.
  void pin(const backends::held_layers& held);

private:
  static snapshot_ref ref_of(const backends::held_layers& held) {
    return {snapshot_kind::local, held.id, held.base_path, {}};
  }
  void unpin(const backends::held_layers& held);

  snapshot::repository& repository_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const snapshot::layer_lease>> pinned_; ///< guarded; by id
  /// Guarded; by id. Of those that somebody has nothing need be looked up again.
  std::map<std::string, std::weak_ptr<const snapshot::layer_lease>> known_;
};

} // namespace troupe::actors
