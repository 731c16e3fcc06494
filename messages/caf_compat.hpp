#pragma once

// The only file that knows which CAF generation is installed (0.17 here); everything else names
// what it needs from here.

#include "messages/error.hpp"

#include <caf/actor_cast.hpp>
#include <caf/actor_system.hpp>
#include <caf/error.hpp>
#include <caf/expected.hpp>
#include <caf/fwd.hpp>
#include <caf/make_message.hpp>
#include <caf/replies_to.hpp>
#include <caf/response_promise.hpp>
#include <caf/result.hpp>
#include <caf/send.hpp>
#include <caf/type_id.hpp>
#include <caf/typed_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <caf/typed_response_promise.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <unordered_map>
#include <utility>

// std::optional on the wire; CAF 1.x has it built in.
namespace std {

template <class Inspector, class T>
requires(Inspector::reads_state) typename Inspector::result_type
  inspect(Inspector& f, const optional<T>& x) {
  uint8_t has = x.has_value();
  return x ? f(has, const_cast<T&>(*x)) : f(has);
}

template <class Inspector, class T>
requires(Inspector::writes_state) typename Inspector::result_type
  inspect(Inspector& f, optional<T>& x) {
  uint8_t has = 0;
  if (auto err = f(has))
    return err;
  if (has == 0) {
    x.reset();
    return caf::none;
  }
  return f(x.emplace());
}

} // namespace std

namespace troupe {

// -- interfaces
// -------------------------------------------------------------------------------------

namespace detail {

template <class>
struct mpi_of;

template <class... Rs, class... Ts>
struct mpi_of<caf::result<Rs...>(Ts...)> {
  using type = typename caf::replies_to<Ts...>::template with<Rs...>;
};

} // namespace detail

/// `actor_handle<caf::result<R>(Request), ...>`: a typed actor by the signatures of its handlers.
template <class... Signatures>
using actor_handle = caf::typed_actor<typename detail::mpi_of<Signatures>::type...>;

/// The pointer that an actor's state gets of itself.
template <class Handle>
using self_ptr = typename Handle::pointer;

/// Something for an actor to do on its own turn: how a pool thread or the reactor comes back to it.
/// Local only.
using action = std::function<void()>;

/// A handle that takes actions too. Never published to another node: an action cannot be sent.
template <class Handle>
using with_actions = typename Handle::template extend<caf::reacts_to<action>>;

// -- state classes
// ----------------------------------------------------------------------------------

/// An actor that is a plain state class: `State(self, args...)`, `make_behavior()`, `name`.
/// Destroying the state on exit is what releases everything the actor held.
template <class State>
class state_actor : public State::handle_type::base {
public:
  using super = typename State::handle_type::base;
  using behavior_type = typename State::handle_type::behavior_type;

  template <class... Ts>
  explicit state_actor(caf::actor_config& cfg, Ts&&... xs) : super(cfg) {
    state_.emplace(static_cast<super*>(this), std::forward<Ts>(xs)...);
  }

  const char* name() const override {
    return State::name;
  }

  behavior_type make_behavior() override {
    return state_->make_behavior();
  }

  void on_exit() override {
    state_.reset();
  }

private:
  std::optional<State> state_;
};

// -- errors
// -----------------------------------------------------------------------------------------

caf::error to_caf(error x);

/// Our error back out of CAF's. CAF's own ones (a receiver that died, a broken promise) become
/// `interrupted`.
error from_caf(const caf::error& x);

// -- promises
// ---------------------------------------------------------------------------------------

/// A promise that cannot be forgotten: CAF 0.17 never answers a request whose promise was dropped,
/// so the last copy of this answers `interrupted`.
template <class T>
class reply_to {
public:
  template <class Self>
  explicit reply_to(Self* self)
    : holder_(std::make_shared<holder>(self->template make_response_promise<T>())) {}

