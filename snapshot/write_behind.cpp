#include "snapshot/write_behind.hpp"

#include <utility>

namespace troupe::snapshot {

write_behind::write_behind(byte_sink sink) : sink_(std::move(sink)), thread_([this] { run(); }) {}

write_behind::~write_behind() {
  {
    std::lock_guard lock{mutex_};
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

result<void> write_behind::write(const char* data, size_t size) {
  std::unique_lock lock{mutex_};
  changed_.wait(lock, [&] { return failure_ || given_ - taken_ < slots; });
  if (failure_)
    return unexpected(*failure_);
  auto& x = ring_[given_ % slots];
  lock.unlock(); // the slot is this thread's until it counts as given
  x.assign(data, data + size);
  lock.lock();
  ++given_;
  changed_.notify_all();
  return {};
}

result<void> write_behind::finish() {
  std::unique_lock lock{mutex_};
  changed_.wait(lock, [&] { return failure_ || given_ == taken_; });
  if (failure_)
    return unexpected(*failure_);
  return {};
}

void write_behind::run() {
  std::unique_lock lock{mutex_};
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || taken_ < given_; });
    if (stop_)
      return;
    auto& x = ring_[taken_ % slots];
    lock.unlock();
    auto ok = sink_(x.data(), x.size());
    lock.lock();
    ++taken_;
    if (!ok)
      failure_ = std::move(ok.error());
    changed_.notify_all();
    if (failure_)
      return;
  }
}

} // namespace troupe::snapshot
