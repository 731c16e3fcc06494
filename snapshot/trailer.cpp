#include "snapshot/trailer.hpp"

#include "messages/json.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/digest.hpp"
#include "snapshot/zstd_stream.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr std::string_view frame_magic{"\x57\x2a\x4d\x18", 4}; // one of zstd's skippable frames
constexpr std::string_view mark = "troupesn";
constexpr size_t head_size = 8; // of a skippable frame: magic and size
constexpr size_t tail_size = sizeof(digest_bytes) + sizeof(uint32_t) + mark.size();
constexpr uint32_t max_json_size = 1024 * 1024;

std::string little_endian(uint32_t x) {
  std::string bytes;
  for (int i = 0; i < 4; ++i)
    bytes += static_cast<char>((x >> (8 * i)) & 0xFF);
  return bytes;
}

uint32_t from_little_endian(const char* bytes) {
  uint32_t x = 0;
  for (int i = 3; i >= 0; --i)
    x = (x << 8) | static_cast<unsigned char>(bytes[i]);
  return x;
}

/// Exactly `size` bytes from `offset`; false if there are fewer.
bool read_at(int fd, char* data, size_t size, uint64_t offset) {
  while (size > 0) {
    auto n = ::pread(fd, data, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    data += n;
    size -= static_cast<size_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return true;
}

std::string digest_of(std::string_view text) {
  sha256 hash;
  hash.update(text);
  auto digest = hash.finish();
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

json to_json(const trailer& x) {
  return json{{"format", trailer_format},
              {"session_id", x.info.session_id},
              {"tenant", x.info.tenant},
              {"created_at_ms", x.info.created_at_ms},
              {"files", x.info.files},
              {"size_bytes", x.info.size_bytes},
              {"tree", x.tree},
              {"fingerprint", x.fingerprint},
              {"fingerprint_version", x.fingerprint_version}};
}

result<void> from_json(std::string_view text, trailer& x) {
  auto value = parse_json(text);
  if (!value)
    return unexpected(damaged("snapshot metadata does not parse"));
  try {
    if (value->at("format").get<int>() != trailer_format)
      return unexpected(damaged("snapshot format is not supported"));
    value->at("session_id").get_to(x.info.session_id);
    value->at("tenant").get_to(x.info.tenant);
    value->at("created_at_ms").get_to(x.info.created_at_ms);
    value->at("files").get_to(x.info.files);
    value->at("size_bytes").get_to(x.info.size_bytes);
    value->at("tree").get_to(x.tree);
    value->at("fingerprint").get_to(x.fingerprint);
    value->at("fingerprint_version").get_to(x.fingerprint_version);
  } catch (const std::exception&) {
    return unexpected(damaged("snapshot metadata does not parse"));
  }
  return {};
}

} // namespace

std::string encode_trailer(const trailer& x) {
  auto text = dump_json(to_json(x));
  auto json_size = static_cast<uint32_t>(text.size());
  std::string bytes{frame_magic};
  bytes += little_endian(json_size + static_cast<uint32_t>(tail_size));
  bytes += text;
  bytes += digest_of(text);
  bytes += little_endian(json_size);
  bytes += mark;
  return bytes;
}

result<std::optional<trailer>> read_trailer(int fd) {
  char magic[zstd_magic.size()];
  struct stat st;
  if (::fstat(fd, &st) != 0)
    return unexpected(damaged(std::strerror(errno)));
  if (!read_at(fd, magic, sizeof magic, 0) || std::string_view{magic, sizeof magic} != zstd_magic)
    return std::nullopt;
  auto file_size = static_cast<uint64_t>(st.st_size);
  char tail[tail_size];
  if (file_size < head_size + tail_size || !read_at(fd, tail, tail_size, file_size - tail_size))
    return unexpected(damaged("snapshot is cut"));
  const char* after_digest = tail + sizeof(digest_bytes);
  auto json_size = from_little_endian(after_digest);
  if (std::string_view{after_digest + sizeof(uint32_t), mark.size()} != mark
      || json_size > max_json_size || json_size + head_size + tail_size > file_size)
    return unexpected(damaged("snapshot is cut"));
  trailer x;
  x.tar_size = file_size - tail_size - json_size - head_size;
  std::string head(head_size + json_size, '\0');
  if (!read_at(fd, head.data(), head.size(), x.tar_size))
    return unexpected(damaged("snapshot is cut"));
  auto text = std::string_view{head}.substr(head_size);
  if (!head.starts_with(frame_magic)
      || from_little_endian(head.data() + frame_magic.size()) != json_size + tail_size
      || digest_of(text) != std::string_view{tail, sizeof(digest_bytes)})
    return unexpected(damaged("snapshot metadata is damaged"));
  if (auto ok = from_json(text, x); !ok)
    return unexpected(std::move(ok.error()));
  return x;
}

} // namespace troupe::snapshot
