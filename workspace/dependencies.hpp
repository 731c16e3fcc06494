#pragma once

#include "messages/error.hpp"

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

namespace troupe::workspace {

/// Objects of an embedding program that a session may use while it lives: values, and factories
/// that make them when somebody asks. Never serialised. Thread-safe; `get` and `close` block.
///
/// A program keeps one as a template; each session gets a `clone` and closes it at its end.
class dependencies {
public:
  using factory = std::function<result<std::any>(dependencies&)>;

  struct factory_options {
    bool cache = true; ///< one run serves everyone; otherwise each `get` runs it
    bool overwrite = false;
    /// Called with each result when the container closes, the newest first. Set: the container owns
    /// what the factory makes.
    std::function<void(std::any&)> close_result;
  };

  dependencies();
  ~dependencies();
  dependencies(const dependencies&) = delete;
  dependencies& operator=(const dependencies&) = delete;

  /// `invalid_request` for an empty key, `conflict` for one that is bound already.
  result<void> bind_value(const std::string& key, std::any value, bool overwrite = false);

  /// The same. Binding a key anew drops what is cached for it; who waits for the old factory gets
  /// an error.
  result<void> bind_factory(const std::string& key, factory make, factory_options options);
  result<void> bind_factory(const std::string& key, factory make);

  /// What is bound to `key`; nullopt if nothing is. Callers of a cached factory share one run,
  /// and one that gives up (`stop`) leaves it to the others. A failed run is not cached. After
  /// `close` only values resolve; a factory is a `conflict`.
  result<std::optional<std::any>> get(const std::string& key, std::stop_token stop = {});

  /// As `get`, but nothing is `not_found`, in a message that names `consumer`.
  result<std::any> require(const std::string& key, const std::string& consumer = "");

  /// The same bindings without anything that was made from them.
  std::unique_ptr<dependencies> clone() const;

  /// Waits for running factories, then closes what they made, the newest first. Idempotent.
  void close();

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace troupe::workspace
