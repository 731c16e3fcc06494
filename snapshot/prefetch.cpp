#include "snapshot/prefetch.hpp"

#include <utility>

namespace troupe::snapshot {

prefetch_source::prefetch_source(std::unique_ptr<byte_source> input)
  : input_(std::move(input)), thread_([this] { run(); }) {}

prefetch_source::~prefetch_source() {
  {
    std::lock_guard lock{mutex_};
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void prefetch_source::run() {
  for (bool more = true; more;) {
    auto chunk = input_->next();
    more = chunk && !chunk->empty();
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return stop_ || written_ - read_ < slots; });
    if (stop_)
      return;
    auto& x = ring_[written_ % slots];
    lock.unlock(); // the slot is this thread's until it counts as written
    if (chunk)
      x.bytes.assign(chunk->begin(), chunk->end());
    else
      x.failure = std::move(chunk.error());
    lock.lock();
    ++written_;
    changed_.notify_all();
  }
}

result<std::string_view> prefetch_source::next() {
  std::unique_lock lock{mutex_};
  if (std::exchange(held_, false)) {
    ++read_;
    changed_.notify_all();
  }
  changed_.wait(lock, [&] { return written_ > read_; });
  auto& x = ring_[read_ % slots];
  if (x.failure)
    return unexpected(*x.failure);
  // The end stays the last one, however often it is asked for.
  held_ = !x.bytes.empty();
  return std::string_view{x.bytes.data(), x.bytes.size()};
}

} // namespace troupe::snapshot
