#include "actors/repository_layers.hpp"

#include "snapshot/layer_cache.hpp"

#include <utility>

namespace troupe::actors {

result<backends::unpacked_layers> repository_layers::unpack(const backends::held_layers& held,
                                                            std::stop_token stop) {
  std::shared_ptr<const snapshot::layer_lease> mine;
  {
    std::lock_guard guard{mutex_};
    if (auto i = known_.find(held.id); i != known_.end())
      mine = i->second.lock();
  }
  if (!mine) {
    auto lease = repository_.lease(ref_of(held), std::move(stop));
    if (!lease)
      return unexpected(std::move(lease.error()));
    mine = std::move(*lease);
    std::lock_guard guard{mutex_};
    known_[held.id] = mine;
  }
  unpin(held);
  return backends::unpacked_layers{mine->folders, mine->digests, mine};
}

void repository_layers::release(const backends::held_layers& held) {
  repository_.release(ref_of(held));
  std::lock_guard guard{mutex_};
  known_.erase(held.id);
  pinned_.erase(held.id);
}

void repository_layers::pin(const backends::held_layers& held) {
  auto lease = repository_.pin(ref_of(held));
  std::lock_guard guard{mutex_};
  pinned_[held.id] = std::move(lease);
}

void repository_layers::unpin(const backends::held_layers& held) {
  std::lock_guard guard{mutex_};
  pinned_.erase(held.id);
}

} // namespace troupe::actors
