#pragma once

#include "snapshot/byte_source.hpp"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace troupe::snapshot {

/// Reads another source ahead on a thread of its own, some buffers of 256 KiB at most.
class prefetch_source final : public byte_source {
public:
  explicit prefetch_source(std::unique_ptr<byte_source> input);
  ~prefetch_source() override;

  result<std::string_view> next() override;

private:
  static constexpr size_t slots = 8;

  struct slot {
    std::vector<char> bytes;
    std::optional<error> failure;
  };

  void run();

  std::unique_ptr<byte_source> input_;
  std::mutex mutex_;
  std::condition_variable changed_;
  slot ring_[slots];
  size_t read_ = 0;    ///< slots that were given
  size_t written_ = 0; ///< slots that were filled
  bool held_ = false;  ///< the caller still looks at the last one
  bool stop_ = false;
  std::thread thread_;
};

} // namespace troupe::snapshot
