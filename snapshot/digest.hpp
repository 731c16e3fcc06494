#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct SHA256state_st;

namespace troupe::snapshot {

using digest_bytes = std::array<unsigned char, 32>;

/// A running SHA-256.
class sha256 {
public:
  sha256();

  void update(const void* data, size_t size);
  void update(std::string_view text) {
    update(text.data(), text.size());
  }

  /// The same bytes for two digests. Where the processor has instructions for SHA-256 and both are
  /// equally far into a block of 64 bytes, this takes little longer than for one.
  static void update_both(sha256& one, sha256& other, const void* data, size_t size);

  /// The digest of all since the last `finish`; starts over.
  digest_bytes finish();

private:
  struct state_free {
    void operator()(SHA256state_st* x) const;
  };
  std::unique_ptr<SHA256state_st, state_free> state_;
};

/// Lower-case hexadecimal.
std::string to_hex(const digest_bytes& digest);

} // namespace troupe::snapshot