  void finish(result<T> x) const {
    if (!holder_->promise.pending())
      return;
    if (!x) {
      holder_->promise.deliver(to_caf(std::move(x.error())));
    } else if constexpr (std::is_void_v<T>) {
      // 0.17's typed promise of nothing has no deliver() of its own.
      static_cast<caf::response_promise&>(holder_->promise).deliver(caf::unit);
    } else {
      holder_->promise.deliver(std::move(*x));
    }
  }

  operator caf::result<T>() const {
    return holder_->promise;
  }

private:
  struct holder {
    caf::typed_response_promise<T> promise;
    explicit holder(caf::typed_response_promise<T> x) : promise(std::move(x)) {}
    ~holder() {
      if (promise.pending())
        promise.deliver(to_caf(make_error(errc::interrupted, op::request,
                                          "what worked on this ended before it could answer")));
    }
  };

  std::shared_ptr<holder> holder_;
};

/// `result<T>` as a handler's immediate answer.
template <class T>
caf::result<T> answer(result<T> x) {
  if (!x)
    return to_caf(std::move(x.error()));
  if constexpr (std::is_void_v<T>)
    return caf::unit;
  else
    return std::move(*x);
}

// -- sending
// ----------------------------------------------------------------------------------------

template <class Self, class Handle, class... Ts>
void tell(Self* self, const Handle& handle, Ts... xs) {
  self->send(handle, std::move(xs)...);
}

template <class Handle, class... Ts>
void anon_tell(const Handle& handle, Ts... xs) {
  caf::anon_send(handle, std::move(xs)...);
}

template <class Self, class... Ts>
void tell_later(Self* self, caf::timespan delay, Ts... xs) {
  self->delayed_send(self, delay, std::move(xs)...);
}

namespace detail {

/// What CAF calls with an answer and with an error: types that depend on the answer alone, as CAF's
/// templates behind `then` are what an actor's compilation takes longest for.
template <class R>
struct on_answer {
  std::shared_ptr<std::function<void(result<R>)>> done;
  void operator()(R& x) const {
    (*done)(result<R>{std::move(x)});
  }
};

template <>
struct on_answer<void> {
  std::shared_ptr<std::function<void(result<void>)>> done;
  void operator()() const {
    (*done)(result<void>{});
  }
};

template <class R>
struct on_failure {
  std::shared_ptr<std::function<void(result<R>)>> done;
  void operator()(caf::error& e) const {
    (*done)(result<R>{unexpected(from_caf(e))});
  }
};

} // namespace detail

/// Sends a request without a CAF timeout (0.17 never cancels one and it costs memory; deadlines
/// live in the reactor) and calls `done` with the `result<R>`.
template <class R, class Self, class Handle, class... Ts>
void ask_then(Self* self, const Handle& handle, std::function<void(result<R>)> done, Ts... xs) {
  auto shared = std::make_shared<std::function<void(result<R>)>>(std::move(done));
  self->request(handle, caf::infinite, std::move(xs)...)
    .then(detail::on_answer<R>{shared}, detail::on_failure<R>{shared});
}

// -- supervision
// ------------------------------------------------------------------------------------

/// Watches actors with a callback each.
template <class Self>
class watcher {
public:
  explicit watcher(Self* self) : self_(self) {
    self_->set_down_handler([this](caf::down_msg& down) {
      if (auto node = callbacks_.extract(down.source))
        node.mapped()(down.reason);
    });
  }

  template <class Handle>
  void watch(const Handle& handle, std::function<void(const caf::error&)> callback) {
    callbacks_[handle.address()] = std::move(callback);
    self_->monitor(handle);
  }

  template <class Handle>
  void unwatch(const Handle& handle) {
    if (callbacks_.erase(handle.address()) > 0)
      self_->demonitor(handle.address());
  }

private:
  Self* self_;
  std::unordered_map<caf::actor_addr, std::function<void(const caf::error&)>> callbacks_;
};

} // namespace troupe

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::action)
