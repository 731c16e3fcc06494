#pragma once

#include "messages/error.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

// What is kept of a terminal in each direction.

namespace troupe::backends {

/// The last bytes that a program put out, for readers that come when they like. A cursor counts
/// bytes from the program's first and never goes back, so that each reader has a place of its own
/// and learns what it missed. Takes memory as it fills. One thread.
class output_ring {
public:
  explicit output_ring(size_t capacity = 1024 * 1024);

  void append(std::string_view bytes);

  /// The cursor of the oldest byte that is still here.
  uint64_t begin() const {
    return end_ - kept_.size();
  }

  /// The cursor of the next byte to come: how many there ever were.
  uint64_t end() const {
    return end_;
  }

  struct piece {
    std::string bytes;
    uint64_t lost = 0; ///< bytes between the cursor and `bytes` that are gone
    uint64_t next = 0; ///< the cursor after `bytes`
  };

  /// At most `max` bytes from `cursor` on. A cursor beyond the end counts as the end.
  piece read_from(uint64_t cursor, size_t max) const;

private:
  size_t capacity_;
  std::string kept_; ///< byte `n` is at `n % capacity_`
  uint64_t end_ = 0;
};

/// Bytes on their way into a terminal, which takes no more than its program reads. One thread.
class input_queue {
public:
  using callback = std::function<void(result<void>)>;

  explicit input_queue(size_t capacity = 1024 * 1024);

  /// Queues `bytes`; `done` runs when the last of them was taken, or at once with `overloaded` if
  /// there is no room for all of them. Every write counts some bytes more than it has, so that a
  /// million of single bytes have no room either.
  void push(std::string bytes, callback done);

  /// Writes what the descriptor takes now. One that takes nothing any more, as its program has
  /// gone, takes everything.
  void write_to(int fd);

  /// Throws away what waits, and says that it was taken: there is nobody to read it.
  void clear();

  bool empty() const {
    return writes_.empty();
  }

private:
  struct write {
    std::string bytes;
    callback done;
  };

  static size_t cost(const write& x) {
    return x.bytes.size() + sizeof(write);
  }
  void finish_first();

  size_t capacity_;
  std::deque<write> writes_;
  size_t written_ = 0; ///< of the first
  size_t queued_ = 0;  ///< what all of them cost
};

} // namespace troupe::backends
