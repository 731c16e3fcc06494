#pragma once

#include "messages/caf_compat.hpp"

#include <algorithm>
#include <coroutine>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

// Long protocols (start, stop, apply) as coroutines that read top to bottom. A coroutine runs on
// its actor's turns only; its frame is owned by a `task_scope` in the actor's state, so that an
// actor that dies takes its suspended protocols with it and their promises are answered.
//
// g++ 12 destroys some temporaries of a co_await expression twice: an aggregate made there with
// braces
// (`ask<void>(self, x, put_record{..})`), one made by `?:`, and a capturing lambda called there.
// Name the value on its own line first. An empty struct is fine.

namespace troupe::actors {

/// A lazily started coroutine that is awaited exactly once.
template <class T>
class [[nodiscard]] co {
public:
  struct promise_type {
    std::optional<T> value;
    std::exception_ptr failure;
    std::coroutine_handle<> next;

    co get_return_object() {
      return co{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() noexcept {
      return {};
    }
    struct final_awaiter {
      bool await_ready() noexcept {
        return false;
      }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> h) noexcept {
        return h.promise().next;
      }
      void await_resume() noexcept {}
    };
    final_awaiter final_suspend() noexcept {
      return {};
    }
    void return_value(T x) {
      value.emplace(std::move(x));
    }
    void unhandled_exception() {
      failure = std::current_exception();
    }
  };

  co(co&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  co(const co&) = delete;
  co& operator=(const co&) = delete;
  ~co() {
    if (handle_)
      handle_.destroy();
  }

  bool await_ready() const noexcept {
    return false;
  }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> next) noexcept {
    handle_.promise().next = next;
    return handle_;
  }
  T await_resume() {
    auto& promise = handle_.promise();
    if (promise.failure)
      std::rethrow_exception(promise.failure);
    return std::move(*promise.value);
  }

private:
  explicit co(std::coroutine_handle<promise_type> h) : handle_(h) {}

  std::coroutine_handle<promise_type> handle_;
};

/// Owns the frames of an actor's running protocols.
class task_scope {
public:
  using token = std::list<std::coroutine_handle<>>::iterator;

  task_scope() = default;
  task_scope(const task_scope&) = delete;
  task_scope& operator=(const task_scope&) = delete;
  ~task_scope() {
    closing_ = true;
    while (!frames_.empty()) {
      auto frame = frames_.front();
      frames_.pop_front();
      frame.destroy();
    }
  }

  token add(std::coroutine_handle<> frame) {
    return frames_.insert(frames_.end(), frame);
  }
  void remove(token at) {
    frames_.erase(at);
  }
  /// True while the actor goes down: nothing may be resumed any more.
  bool closing() const {
    return closing_;
  }

private:
  std::list<std::coroutine_handle<>> frames_;
  bool closing_ = false;
};

namespace detail {

/// The outermost coroutine: starts at once, destroys itself at its end.
struct root {
  struct promise_type {
    task_scope* scope;
    task_scope::token at;

