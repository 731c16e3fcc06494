#include "workspace/manifest_json.hpp"

#include <openssl/evp.h>

namespace troupe::workspace {

std::string sha256_hex(std::string_view data) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(data.data(), data.size(), digest, &size, EVP_sha256(), nullptr);
  std::string out;
  for (unsigned i = 0; i < size; ++i) {
    out += "0123456789abcdef"[digest[i] >> 4];
    out += "0123456789abcdef"[digest[i] & 15];
  }
  return out;
}

std::string manifest_digest(const manifest& x) {
  const nlohmann::json sorted = dump_manifest(x);
  return sha256_hex(sorted.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

} // namespace troupe::workspace
