#pragma once

#include "actors/coroutine.hpp"
#include "backends/thread_pool.hpp"
#include "messages/caf_compat.hpp"

#include <concepts>
#include <exception>
#include <memory>
#include <string>
#include <string_view>

// How blocking work leaves an actor and comes back: a job on a pool, whose completion is a message.
// A promise is never answered from a foreign thread.

namespace troupe::actors {

/// Delivers actions to an actor from any thread.
class actor_inbox {
public:
  template <class Self>
  explicit actor_inbox(Self* self)
    : target_(caf::actor_cast<caf::actor>(caf::strong_actor_ptr{self->ctrl()})) {}

  void post(action work) const {
    caf::anon_send(target_, std::move(work));
  }

private:
  caf::actor target_;
};

/// Runs `work` (returning a `result<T>`) on `pool` and gives its outcome to `done` on one of the
/// actor's turns; `overloaded` at once when the pool is full. Neither may hold a promise: they may
/// be destroyed on a pool thread, when the actor has died meanwhile.
template <class T, class Self, std::invocable Work, class Done>
void offload_then(Self* self, backends::thread_pool& pool, std::string_view tenant, Work work,
                  Done done) {
  auto shared_done = std::make_shared<Done>(std::move(done));
  auto shared_work = std::make_shared<Work>(std::move(work));
  actor_inbox inbox{self};
  bool queued = pool.try_submit(tenant, [inbox, shared_work, shared_done] {
    auto outcome = std::make_shared<result<T>>();
    try {
      *outcome = (*shared_work)();
    } catch (const std::exception& e) {
      *outcome = unexpected(make_error(errc::internal, op::request, e.what()));
    }
    inbox.post([outcome, shared_done] { (*shared_done)(std::move(*outcome)); });
  });
  if (!queued)
    (*shared_done)(result<T>{
      unexpected(make_error(errc::overloaded, op::request, "too much work is queued already"))});
}

/// Awaits `work` on `pool`.
template <class T, class Self, std::invocable Work>
auto offload(Self* self, backends::thread_pool& pool, std::string tenant, Work work) {
  struct awaiter {
    Self* self;
    backends::thread_pool* pool;
    std::string tenant;
    Work work;
    std::optional<result<T>> value;

    bool await_ready() const noexcept {
      return false;
    }
    bool await_suspend(std::coroutine_handle<> h) {
      // A full pool answers inside the call: then there is nothing to resume.
      auto inside = std::make_shared<bool>(true);
      offload_then<T>(self, *pool, tenant, std::move(work), [this, h, inside](result<T> x) {
        value.emplace(std::move(x));
        if (!*inside)
          h.resume();
      });
      *inside = false;
      return !value.has_value();
    }
    result<T> await_resume() {
      return std::move(*value);
    }
  };
  return awaiter{self, &pool, std::move(tenant), std::move(work), std::nullopt};
}

} // namespace troupe::actors
