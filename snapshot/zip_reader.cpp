#include "snapshot/zip_reader.hpp"

#include "snapshot/byte_source.hpp"
#include "snapshot/c_locale.hpp"
#include "snapshot/zip_directory.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::snapshot {

namespace {

constexpr size_t read_size = 256 * 1024;
constexpr uint64_t label_end = 42; // where a record of the directory has told what it is
constexpr uint64_t max_lzma_dictionary = 64 * 1024 * 1024; // libarchive sets it no limit

/// What stands before the content of a member has to say the same as the central directory, and the
/// content has to end before `limit`.
result<void> check_local(int fd, const zip_extent& extent, const zip_record& x, uint64_t limit) {
  constexpr size_t header_size = 30;
  auto misplaced = [] { return unexpected(damaged("misplaced or overlapping member")); };
  if (x.offset > limit || limit - x.offset < header_size)
    return misplaced();
  char header[header_size];
  if (auto ok = read_exactly(fd, extent.begin + x.offset, header, sizeof header); !ok)
    return ok;
  std::string name(little_endian(header + 26, 2), '\0');
  auto before_content = header_size + name.size() + little_endian(header + 28, 2);
  if (limit - x.offset < before_content || limit - x.offset - before_content < x.packed_size)
    return misplaced();
  if (auto ok = read_exactly(fd, extent.begin + x.offset + header_size, name.data(), name.size());
      !ok)
    return ok;
  if (std::string_view{header, 4} != "PK\3\4" || name.substr(0, name.find('\0')) != x.member.name
      || little_endian(header + 8, 2) != x.method)
    return unexpected(damaged("the two headers of a member differ"));
  return {};
}

result<void> check_method(int fd, const zip_extent& extent, const zip_record& x) {
  constexpr uint16_t stored = 0;
  constexpr uint16_t deflate = 8;
  constexpr uint16_t bzip2 = 12;
  constexpr uint16_t lzma = 14;
  if (x.method == stored || x.method == deflate || x.method == bzip2)
    return {};
  if (x.method != lzma)
    return unexpected(damaged("unknown compression method"));
  char lengths[4];
  if (auto ok = read_exactly(fd, extent.begin + x.offset + 26, lengths, sizeof lengths); !ok)
    return ok;
  constexpr uint64_t dictionary_at = 30 + 5; // behind the header, versions and one property
  auto at = dictionary_at + little_endian(lengths, 2) + little_endian(lengths + 2, 2);
  char dictionary[4];
  if (auto ok = read_exactly(fd, extent.begin + x.offset + at, dictionary, sizeof dictionary); !ok)
    return ok;
  if (little_endian(dictionary, 4) > max_lzma_dictionary)
    return unexpected(damaged("LZMA dictionary too large"));
  return {};
}

} // namespace

struct zip_reader::impl {
  explicit impl(int archive) : fd(archive) {}

  int fd;
  zip_extent extent;
  std::vector<zip_record> records;     ///< by offset, the order in which libarchive gives them
  std::vector<zip_record> mislabelled; ///< by place
  size_t next = 0;
  archive* reader = nullptr;
  std::unique_ptr<char[]> buffer;
  uint64_t position = 0; ///< of libarchive, in the extent
  std::optional<error> input_failure;

  /// libarchive sees the extent only, so that it finds the same end record and the same offsets.
  static la_ssize_t read(archive* reader, void* self, const void** data) {
    auto& x = *static_cast<impl*>(self);
    auto size = std::min<uint64_t>(read_size, x.extent.end - x.extent.begin - x.position);
    if (auto ok = read_exactly(x.fd, x.extent.begin + x.position, x.buffer.get(), size); !ok) {
      x.input_failure = std::move(ok.error());
      archive_set_error(reader, EIO, "cannot read");
      return -1;
    }
    auto begin = x.extent.begin + x.position;
    auto first = std::ranges::lower_bound(x.mislabelled, begin - std::min(begin, label_end), {},
                                          &zip_record::place);
    for (; first != x.mislabelled.end() && first->place < begin + size; ++first)
      x.label(*first, size);
    x.position += size;
    *data = x.buffer.get();
    return static_cast<la_ssize_t>(size);
  }

