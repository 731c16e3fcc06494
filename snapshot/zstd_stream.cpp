#include "snapshot/zstd_stream.hpp"

#include <zstd.h>

#include <new>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr int level = 1;
constexpr size_t small_input = 1024 * 1024;
constexpr size_t out_size = 256 * 1024;
constexpr int max_window_log = 27;

} // namespace

// -- contexts -------------------------------------------------------------------------------------

struct zstd_pool::context {
  context() : zstd(ZSTD_createCCtx()), out(std::make_unique_for_overwrite<char[]>(out_size)) {
    if (!zstd)
      throw std::bad_alloc{};
  }
  ~context() {
    ZSTD_freeCCtx(zstd);
  }
  context(const context&) = delete;
  context& operator=(const context&) = delete;

  ZSTD_CCtx* zstd;
  std::vector<char> head; ///< the input until it is known not to be small
  std::unique_ptr<char[]> out;
};

zstd_pool::zstd_pool(unsigned workers) : workers_(workers) {}

zstd_pool::~zstd_pool() = default;

std::unique_ptr<zstd_pool::context> zstd_pool::take() {
  {
    std::lock_guard guard{mutex_};
    if (!idle_.empty()) {
      auto x = std::move(idle_.back());
      idle_.pop_back();
      return x;
    }
  }
  return std::make_unique<context>();
}

void zstd_pool::give_back(std::unique_ptr<context> x) {
  ZSTD_CCtx_reset(x->zstd, ZSTD_reset_session_and_parameters);
  x->head.clear();
  std::lock_guard guard{mutex_};
  if (idle_.size() < max_idle)
    idle_.push_back(std::move(x));
}

// -- compression ----------------------------------------------------------------------------------

zstd_writer::zstd_writer(zstd_pool& pool, byte_sink sink)
  : pool_(pool), sink_(std::move(sink)), context_(pool.take()) {}

zstd_writer::~zstd_writer() {
  pool_.give_back(std::move(context_));
}

result<void> zstd_writer::write(const char* data, size_t size) {
  auto& head = context_->head;
  if (!streaming_) {
    if (head.size() + size < small_input) {
      head.insert(head.end(), data, data + size);
      return {};
    }
    start_frame(pool_.workers_);
    if (auto ok = compress(head.data(), head.size(), false); !ok)
      return ok;
  }
  return compress(data, size, false);
}

result<void> zstd_writer::finish() {
  if (streaming_)
    return compress(nullptr, 0, true);
  start_frame(0);
  const auto& head = context_->head;
  ZSTD_CCtx_setPledgedSrcSize(context_->zstd, head.size());
  return compress(head.data(), head.size(), true);
}

void zstd_writer::start_frame(unsigned workers) {
  streaming_ = true;
  auto* zstd = context_->zstd;
  ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
  // A zstd built without threads refuses this one and then compresses on this thread.
  ZSTD_CCtx_setParameter(zstd, ZSTD_c_nbWorkers, static_cast<int>(workers));
}

result<void> zstd_writer::compress(const char* data, size_t size, bool end) {
  ZSTD_inBuffer in{data, size, 0};
  for (;;) {
    ZSTD_outBuffer out{context_->out.get(), out_size, 0};
    auto left = ZSTD_compressStream2(context_->zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left))
      return unexpected(make_error(errc::internal, op::snapshot_persist,
                                   std::string{"zstd: "} + ZSTD_getErrorName(left)));
    if (out.pos > 0)
      if (auto ok = sink_(context_->out.get(), out.pos); !ok)
        return ok;
    if (end ? left == 0 : in.pos == in.size)
      return {};
  }
}

// -- decompression --------------------------------------------------------------------------------

/// Kept for the next source, unless it is large: touching fresh memory costs more than to
/// decompress a little.
struct zstd_source::context {
  context() : zstd(ZSTD_createDCtx()), out(std::make_unique_for_overwrite<char[]>(out_size)) {
    if (!zstd)
      throw std::bad_alloc{};
    ZSTD_DCtx_setParameter(zstd, ZSTD_d_windowLogMax, max_window_log);
  }
  ~context() {
    ZSTD_freeDCtx(zstd);
  }
  context(const context&) = delete;
  context& operator=(const context&) = delete;

  static std::unique_ptr<context> take() {
    {
      std::lock_guard guard{idle_mutex};
      if (!idle.empty()) {
        auto x = std::move(idle.back());
        idle.pop_back();
        return x;
      }
    }
    return std::make_unique<context>();
  }

  static void give_back(std::unique_ptr<context> x) {
    if (ZSTD_sizeof_DCtx(x->zstd) > max_idle_size)
      return;
    ZSTD_DCtx_reset(x->zstd, ZSTD_reset_session_only);
    std::lock_guard guard{idle_mutex};
    if (idle.size() < max_idle)
      idle.push_back(std::move(x));
  }

  ZSTD_DCtx* zstd;
  std::unique_ptr<char[]> out;

private:
  static constexpr size_t max_idle = 2;
  static constexpr size_t max_idle_size = 1024 * 1024;
  static inline std::mutex idle_mutex;
  static inline std::vector<std::unique_ptr<context>> idle;
};

zstd_source::zstd_source(std::unique_ptr<byte_source> input)
  : input_(std::move(input)), context_(context::take()) {}

zstd_source::~zstd_source() {
  context::give_back(std::move(context_));
}

std::optional<std::string> zstd_source::small(std::string_view packed, size_t limit) {
  auto size = ZSTD_getFrameContentSize(packed.data(), packed.size());
  if (size > limit) // or one of the errors
    return std::nullopt;
  std::string whole(size, '\0');
  auto with = context::take();
  auto got
    = ZSTD_decompressDCtx(with->zstd, whole.data(), whole.size(), packed.data(), packed.size());
  context::give_back(std::move(with));
  if (ZSTD_isError(got) || got != size)
    return std::nullopt;
  return whole;
}

result<std::string_view> zstd_source::next() {
  for (;;) {
    if (pending_.empty() && !out_full_) {
      auto chunk = input_->next();
      if (!chunk)
        return chunk;
      if (chunk->empty())
        return in_frame_ ? unexpected(damaged("cut zstd stream")) : chunk;
      pending_ = *chunk;
    }
    ZSTD_inBuffer in{pending_.data(), pending_.size(), 0};
    ZSTD_outBuffer out{context_->out.get(), out_size, 0};
    auto left = ZSTD_decompressStream(context_->zstd, &out, &in);
    if (ZSTD_isError(left))
      return unexpected(damaged(ZSTD_getErrorName(left)));
    pending_.remove_prefix(in.pos);
    in_frame_ = left != 0;
    out_full_ = in_frame_ && out.pos == out_size;
    if (out.pos > 0)
      return std::string_view{context_->out.get(), out.pos};
  }
}

} // namespace troupe::snapshot
