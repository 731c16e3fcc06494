#include "backends/terminal.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace troupe::backends {

// -- output_ring ---------------------------------------------------------------------------------

output_ring::output_ring(size_t capacity) : capacity_(std::max<size_t>(capacity, 1)) {}

void output_ring::append(std::string_view bytes) {
  if (bytes.size() > capacity_) {
    auto skipped = bytes.size() - capacity_;
    // What is skipped would have been overwritten, but its room must exist by then.
    kept_.resize(std::min<uint64_t>(end_ + skipped, capacity_));
    end_ += skipped;
    bytes.remove_prefix(skipped);
  }
  while (!bytes.empty()) {
    auto at = static_cast<size_t>(end_ % capacity_);
    auto size = std::min(bytes.size(), capacity_ - at);
    kept_.resize(std::max(kept_.size(), at + size));
    bytes.copy(kept_.data() + at, size);
    end_ += size;
    bytes.remove_prefix(size);
  }
}

output_ring::piece output_ring::read_from(uint64_t cursor, size_t max) const {
  auto from = std::clamp(cursor, begin(), end_);
  auto left = static_cast<size_t>(std::min<uint64_t>(end_ - from, max));
  piece out;
  out.lost = from - std::min(cursor, from);
  out.next = from + left;
  out.bytes.reserve(left);
  while (left > 0) {
    auto at = static_cast<size_t>(from % capacity_);
    auto size = std::min(left, capacity_ - at);
    out.bytes.append(kept_, at, size);
    from += size;
    left -= size;
  }
  return out;
}

// -- input_queue ---------------------------------------------------------------------------------

input_queue::input_queue(size_t capacity) : capacity_(capacity) {}

void input_queue::push(std::string bytes, callback done) {
  write x{std::move(bytes), std::move(done)};
  if (queued_ + cost(x) > capacity_) {
    x.done(unexpected{
      make_error(errc::overloaded, op::exec, "the terminal has more input waiting than it may have")
        .with("limit", static_cast<int64_t>(capacity_))});
    return;
  }
  queued_ += cost(x);
  writes_.push_back(std::move(x));
}

void input_queue::write_to(int fd) {
  while (!writes_.empty()) {
    const auto& bytes = writes_.front().bytes;
    auto n = bytes.empty() ? 0 : ::write(fd, bytes.data() + written_, bytes.size() - written_);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0) {
      clear();
      return;
    }
    written_ += static_cast<size_t>(n);
    if (written_ == bytes.size())
      finish_first();
  }
}

void input_queue::clear() {
  while (!writes_.empty())
    finish_first();
}

void input_queue::finish_first() {
  auto first = std::move(writes_.front());
  writes_.pop_front();
  queued_ -= cost(first);
  written_ = 0;
  first.done({});
}

} // namespace troupe::backends
