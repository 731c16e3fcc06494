#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>

namespace troupe::gateway {

/// The bytes of a connection that came and were not used yet. The space given by `prepare` stays
/// valid through `consume`, so that bytes can be used while a read is under way (Beast's
/// flat_buffer moves).
class receive_buffer {
public:
  struct space {
    char* data;
    size_t size;
  };

  const char* data() const {
    return data_.get() + begin_;
  }
  size_t size() const {
    return end_ - begin_;
  }
  bool empty() const {
    return begin_ == end_;
  }

  /// Room for up to about `want` bytes, a quarter of that at least. An empty buffer that grew for a
  /// large body gives its memory back here.
  space prepare(size_t want) {
    auto used = size();
    bool bloated = used == 0 && capacity_ > 2 * want;
    if (used == 0)
      begin_ = end_ = 0;
    if (bloated || capacity_ - used < want / 2)
      grow(used + want);
    else if (capacity_ - end_ < want / 4)
      std::memmove(data_.get(), data(), used);
    else
      return {data_.get() + end_, capacity_ - end_};
    begin_ = 0;
    end_ = used;
    return {data_.get() + end_, capacity_ - end_};
  }

  void commit(size_t n) {
    end_ += n;
  }
  void consume(size_t n) {
    begin_ += n;
  }
  void clear() {
    begin_ = end_;
  }

private:
  void grow(size_t capacity) {
    // Not value-initialised: clearing what a read overwrites costs as much as the read.
    std::unique_ptr<char[]> bigger(new char[capacity]);
    if (!empty())
      std::memcpy(bigger.get(), data(), size());
    data_ = std::move(bigger);
    capacity_ = capacity;
  }

  std::unique_ptr<char[]> data_;
  size_t capacity_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
};

} // namespace troupe::gateway
