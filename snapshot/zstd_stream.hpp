#pragma once

#include "messages/error.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/tar_writer.hpp"

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct ZSTD_CCtx_s;

namespace troupe::snapshot {

/// How a zstd frame begins.
inline constexpr std::string_view zstd_magic{"\x28\xb5\x2f\xfd", 4};

/// Compression contexts kept for the next job, with their buffers and worker threads: touching
/// fresh memory costs more than compressing a small workspace. The threads end with the pool.
class zstd_pool {
public:
  explicit zstd_pool(unsigned workers);
  ~zstd_pool();

private:
  friend class zstd_writer;
  struct context;
  static constexpr size_t max_idle = 4;

  std::unique_ptr<context> take();
  void give_back(std::unique_ptr<context> x);

  unsigned workers_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<context>> idle_;
};

/// Compresses a stream into one frame with a content checksum. Less than `small_input` bytes are
/// compressed by the calling thread alone.
class zstd_writer {
public:
  zstd_writer(zstd_pool& pool, byte_sink sink);
  ~zstd_writer();
  zstd_writer(const zstd_writer&) = delete;
  zstd_writer& operator=(const zstd_writer&) = delete;

  result<void> write(const char* data, size_t size);

  /// Ends the frame.
  result<void> finish();

private:
  void start_frame(unsigned workers);
  result<void> compress(const char* data, size_t size, bool end);

  zstd_pool& pool_;
  byte_sink sink_;
  std::unique_ptr<zstd_pool::context> context_;
  bool streaming_ = false;
};

/// Decompresses zstd frames; skippable ones are passed over. Fails on a window above 128 MiB.
class zstd_source final : public byte_source {
public:
  explicit zstd_source(std::unique_ptr<byte_source> input);
  ~zstd_source() override;

  result<std::string_view> next() override;

  /// All of a single frame that says that it holds at most `limit` bytes; nullopt: it does not, or
  /// is damaged.
  static std::optional<std::string> small(std::string_view packed, size_t limit);

private:
  struct context;

  std::unique_ptr<byte_source> input_;
  std::unique_ptr<context> context_;
  std::string_view pending_;
  bool in_frame_ = false;
  bool out_full_ = false;
};

} // namespace troupe::snapshot
