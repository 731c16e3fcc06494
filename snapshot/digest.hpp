#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

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

  /// The digest of all since the last `finish`; starts over.
  digest_bytes finish();

private:
  struct context_free {
    void operator()(evp_md_ctx_st* x) const;
  };
  std::unique_ptr<evp_md_ctx_st, context_free> context_;
};

/// Lower-case hexadecimal.
std::string to_hex(const digest_bytes& digest);

} // namespace troupe::snapshot
