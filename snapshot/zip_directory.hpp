#pragma once

#include "messages/error.hpp"
#include "snapshot/tar_reader.hpp"

#include <cstdint>
#include <functional>

namespace troupe::snapshot {

/// The part of a file that is a zip: something may be before and behind it.
struct zip_extent {
  uint64_t begin = 0; ///< what the offsets inside count from
  uint64_t end = 0;   ///< of the end record, without its comment
};

/// One record of the central directory as it stands there: nothing in it may be trusted. The kind
/// is a file, a directory or a symlink; the mode 0 if the archive has none.
struct zip_record {
  tar_member member;
  uint64_t offset = 0; ///< of the local header, in the extent
  uint64_t packed_size = 0;
  uint16_t method = 0;
  uint64_t place = 0;          ///< of this record, in the file
  bool is_mislabelled = false; ///< a file by its name, something else by its attributes
};

/// Gives every record of the central directory in its order, until `visit` fails. libarchive's own
/// reading of it is no base for rules: it converts names by the locale, drops some, and tells links
/// by who is said to have made the archive.
///
/// Errors: `damaged(...)`, also for encrypted members; those of `visit`.
result<zip_extent> read_zip_directory(int fd, const std::function<result<void>(zip_record)>& visit);

/// Reads exactly `size` bytes from `offset`; `damaged` if they are not there.
result<void> read_exactly(int fd, uint64_t offset, char* data, size_t size);

/// A number as zip writes it.
uint64_t little_endian(const char* data, size_t size);

} // namespace troupe::snapshot
