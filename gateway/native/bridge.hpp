#pragma once

#include "messages/interfaces.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

namespace troupe::gateway {

/// Takes actions: the part of an actor that asks on behalf of HTTP threads.
using bridge_actor = actor_handle<caf::result<void>(action)>;

/// Lets threads that are no actors ask actors without waiting. A few actors do the asking in turn,
/// so that none of them becomes the narrow place.
class bridge {
public:
  explicit bridge(caf::actor_system& system, size_t width = 4);
  ~bridge();

  bridge(const bridge&) = delete;
  bridge& operator=(const bridge&) = delete;

  /// Sends a request; `done` gets the `result<R>` on an actor's thread and must not block.
  template <class R, class Handle, class... Ts>
  void ask(Handle target, std::function<void(result<R>)> done, Ts... xs) {
    auto& one = next();
    auto args = std::make_shared<std::tuple<Ts...>>(std::move(xs)...);
    anon_tell(one.actor,
              action{[self = one.self, target = std::move(target), done = std::move(done), args] {
                std::apply([&](Ts&... ys) { ask_then<R>(self, target, done, std::move(ys)...); },
                           *args);
              }});
  }

  template <class Handle, class Message>
  void tell(const Handle& target, Message x) {
    anon_tell(target, std::move(x));
  }

  caf::actor_system& system() {
    return system_;
  }

private:
  struct worker {
    bridge_actor actor;
    self_ptr<bridge_actor> self = nullptr; ///< used on the actor's own turns only
  };

  worker& next() {
    return workers_[turn_.fetch_add(1, std::memory_order_relaxed) % workers_.size()];
  }

  caf::actor_system& system_;
  std::vector<worker> workers_;
  std::atomic<size_t> turn_{0};
};

} // namespace troupe::gateway
