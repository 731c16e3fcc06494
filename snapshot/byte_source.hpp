#pragma once

#include "messages/error.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>

namespace troupe::snapshot {

/// Gives the bytes of a stream in order. Errors are `damaged(...)` or a failed read.
class byte_source {
public:
  virtual ~byte_source() = default;

  /// The next bytes, valid until the next call; empty at the end. A source that decodes fails, and
  /// does not end, where its input is cut or its checksum is wrong.
  virtual result<std::string_view> next() = 0;
};

/// The error of an archive that cannot be trusted, for those who know which one it is to refine.
error damaged(std::string_view reason);

/// Reads a descriptor.
class file_source final : public byte_source {
public:
  /// Ends after `limit` bytes.
  explicit file_source(int fd, uint64_t limit = std::numeric_limits<uint64_t>::max());

  result<std::string_view> next() override;

private:
  int fd_;
  uint64_t left_;
  size_t capacity_;
  std::unique_ptr<char[]> buffer_;
};

/// The tar inside `input`: decoded if it is compressed with gzip, bzip2, xz or zstd.
result<std::unique_ptr<byte_source>> decoded(byte_source& input);

} // namespace troupe::snapshot
