#include "snapshot/digest.hpp"

#include <openssl/evp.h>

#include <new>

namespace troupe::snapshot {

namespace {

// Looking the algorithm up costs more than hashing a small file, so it happens once.
const EVP_MD* algorithm() {
  static const EVP_MD* md = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return md;
}

/// OpenSSL's digests fail only for want of memory.
void check(int ok) {
  if (ok != 1)
    throw std::bad_alloc{};
}

} // namespace

void sha256::context_free::operator()(evp_md_ctx_st* x) const {
  EVP_MD_CTX_free(x);
}

sha256::sha256() : context_(EVP_MD_CTX_new()) {
  check(context_ != nullptr && EVP_DigestInit_ex2(context_.get(), algorithm(), nullptr) == 1);
}

void sha256::update(const void* data, size_t size) {
  check(EVP_DigestUpdate(context_.get(), data, size));
}

digest_bytes sha256::finish() {
  digest_bytes digest;
  check(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr));
  check(EVP_DigestInit_ex2(context_.get(), nullptr, nullptr));
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
