#include "snapshot/tar_reader.hpp"

#include "snapshot/c_locale.hpp"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t block_size = 512;
// Of one member with all that goes before it. libarchive keeps sparse maps in memory, at a multiple
// of their size, and sets them no limit.
constexpr uint64_t max_header_size = 4 * 1024 * 1024;
// Of all members together, beside their contents: a little compressed input could be terabytes.
constexpr uint64_t spare_header_bytes = 64 * 1024 * 1024;
constexpr uint64_t header_bytes_per_member = 16 * 1024;
constexpr uint64_t max_bytes_after_end = 64 * 1024 * 1024; // far above any blocking factor

member_kind kind_of(archive_entry* e) {
  if (archive_entry_hardlink(e))
    return member_kind::hard_link;
  switch (archive_entry_filetype(e)) {
    case AE_IFDIR: return member_kind::directory;
    case AE_IFLNK: return member_kind::symlink;
    case AE_IFREG: return member_kind::file;
    default: return member_kind::other;
  }
}

std::string text(const char* x) {
  return x ? x : "";
}

} // namespace

struct tar_reader::impl {
  explicit impl(byte_source& source) : input(source) {}

  byte_source& input;
  archive* reader = archive_read_new();
  bool opened = false;
  std::string before;     ///< the end of what came before `chunk`, at most a block
  std::string_view chunk; ///< what libarchive was given last
  uint64_t given = 0;     ///< all that it was given
  uint64_t may_give = std::numeric_limits<uint64_t>::max();
  uint64_t header_bytes_left = spare_header_bytes;
  uint64_t data_end = 0; ///< of the piece of the current file that was given last
  std::optional<error> input_failure;

  static la_ssize_t read(archive* reader, void* self, const void** data) {
    auto& x = *static_cast<impl*>(self);
    x.before.append(x.chunk.substr(x.chunk.size() - std::min(x.chunk.size(), block_size)));
    x.before.erase(0, x.before.size() - std::min(x.before.size(), block_size));
    auto chunk = x.given <= x.may_give ? x.input.next() : unexpected(damaged("headers too long"));
    if (!chunk) {
      x.input_failure = std::move(chunk.error());
      archive_set_error(reader, EIO, "cannot read");
      return -1;
    }
    x.chunk = *chunk;
    x.given += chunk->size();
    *data = chunk->data();
    return static_cast<la_ssize_t>(chunk->size());
  }

  uint64_t consumed() const {
    return static_cast<uint64_t>(archive_filter_bytes(reader, 0));
  }

  /// Of the block that was consumed last, if that is still there.
  char type_flag() const {
    constexpr size_t place = 156;
    auto at = before.size() + chunk.size() - (given - consumed()) - block_size + place;
    if (at < before.size())
      return before[at];
    at -= before.size();
    return at < chunk.size() ? chunk[at] : '\0';
  }

  /// libarchive takes a type that it does not know for a file. Of a sparse file the last block is
  /// not its header.
  bool is_known_file(archive_entry* e) const {
    return archive_entry_sparse_count(e) > 0
           || std::string_view{"\0"
                               "07S",
                               4}
                  .find(type_flag())
                != std::string_view::npos;
  }

  error failure() {
    if (input_failure)
      return std::move(*input_failure);
    const char* what = archive_error_string(reader);
    return damaged(what ? what : "invalid tar stream");
  }

  result<void> open() {
    opened = true;
    archive_read_support_format_tar(reader);
    if (archive_read_open(reader, this, nullptr, read, nullptr) != ARCHIVE_OK)
      return unexpected(failure());
    return {};
  }

  /// libarchive takes any end of input for the end of the archive, and a single zero block too.
  result<void> verify_end(uint64_t last_member_end) {
    auto end = consumed();
    if (end < last_member_end + 2 * block_size)
      return unexpected(damaged("cut tar stream"));
    chunk.remove_prefix(chunk.size() - std::min<uint64_t>(given - end, chunk.size()));
    // The source, too, has to come to its own, verified end. What stands there is nobody's.
    for (uint64_t seen = 0;;) {
      seen += chunk.size();
      if (seen > max_bytes_after_end)
        return unexpected(damaged("too much data after the end of the tar"));
      auto more = input.next();
      if (!more)
        return unexpected(std::move(more.error()));
      if (more->empty())
        return {};
      chunk = *more;
    }
  }
};

