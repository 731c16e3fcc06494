#include "actors/sinks/sink_lane.hpp"

namespace troupe::actors {

namespace {

/// Of what is queued. A command's text alone may be 2 MiB.
constexpr size_t bytes_limit = 16 * 1024 * 1024;

/// Events before the job goes to the end of its pool's queue.
constexpr int turn = 16;

size_t size_of(const event& x) {
  auto output = x.output ? x.output->stdout_data.size() + x.output->stderr_data.size() : 0;
  return sizeof x + x.data.size() + output
         + (x.failure ? x.failure->message.size() + x.failure->context.size() : 0);
}

} // namespace

sink_lane::sink_lane(std::unique_ptr<event_sink> sink, std::shared_ptr<const sink_context> context,
                     sink_executor run)
  : sink_(std::move(sink)), context_(std::move(context)), run_(std::move(run)) {}

void sink_lane::push(event_ptr x, event_done done) {
  auto size = size_of(*x);
  item next{std::move(x), std::move(done)};
  bool idle = false;
  {
    std::lock_guard lock{mutex_};
    bool full = queue_.size() >= sink_->settings().queue_limit
                || (!queue_.empty() && bytes_ + size > bytes_limit);
    if (!full && !closed_) {
      queue_.push_back(std::move(next));
      bytes_ += size;
      idle = !std::exchange(working_, true);
    }
  }
  if (next.what) {
    drop(next);
    return;
  }
  if (!idle || submit())
    return;
  for (const auto& refused : take_all())
    drop(refused);
}

bool sink_lane::submit() {
  return run_([self = shared_from_this()] { self->work(); });
}

void sink_lane::work() {
  do {
    for (int i = 0; i < turn; ++i)
      if (!serve_next())
        return;
  } while (!submit());
}

bool sink_lane::serve_next() {
  item next;
  {
    std::lock_guard lock{mutex_};
    if (queue_.empty()) {
      working_ = false;
      idle_.notify_all();
      return false;
    }
    next = std::move(queue_.front());
    queue_.pop_front();
    bytes_ -= size_of(*next.what);
  }
  auto outcome = sink_->deliver(*next.what, *context_);
  if (next.done)
    next.done(std::move(outcome));
  return true;
}

void sink_lane::drop(const item& x) {
  ++dropped_;
  if (!x.done)
    return;
  result<void> outcome;
  if (sink_->settings().on_error == sink_on_error::raise)
    outcome
      = unexpected(make_error(errc::overloaded, x.what->operation,
                              "event sink " + std::string{sink_->type()}
                                + " has too many events waiting; dropped " + x.what->event_id));
  x.done(std::move(outcome));
}

std::deque<sink_lane::item> sink_lane::take_all() {
  std::lock_guard lock{mutex_};
  working_ = false;
  idle_.notify_all();
  bytes_ = 0;
  return std::exchange(queue_, {});
}

bool sink_lane::wait_idle(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock{mutex_};
  return idle_.wait_until(lock, deadline, [this] { return !working_; });
}

void sink_lane::close() {
  std::deque<item> left;
  {
    std::lock_guard lock{mutex_};
    closed_ = true;
    bytes_ = 0;
    left = std::exchange(queue_, {});
  }
  for (const auto& x : left)
    drop(x);
}

sink_stats sink_lane::stats() const {
  std::lock_guard lock{mutex_};
  return {sink_->type(), sink_->delivered(), sink_->failed(), dropped_, queue_.size()};
}

} // namespace troupe::actors
