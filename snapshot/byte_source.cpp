#include "snapshot/byte_source.hpp"

#include "snapshot/zstd_stream.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t read_size = 256 * 1024;

/// Gives some bytes, then all of another source.
class prefixed_source final : public byte_source {
public:
  prefixed_source(std::string prefix, byte_source& rest)
    : prefix_(std::move(prefix)), rest_(rest) {}

  result<std::string_view> next() override {
    if (!std::exchange(started_, true) && !prefix_.empty())
      return std::string_view{prefix_};
    return rest_.next();
  }

private:
  std::string prefix_;
  byte_source& rest_;
  bool started_ = false;
};

/// Decodes gzip, bzip2 and xz through libarchive's filters.
class filtered_source final : public byte_source {
public:
  explicit filtered_source(std::unique_ptr<byte_source> input)
    : input_(std::move(input)), reader_(archive_read_new()) {
    archive_read_support_filter_gzip(reader_);
    archive_read_support_filter_bzip2(reader_);
    archive_read_support_filter_xz(reader_);
    archive_read_support_format_raw(reader_);
  }

  ~filtered_source() override {
    archive_read_free(reader_);
  }

  result<std::string_view> next() override {
    if (!std::exchange(opened_, true)) {
      archive_entry* ignored = nullptr;
      if (archive_read_open(reader_, this, nullptr, read, nullptr) != ARCHIVE_OK
          || archive_read_next_header(reader_, &ignored) != ARCHIVE_OK)
        return unexpected(failure());
    }
    for (;;) {
      const void* data = nullptr;
      size_t size = 0;
      la_int64_t offset = 0;
      auto status = archive_read_data_block(reader_, &data, &size, &offset);
      if (status == ARCHIVE_EOF)
        return std::string_view{};
      if (status != ARCHIVE_OK)
        return unexpected(failure());
      if (size > 0)
        return std::string_view{static_cast<const char*>(data), size};
    }
  }

private:
  static la_ssize_t read(archive* reader, void* self, const void** data) {
    auto& x = *static_cast<filtered_source*>(self);
    auto chunk = x.input_->next();
    if (!chunk) {
      x.input_failure_ = std::move(chunk.error());
      archive_set_error(reader, EIO, "cannot read");
      return -1;
    }
    *data = chunk->data();
    return static_cast<la_ssize_t>(chunk->size());
  }

  error failure() {
    if (input_failure_)
      return std::move(*input_failure_);
    const char* text = archive_error_string(reader_);
    return damaged(text ? text : "cannot decompress");
  }

  std::unique_ptr<byte_source> input_;
  archive* reader_;
  bool opened_ = false;
  std::optional<error> input_failure_;
};

} // namespace

error damaged(std::string_view reason) {
  return make_error(errc::snapshot_restore_error, op::snapshot_restore,
                    "failed to restore snapshot")
    .with("reason", reason);
}

file_source::file_source(int fd, uint64_t limit)
  : fd_(fd), left_(limit), capacity_(std::min<uint64_t>(limit, read_size)),
    buffer_(std::make_unique_for_overwrite<char[]>(capacity_)) {}

result<std::string_view> file_source::next() {
  for (;;) {
    auto n = ::read(fd_, buffer_.get(), std::min<uint64_t>(capacity_, left_));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return unexpected(damaged(std::strerror(errno)));
    left_ -= static_cast<uint64_t>(n);
    return std::string_view{buffer_.get(), static_cast<size_t>(n)};
  }
}

result<std::unique_ptr<byte_source>> decoded(byte_source& input) {
  constexpr std::string_view gzip{"\x1f\x8b", 2};
  constexpr std::string_view bzip2{"BZh", 3};
  constexpr std::string_view xz{"\xfd"
                                "7zXZ\0",
                                6};
  std::string head;
  while (head.size() < xz.size()) { // a pipe may give less at a time
    auto chunk = input.next();
    if (!chunk)
      return unexpected(std::move(chunk.error()));
    if (chunk->empty())
      break;
    head.append(*chunk);
  }
  bool filtered = head.starts_with(gzip) || head.starts_with(bzip2) || head.starts_with(xz);
  bool zstd = head.starts_with(zstd_magic);
  std::unique_ptr<byte_source> whole = std::make_unique<prefixed_source>(std::move(head), input);
  if (filtered)
    return std::make_unique<filtered_source>(std::move(whole));
  if (zstd)
    return std::make_unique<zstd_source>(std::move(whole));
  return whole;
}

} // namespace troupe::snapshot