tar_reader::tar_reader(byte_source& input) : impl_(std::make_unique<impl>(input)) {}

tar_reader::~tar_reader() {
  archive_read_free(impl_->reader);
}

result<bool> tar_reader::next(tar_member& member) {
  c_locale bytes_as_they_are;
  auto& x = *impl_;
  auto before_skip = x.consumed();
  x.may_give = x.given + max_header_size;
  if (!x.opened) {
    if (auto ok = x.open(); !ok)
      return unexpected(std::move(ok.error()));
  } else if (archive_read_data_skip(x.reader) < ARCHIVE_OK) {
    return unexpected(x.failure());
  }
  auto begin = x.consumed();
  archive_entry* e = nullptr;
  auto status = archive_read_next_header(x.reader, &e);
  x.may_give = std::numeric_limits<uint64_t>::max();
  x.header_bytes_left += header_bytes_per_member;
  auto header_bytes = x.consumed() - before_skip;
  if (header_bytes > x.header_bytes_left)
    return unexpected(damaged("headers too long"));
  x.header_bytes_left -= header_bytes;
  if (status == ARCHIVE_EOF) {
    if (auto ok = x.verify_end(begin); !ok)
      return unexpected(std::move(ok.error()));
    return false;
  }
  // The one harmless warning: a name is not ASCII, so that it was left as the bytes that it is.
  // libarchive's number for it is EILSEQ, which no other warning of its tar reader has.
  if (status != ARCHIVE_OK && !(status == ARCHIVE_WARN && archive_errno(x.reader) == EILSEQ))
    return unexpected(x.failure());
  if (!archive_entry_pathname(e))
    return unexpected(damaged("member without a name"));
  member.name = archive_entry_pathname(e);
  member.kind = kind_of(e);
  if (member.kind == member_kind::file && !x.is_known_file(e))
    member.kind = member_kind::other;
  else if (member.kind == member_kind::other && x.type_flag() == '1')
    member.kind = member_kind::hard_link; // to ""
  // The name of a directory that is "" comes as "/".
  while (member.name.ends_with('/') && (member.name.size() > 1 || x.type_flag() == '5')) {
    member.name.pop_back();
    if (member.kind == member_kind::file)
      member.kind = member_kind::directory; // as old archives say it
  }
  member.mode = archive_entry_perm(e);
  member.mtime.reset();
  if (archive_entry_mtime_is_set(e))
    member.mtime = {archive_entry_mtime(e), archive_entry_mtime_nsec(e)};
  member.link_target = member.kind == member_kind::hard_link ? text(archive_entry_hardlink(e))
                                                             : text(archive_entry_symlink(e));
  if (archive_entry_size(e) < 0)
    return unexpected(damaged("member of negative size"));
  member.size = static_cast<uint64_t>(archive_entry_size(e));
  member.runs.clear();
  if (archive_entry_sparse_reset(e) > 0) {
    la_int64_t offset = 0;
    la_int64_t length = 0;
    while (archive_entry_sparse_next(e, &offset, &length) == ARCHIVE_OK)
      if (offset >= 0 && length >= 0)
        member.runs.emplace_back(offset, length);
  }
  member.xattrs.clear();
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  for (archive_entry_xattr_reset(e);
       archive_entry_xattr_next(e, &name, &value, &size) == ARCHIVE_OK;)
    member.xattrs.push_back({name, {static_cast<const char*>(value), size}});
  x.data_end = 0;
  return true;
}

result<file_piece> tar_reader::data() {
  const void* data = nullptr;
  size_t size = 0;
  la_int64_t offset = 0;
  auto status = archive_read_data_block(impl_->reader, &data, &size, &offset);
  if (status == ARCHIVE_EOF)
    return file_piece{};
  if (status != ARCHIVE_OK || offset < 0)
    return unexpected(impl_->failure());
  auto begin = static_cast<uint64_t>(offset);
  if (begin < impl_->data_end)
    return unexpected(damaged("pieces of a file overlap"));
  impl_->data_end = begin + size;
  return file_piece{{static_cast<const char*>(data), size}, begin};
}

} // namespace troupe::snapshot
