#include "actors/repository_layers.hpp"

#include "snapshot/layer_cache.hpp"

#include <utility>

namespace troupe::actors {

result<backends::unpacked_layers> repository_layers::lease(const backends::held_layers& held) {
  auto lease = repository_.lease(ref_of(held), {});
  if (!lease)
    return unexpected(std::move(lease.error()));
  unpin(held);
  return backends::unpacked_layers{(*lease)->folders, (*lease)->digests, *lease};
}

void repository_layers::release(const backends::held_layers& held) {
  repository_.release(ref_of(held));
  unpin(held);
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
