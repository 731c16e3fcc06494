#include "snapshot/zip_directory.hpp"

#include "snapshot/byte_source.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr std::string_view end_magic = "PK\5\6";
constexpr std::string_view end64_magic = "PK\6\6";
constexpr std::string_view locator64_magic = "PK\6\7";
constexpr std::string_view record_magic = "PK\1\2";
constexpr size_t end_size = 22;
constexpr size_t end64_size = 56;
constexpr size_t locator64_size = 20;
constexpr size_t record_size = 46;
constexpr size_t max_comment = 65535;

struct directory_place {
  zip_extent extent;
  uint64_t begin = 0; ///< in the file
  uint64_t end = 0;
};

error not_a_zip() {
  return damaged("not a zip archive");
}

/// The last thing in the file that looks like an end record, as everyone else finds it.
result<uint64_t> find_end(int fd) {
  struct stat st;
  if (::fstat(fd, &st) != 0)
    return unexpected(damaged(std::strerror(errno)));
  auto size = static_cast<uint64_t>(st.st_size);
  if (size < end_size)
    return unexpected(not_a_zip());
  std::string tail(std::min<uint64_t>(size, end_size + max_comment), '\0');
  if (auto ok = read_exactly(fd, size - tail.size(), tail.data(), tail.size()); !ok)
    return unexpected(std::move(ok.error()));
  auto at = tail.rfind(end_magic, tail.size() - end_size);
  if (at == tail.npos)
    return unexpected(not_a_zip());
  return size - tail.size() + at;
}

result<directory_place> find_directory(int fd) {
  auto at = find_end(fd);
  if (!at)
    return unexpected(std::move(at.error()));
  char end[end_size];
  if (auto ok = read_exactly(fd, *at, end, sizeof end); !ok)
    return unexpected(std::move(ok.error()));
  uint64_t disks = little_endian(end + 4, 4);
  uint64_t size = little_endian(end + 12, 4);
  uint64_t offset = little_endian(end + 16, 4);
  directory_place place;
  place.extent.end = *at + end_size;
  place.end = *at;
  char extra[end64_size + locator64_size];
  if (*at >= sizeof extra) {
    if (auto ok = read_exactly(fd, *at - sizeof extra, extra, sizeof extra); !ok)
      return unexpected(std::move(ok.error()));
    if (std::string_view{extra + end64_size, 4} == locator64_magic) {
      if (std::string_view{extra, 4} != end64_magic)
        return unexpected(not_a_zip());
      disks = little_endian(extra + 16, 8);
      size = little_endian(extra + 40, 8);
      offset = little_endian(extra + 48, 8);
      place.end -= sizeof extra;
    }
  }
  if (disks != 0 || size > place.end || offset > place.end - size)
    return unexpected(not_a_zip());
  place.begin = place.end - size;
  place.extent.begin = place.begin - offset;
  return place;
}

/// Takes what did not fit into 32 bits from the zip64 field, if there is one.
result<void> apply_zip64(std::string_view fields, zip_record& x) {
  constexpr uint64_t elsewhere = 0xffffffff;
  while (fields.size() >= 4) {
    auto id = little_endian(fields.data(), 2);
    auto size = little_endian(fields.data() + 2, 2);
    fields.remove_prefix(4);
    if (size > fields.size())
      return unexpected(damaged("malformed extra field"));
    auto field = fields.substr(0, size);
    fields.remove_prefix(size);
    if (id != 1)
      continue;
    for (auto* value : {&x.member.size, &x.packed_size, &x.offset}) {
      if (*value != elsewhere)
        continue;
      if (field.size() < 8)
        return unexpected(damaged("malformed extra field"));
      *value = little_endian(field.data(), 8);
      field.remove_prefix(8);
    }
  }
  return {};
}

result<zip_record> parse_record(const char* header, std::string_view name,
                                std::string_view fields) {
  constexpr uint64_t encrypted = 1;
  constexpr uint64_t link_type = 0120000;
  constexpr uint64_t type_bits = 0170000;
  if (little_endian(header + 8, 2) & encrypted)
    return unexpected(damaged("encrypted member"));
  zip_record x;
  x.method = static_cast<uint16_t>(little_endian(header + 10, 2));
  x.packed_size = little_endian(header + 20, 4);
  x.member.size = little_endian(header + 24, 4);
  x.offset = little_endian(header + 42, 4);
  if (auto ok = apply_zip64(fields, x); !ok)
    return unexpected(std::move(ok.error()));
  x.member.name = name.substr(0, name.find('\0')); // as all readers do
  auto mode = little_endian(header + 40, 2);
  x.member.mode = mode & 07777;
  constexpr uint64_t file_type = 0100000;
  constexpr uint64_t dos_directory = 0x10;
  auto type = mode & type_bits;
  const auto& own = x.member.name;
  bool is_root = own.empty() || own == "." || own == "./"; // passed over, whatever it is
  x.member.kind = is_root || (type != link_type && own.ends_with('/')) ? member_kind::directory
                  : type == link_type                                  ? member_kind::symlink
                                                                       : member_kind::file;
  x.is_mislabelled
    = x.member.kind == member_kind::file
      && ((type != 0 && type != file_type) || (little_endian(header + 38, 2) & dos_directory) != 0);
  return x;
}

} // namespace

result<zip_extent> read_zip_directory(int fd,
                                      const std::function<result<void>(zip_record)>& visit) {
  auto place = find_directory(fd);
  if (!place)
    return unexpected(std::move(place.error()));
  std::string rest;
  for (auto at = place->begin; at < place->end;) {
    const auto place_of_record = at;
    char header[record_size];
    if (place->end - at < sizeof header)
      return unexpected(damaged("cut central directory"));
    if (auto ok = read_exactly(fd, at, header, sizeof header); !ok)
      return unexpected(std::move(ok.error()));
    auto name_size = little_endian(header + 28, 2);
    auto fields_size = little_endian(header + 30, 2);
    auto size = name_size + fields_size + little_endian(header + 32, 2);
    at += sizeof header;
    if (std::string_view{header, 4} != record_magic || size > place->end - at)
      return unexpected(damaged("malformed central directory"));
    rest.resize(name_size + fields_size);
    if (auto ok = read_exactly(fd, at, rest.data(), rest.size()); !ok)
      return unexpected(std::move(ok.error()));
    at += size;
    std::string_view both = rest;
    auto ok = parse_record(header, both.substr(0, name_size), both.substr(name_size))
                .and_then([&](zip_record x) {
                  x.place = place_of_record;
                  return visit(std::move(x));
                });
    if (!ok)
      return unexpected(std::move(ok.error()));
  }
  return place->extent;
}

result<void> read_exactly(int fd, uint64_t offset, char* data, size_t size) {
  while (size > 0) {
    auto n = ::pread(fd, data, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return unexpected(damaged(n < 0 ? std::strerror(errno) : "cut zip archive"));
    data += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
  return {};
}

uint64_t little_endian(const char* data, size_t size) {
  uint64_t value = 0;
  while (size-- > 0)
    value = value << 8 | static_cast<unsigned char>(data[size]);
  return value;
}

} // namespace troupe::snapshot