  /// Says in what was just read of the record that it is a file: of nothing else does libarchive
  /// read the content.
  void label(const zip_record& record, size_t size) {
    constexpr char unix_system = 3;
    constexpr uint64_t file_type = 0100000;
    auto mode = file_type | record.member.mode;
    const std::pair<uint64_t, char> bytes[] = {{5, unix_system},
                                               {38, '\0'},
                                               {39, '\0'},
                                               {40, static_cast<char>(mode & 0xff)},
                                               {41, static_cast<char>(mode >> 8)}};
    for (auto [offset, value] : bytes)
      if (auto at = record.place + offset - extent.begin; at >= position && at - position < size)
        buffer[at - position] = value;
  }

  static la_int64_t seek(archive*, void* self, la_int64_t offset, int whence) {
    auto& x = *static_cast<impl*>(self);
    auto size = static_cast<la_int64_t>(x.extent.end - x.extent.begin);
    auto from = whence == SEEK_SET   ? 0
                : whence == SEEK_CUR ? static_cast<la_int64_t>(x.position)
                                     : size;
    x.position = static_cast<uint64_t>(std::clamp<la_int64_t>(from + offset, 0, size));
    return static_cast<la_int64_t>(x.position);
  }

  error failure() {
    if (input_failure)
      return std::move(*input_failure);
    const char* what = archive_error_string(reader);
    return damaged(what ? what : "invalid zip archive");
  }

  result<void> open() {
    auto found = read_zip_directory(fd, [this](zip_record x) -> result<void> {
      records.push_back(std::move(x));
      return {};
    });
    if (!found)
      return unexpected(std::move(found.error()));
    extent = *found;
    std::ranges::copy_if(records, std::back_inserter(mislabelled), &zip_record::is_mislabelled);
    std::ranges::sort(records, {}, &zip_record::offset);
    for (size_t i = 0; i < records.size(); ++i) {
      auto limit = i + 1 < records.size() ? records[i + 1].offset : extent.end - extent.begin;
      auto ok = check_local(fd, extent, records[i], limit).and_then([&] {
        return check_method(fd, extent, records[i]);
      });
      if (!ok)
        return ok;
    }
    if (records.empty()) // libarchive knows no empty zip
      return {};
    buffer = std::make_unique_for_overwrite<char[]>(read_size);
    reader = archive_read_new();
    archive_read_support_format_zip_seekable(reader);
    archive_read_set_callback_data(reader, this);
    archive_read_set_read_callback(reader, read);
    archive_read_set_seek_callback(reader, seek);
    if (archive_read_open1(reader) != ARCHIVE_OK)
      return unexpected(failure());
    return {};
  }
};

zip_reader::zip_reader(int fd) : impl_(std::make_unique<impl>(fd)) {}

zip_reader::~zip_reader() {
  if (impl_->reader)
    archive_read_free(impl_->reader);
}

result<bool> zip_reader::next(tar_member& member) {
  c_locale no_conversion;
  auto& x = *impl_;
  if (!x.buffer && x.records.empty())
    if (auto ok = x.open(); !ok)
      return unexpected(std::move(ok.error()));
  if (x.next == x.records.size())
    return false;
  archive_entry* e = nullptr;
  auto status = archive_read_next_header(x.reader, &e);
  // The one harmless warning: the name, which is not taken from here, could not be converted.
  bool is_fine = status == ARCHIVE_OK || (status == ARCHIVE_WARN && !archive_entry_pathname(e));
  if (!is_fine)
    return unexpected(x.failure());
  member = x.records[x.next++].member;
  return true;
}

result<file_piece> zip_reader::data() {
  const void* data = nullptr;
  size_t size = 0;
  la_int64_t offset = 0;
  for (;;) {
    auto status = archive_read_data_block(impl_->reader, &data, &size, &offset);
    if (status == ARCHIVE_EOF)
      return file_piece{};
    if (status != ARCHIVE_OK || offset < 0)
      return unexpected(impl_->failure());
    if (size > 0)
      return file_piece{{static_cast<const char*>(data), size}, static_cast<uint64_t>(offset)};
  }
}

} // namespace troupe::snapshot
