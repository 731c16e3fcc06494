#include "snapshot/digest.hpp"

#include "snapshot/sha256_pair.hpp"

// OpenSSL's older interface shows the state that two digests share their work through.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <algorithm>

namespace troupe::snapshot {

namespace {

constexpr size_t block = SHA256_CBLOCK;

void add_length(SHA256_CTX& state, uint64_t bytes) {
  auto bits = ((uint64_t{state.Nh} << 32) | state.Nl) + 8 * bytes;
  state.Nl = static_cast<SHA_LONG>(bits);
  state.Nh = static_cast<SHA_LONG>(bits >> 32);
}

} // namespace

void sha256::state_free::operator()(SHA256state_st* x) const {
  delete x;
}

sha256::sha256() : state_(new SHA256_CTX) {
  SHA256_Init(state_.get());
}

void sha256::update(const void* data, size_t size) {
  SHA256_Update(state_.get(), data, size);
}

void sha256::update_both(sha256& one, sha256& other, const void* data, size_t size) {
  const auto* at = static_cast<const unsigned char*>(data);
  auto both = [&](size_t n) {
    one.update(at, n);
    other.update(at, n);
    at += n;
    size -= n;
  };
  auto& a = *one.state_;
  auto& b = *other.state_;
  if (has_sha256_pair() && a.num == b.num) {
    both(std::min<size_t>(size, (block - a.num) % block));
    if (auto blocks = size / block; blocks > 0) {
      compress_sha256_pair(a.h, b.h, at, blocks);
      add_length(a, blocks * block);
      add_length(b, blocks * block);
      at += blocks * block;
      size -= blocks * block;
    }
  }
  both(size);
}

digest_bytes sha256::finish() {
  digest_bytes digest;
  SHA256_Final(digest.data(), state_.get());
  SHA256_Init(state_.get());
  return digest;
}

std::string to_hex(const digest_bytes& digest) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * digest.size());
  for (auto byte : digest) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

} // namespace troupe::snapshot