    template <class... Ts>
    explicit promise_type(task_scope& owner, Ts&...)
      : scope(&owner), at(owner.add(std::coroutine_handle<promise_type>::from_promise(*this))) {}
    root get_return_object() {
      return {};
    }
    std::suspend_never initial_suspend() noexcept {
      return {};
    }
    struct final_awaiter {
      bool await_ready() noexcept {
        return false;
      }
      void await_suspend(std::coroutine_handle<promise_type> h) noexcept {
        h.promise().scope->remove(h.promise().at);
        h.destroy();
      }
      void await_resume() noexcept {}
    };
    final_awaiter final_suspend() noexcept {
      return {};
    }
    void return_void() {}
    void unhandled_exception() {
      std::terminate(); // run_root catches all
    }
  };
};

template <class T>
root run_root(task_scope&, co<result<T>> body, std::function<void(result<T>)> done) {
  result<T> outcome = unexpected(make_error(errc::internal, op::request, "no outcome"));
  try {
    outcome = co_await body;
  } catch (const std::exception& e) {
    outcome = unexpected(make_error(errc::internal, op::request, e.what()));
  }
  done(std::move(outcome));
}

} // namespace detail

/// Runs `body`; `done` gets its outcome on one of the actor's turns, or is dropped with the actor.
template <class T>
void launch(task_scope& scope, co<result<T>> body, std::function<void(result<T>)> done) {
  detail::run_root<T>(scope, std::move(body), std::move(done));
}

/// Runs `body` as the answer to the current request.
template <class T, class Self>
caf::result<T> respond(Self* self, task_scope& scope, co<result<T>> body) {
  reply_to<T> reply{self};
  launch<T>(scope, std::move(body), [reply](result<T> x) { reply.finish(std::move(x)); });
  return reply;
}

/// Awaits the answer of another actor as `result<R>`.
template <class R, class Self, class Handle, class... Ts>
auto ask(Self* self, Handle handle, Ts... xs) {
  struct awaiter {
    Self* self;
    Handle handle;
    std::tuple<Ts...> args;
    std::optional<result<R>> value;

    bool await_ready() const noexcept {
      return false;
    }
    void await_suspend(std::coroutine_handle<> h) {
      std::apply(
        [&](Ts&... ys) {
          ask_then<R>(
            self, handle,
            [this, h](result<R> x) {
              value.emplace(std::move(x));
              h.resume();
            },
            std::move(ys)...);
        },
        args);
    }
    result<R> await_resume() {
      return std::move(*value);
    }
  };
  return awaiter{self, std::move(handle), std::tuple<Ts...>{std::move(xs)...}, std::nullopt};
}

/// Asks at once; what it returns is awaited later, on one of the actor's turns, or never.
template <class R, class Self, class Handle, class... Ts>
auto ask_ahead(Self* self, const Handle& handle, Ts... xs) {
  struct outcome {
    std::optional<result<R>> value;
    std::coroutine_handle<> waiting;
  };
  struct awaiter {
    std::shared_ptr<outcome> shared;

    bool await_ready() const noexcept {
      return shared->value.has_value();
    }
    void await_suspend(std::coroutine_handle<> h) noexcept {
      shared->waiting = h;
    }
    result<R> await_resume() {
      return std::move(*shared->value);
    }
  };
  auto shared = std::make_shared<outcome>();
  ask_then<R>(
    self, handle,
    [shared](result<R> x) {
      shared->value.emplace(std::move(x));
      if (shared->waiting)
        shared->waiting.resume();
    },
    std::move(xs)...);
  return awaiter{std::move(shared)};
}

/// Lets at most `permits` protocols of an actor past a point, in order of arrival.
class async_semaphore {
public:
  /// `scope` is only used after it was made: it may be declared below.
  async_semaphore(const task_scope& scope, size_t permits) : scope_(&scope), free_(permits) {}
  async_semaphore(const async_semaphore&) = delete;
  async_semaphore& operator=(const async_semaphore&) = delete;

  /// Gives the permit back.
  class guard {
  public:
    guard(async_semaphore* owner, std::string tenant) : owner_(owner), tenant_(std::move(tenant)) {}
    guard(guard&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)), tenant_(std::move(other.tenant_)) {}
    guard& operator=(guard&&) = delete;
    ~guard() {
      release();
    }

    /// Before its end.
    void release() {
      if (auto* owner = std::exchange(owner_, nullptr))
        owner->release(tenant_);
    }

  private:
    async_semaphore* owner_;
    std::string tenant_;
  };

  /// Of those that wait, one of the tenant with the fewest permits is next, else who came first.
  /// `tenant`: as long as the caller awaits; empty: nobody's.
  auto acquire(std::string_view tenant = {}) {
    struct awaiter {
      async_semaphore* owner;
      std::string_view tenant;
      bool await_ready() const {
        if (owner->free_ == 0)
          return false;
        --owner->free_;
        owner->note(tenant, 1);
        return true;
      }
      void await_suspend(std::coroutine_handle<> h) {
        owner->waiters_.push_back({h, std::string{tenant}});
      }
      guard await_resume() {
        return guard{owner, std::string{tenant}};
      }
    };
    return awaiter{this, tenant};
  }

private:
  struct waiter {
    std::coroutine_handle<> next;
    std::string tenant;
  };

  void note(std::string_view tenant, int change) {
    if (tenant.empty())
      return;
    auto i = held_.try_emplace(std::string{tenant}).first;
    if ((i->second += change) == 0)
      held_.erase(i);
  }

  int held_by(const std::string& tenant) const {
    auto i = held_.find(tenant);
    return i == held_.end() ? 0 : i->second;
  }

  void release(const std::string& tenant) {
    if (scope_->closing())
      return;
    note(tenant, -1);
    if (waiters_.empty()) {
      ++free_;
      return;
    }
    auto first = std::ranges::min_element(waiters_, {},
                                          [this](const waiter& x) { return held_by(x.tenant); });
    auto next = std::move(*first);
    waiters_.erase(first);
    note(next.tenant, 1);
    next.next.resume();
  }

  const task_scope* scope_;
  size_t free_;
  std::deque<waiter> waiters_;
  std::map<std::string, int> held_; ///< permits by tenant
};

} // namespace troupe::actors
