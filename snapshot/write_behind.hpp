#pragma once

#include "snapshot/tar_writer.hpp"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace troupe::snapshot {

/// Gives bytes to a sink on a thread of its own, some writes later at most.
class write_behind {
public:
  explicit write_behind(byte_sink sink);
  /// Drops what has not been written.
  ~write_behind();
  write_behind(const write_behind&) = delete;
  write_behind& operator=(const write_behind&) = delete;

  /// Copies them. The error may be that of an earlier write.
  result<void> write(const char* data, size_t size);

  /// Waits until the sink has taken everything, and leaves it alone from then on.
  result<void> finish();

private:
  static constexpr size_t slots = 4;

  void run();

  byte_sink sink_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<char> ring_[slots];
  size_t given_ = 0;
  size_t taken_ = 0;
  std::optional<error> failure_;
  bool stop_ = false;
  std::thread thread_;
};

} // namespace troupe::snapshot
