#pragma once

#include "actors/sinks/event_sink.hpp"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

namespace troupe::actors {

using event_ptr = std::shared_ptr<const event>;

/// Runs a job on another thread, soon; false: there is no room for it.
using sink_executor = std::function<bool(std::function<void()>)>;

/// What became of an event; called once.
using event_done = std::function<void(result<void>)>;

/// Counts of one sink, for an operator.
struct sink_stats {
  std::string_view type;
  uint64_t delivered = 0;
  uint64_t failed = 0;
  uint64_t dropped = 0;
  size_t queued = 0;
};

/// The queue of one sink and the job that empties it, in order. At most one job runs at a time, so
/// a sink that hangs holds one thread.
class sink_lane : public std::enable_shared_from_this<sink_lane> {
public:
  sink_lane(std::unique_ptr<event_sink> sink, std::shared_ptr<const sink_context> context,
            sink_executor run);

  /// `done` may be empty; it is called on the job's thread, or before this returns if the event is
  /// dropped: then with `overloaded` where failures raise.
  void push(event_ptr x, event_done done);

  /// Waits until nothing is queued or handled; false at the deadline.
  bool wait_idle(std::chrono::steady_clock::time_point deadline);

  /// Drops what is queued and what comes.
  void close();

  const event_sink& sink() const {
    return *sink_;
  }
  sink_stats stats() const;

private:
  struct item {
    event_ptr what;
    event_done done;
  };

  bool submit();
  void work();
  /// False when there was nothing.
  bool serve_next();
  void drop(const item& x);
  /// Takes everything that waits; nothing runs any more then, so who waits is woken.
  std::deque<item> take_all();

  std::unique_ptr<event_sink> sink_;
  std::shared_ptr<const sink_context> context_;
  sink_executor run_;
  std::atomic<uint64_t> dropped_{0};
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::deque<item> queue_;
  size_t bytes_ = 0;     ///< of what is queued
  bool working_ = false; ///< a job runs or is about to
  bool closed_ = false;
};

} // namespace troupe::actors
