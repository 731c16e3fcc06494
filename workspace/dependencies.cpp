#include "workspace/dependencies.hpp"

#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

namespace troupe::workspace {

namespace {

error closed(const std::string& key) {
  return make_error(errc::conflict, op::request,
                    "Dependencies container is closed; cannot resolve `" + key + "`")
    .with("key", key);
}

} // namespace

struct dependencies::impl {
  /// One run of a cached factory, shared by all who wait for it.
  struct run {
    std::optional<result<std::any>> outcome;
    bool rebound = false;
  };

  struct binding {
    std::any value;
    factory make; ///< empty: `value` is it
    factory_options options;
    std::shared_ptr<run> current; ///< of a cached factory: running, or done well
  };

  struct owned {
    std::any value;
    std::function<void(std::any&)> close;
  };

  mutable std::mutex mutex;
  std::condition_variable_any changed;
  std::map<std::string, binding> bindings;
  std::vector<owned> made;
  size_t running = 0;
  bool closing = false;
  bool closed = false;

  result<void> bind(const std::string& key, binding x) {
    std::lock_guard guard{mutex};
    if (key.empty())
      return unexpected(
        make_error(errc::invalid_request, op::request, "Dependency key must be non-empty"));
    auto i = bindings.find(key);
    if (i != bindings.end() && !x.options.overwrite)
      return unexpected(
        make_error(errc::conflict, op::request, "Dependency `" + key + "` is already bound")
          .with("key", key));
    if (i != bindings.end() && i->second.current)
      i->second.current->rebound = true;
    bindings[key] = std::move(x);
    changed.notify_all();
    return {};
  }

  /// Runs a factory without the lock and keeps what has to be closed.
  result<std::any> call(dependencies& self, const binding& x, std::unique_lock<std::mutex>& lock) {
    auto make = x.make;
    auto close = x.options.close_result;
    ++running;
    lock.unlock();
    result<std::any> outcome = unexpected(make_error(errc::internal, op::request, ""));
    try {
      outcome = make(self);
    } catch (const std::exception& e) {
      outcome = unexpected(make_error(errc::internal, op::request, e.what()));
    }
    lock.lock();
    --running;
    if (outcome && close)
      made.push_back({*outcome, std::move(close)});
    changed.notify_all();
    return outcome;
  }
};

dependencies::dependencies() : impl_(std::make_unique<impl>()) {}

dependencies::~dependencies() {
  close();
}

result<void> dependencies::bind_value(const std::string& key, std::any value, bool overwrite) {
  impl::binding x;
  x.value = std::move(value);
  x.options.overwrite = overwrite;
  return impl_->bind(key, std::move(x));
}

result<void> dependencies::bind_factory(const std::string& key, factory make,
                                        factory_options options) {
  impl::binding x;
  x.make = std::move(make);
  x.options = std::move(options);
  return impl_->bind(key, std::move(x));
}

result<void> dependencies::bind_factory(const std::string& key, factory make) {
  return bind_factory(key, std::move(make), factory_options{});
}

result<std::optional<std::any>> dependencies::get(const std::string& key, std::stop_token stop) {
  std::unique_lock lock{impl_->mutex};
  auto i = impl_->bindings.find(key);
  if (i == impl_->bindings.end())
    return std::nullopt;
  auto& bound = i->second;
  if (!bound.make)
    return bound.value;
  if (impl_->closing)
    return unexpected(closed(key));
  if (!bound.options.cache) {
    auto made = impl_->call(*this, bound, lock);
    if (!made)
      return unexpected(std::move(made.error()));
    return std::move(*made);
  }
  auto mine = bound.current;
  if (!mine) {
    mine = bound.current = std::make_shared<impl::run>();
    auto outcome = impl_->call(*this, bound, lock); // `bound` may be gone after this
    auto again = impl_->bindings.find(key);
    if (!outcome && again != impl_->bindings.end() && again->second.current == mine)
      again->second.current.reset();
    mine->outcome = std::move(outcome);
    impl_->changed.notify_all();
  }
  bool ended = impl_->changed.wait(lock, stop, [&] { return mine->outcome || mine->rebound; });
  if (!ended)
    return unexpected(make_error(errc::cancelled, op::request, "nobody waits any more"));
  if (mine->rebound)
    return unexpected(
      make_error(errc::conflict, op::request,
                 "Dependency `" + key + "` was rebound while its factory was resolving")
        .with("key", key));
  if (impl_->closing)
    return unexpected(make_error(errc::conflict, op::request,
                                 "Dependencies container was closed while resolving `" + key + "`")
                        .with("key", key));
  if (!*mine->outcome)
    return unexpected(mine->outcome->error());
  return **mine->outcome;
}

result<std::any> dependencies::require(const std::string& key, const std::string& consumer) {
  auto found = get(key);
  if (!found)
    return unexpected(std::move(found.error()));
  if (*found && (*found)->has_value())
    return std::move(**found);
  return unexpected(
    make_error(errc::not_found, op::request,
               "Missing dependency `" + key + "`" + (consumer.empty() ? "" : " for " + consumer))
      .with("key", key));
}

std::unique_ptr<dependencies> dependencies::clone() const {
  auto copy = std::make_unique<dependencies>();
  std::lock_guard guard{impl_->mutex};
  for (const auto& [key, x] : impl_->bindings) {
    auto& bound = copy->impl_->bindings[key];
    bound = x;
    bound.current.reset();
  }
  return copy;
}

void dependencies::close() {
  std::unique_lock lock{impl_->mutex};
  bool first = !std::exchange(impl_->closing, true);
  impl_->changed.notify_all();
  if (!first) {
    impl_->changed.wait(lock, [&] { return impl_->closed; });
    return;
  }
  impl_->changed.wait(lock, [&] { return impl_->running == 0; });
  while (!impl_->made.empty()) {
    auto last = std::move(impl_->made.back());
    impl_->made.pop_back();
    lock.unlock();
    try {
      last.close(last.value);
    } catch (...) {
      // The contract: what fails to close is forgotten, the others still close.
      last.value.reset();
    }
    lock.lock();
  }
  for (auto& [key, x] : impl_->bindings)
    x.current.reset();
  impl_->closed = true;
  impl_->changed.notify_all();
}

} // namespace troupe::workspace
