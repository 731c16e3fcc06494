#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::snapshot::test {

/// A member of a zip, as an attacker would write it. Not compressed, whatever it says.
struct zip_member {
  std::string name;
  std::string content;
  uint32_t mode = 0100644;
  uint32_t method = 0;
  uint32_t flags = 0;
  std::optional<uint32_t> size = {};     ///< declared
  std::optional<uint32_t> checksum = {}; ///< declared
  std::optional<uint32_t> offset = {};   ///< of the local header, as the directory says it
  std::optional<std::string> local_name = {};
};

inline uint32_t crc32(std::string_view data) {
  uint32_t crc = 0xffffffff;
  for (unsigned char c : data) {
    crc ^= c;
    for (int i = 0; i < 8; ++i)
      crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}

inline std::string little(uint64_t value, int size) {
  std::string bytes;
  for (; size > 0; --size, value >>= 8)
    bytes += static_cast<char>(value & 0xff);
  return bytes;
}

inline std::string zip_of(const std::vector<zip_member>& members, std::string_view comment = {}) {
  std::string bytes;
  std::string directory;
  for (const auto& x : members) {
    auto packed = static_cast<uint32_t>(x.content.size());
    auto name = x.local_name.value_or(x.name);
    auto common = little(20, 2) + little(x.flags, 2) + little(x.method, 2) + little(0, 4)
                  + little(x.checksum.value_or(crc32(x.content)), 4) + little(packed, 4)
                  + little(x.size.value_or(packed), 4);
    directory += "PK\1\2" + little(3 << 8 | 20, 2) + common + little(x.name.size(), 2)
                 + little(0, 8) + little(uint64_t{x.mode} << 16, 4)
                 + little(x.offset.value_or(static_cast<uint32_t>(bytes.size())), 4) + x.name;
    bytes += "PK\3\4" + common + little(name.size(), 2) + little(0, 2) + name + x.content;
  }
  auto count = little(members.size(), 2);
  return bytes + directory + "PK\5\6" + little(0, 4) + count + count + little(directory.size(), 4)
         + little(bytes.size(), 4) + little(comment.size(), 2) + std::string{comment};
}

} // namespace troupe::snapshot::test
