#pragma once

#include "actors/sinks/event_policy.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

namespace troupe::actors {

/// Who waits for a sink. `async` with `raise` is waited for as well: its error has to go somewhere.
enum class sink_mode : uint8_t { sync, async, best_effort };

/// What becomes of a sink's failure. `raise`: the operation that the event is of fails.
enum class sink_on_error : uint8_t { raise, log, ignore };

struct sink_settings {
  sink_mode mode = sink_mode::sync;
  sink_on_error on_error = sink_on_error::raise;
  event_policy policy = {};
  size_t queue_limit = 1024; ///< events waiting for it; more are dropped and counted
};

/// What the sinks of a node share.
struct sink_context {
  event_policies policies;
  /// Tells the operator; from any thread.
  std::function<void(const error&)> log;
};

/// Takes events, one at a time, on a thread that may block.
class event_sink {
public:
  explicit event_sink(sink_settings settings) : settings_(settings) {}
  virtual ~event_sink() = default;
  event_sink(const event_sink&) = delete;
  event_sink& operator=(const event_sink&) = delete;

  virtual std::string_view type() const = 0;

  /// Hands the event on. A failure is an error only if `on_error` is `raise`; it names the sink's
  /// type and the event. Of failures in a row the first is logged.
  result<void> deliver(const event& x, const sink_context& context);

  const sink_settings& settings() const {
    return settings_;
  }
  /// Whether an operation waits for it.
  bool awaited() const;

  uint64_t delivered() const {
    return delivered_;
  }
  uint64_t failed() const {
    return failed_;
  }

  /// As much of each stream of a command's output as it would look at.
  virtual size_t output_bytes(const event_policies& policies) const;

protected:
  virtual result<void> take(const event& x, const sink_context& context) = 0;

  event_policy policy_for(const event& x, const sink_context& context) const {
    return context.policies.effective(x.operation, settings_.policy);
  }

private:
  sink_settings settings_;
  std::atomic<uint64_t> delivered_{0};
  std::atomic<uint64_t> failed_{0};
  bool failing_ = false;
};

} // namespace troupe::actors
