#pragma once

#include "messages/error.hpp"
#include "messages/session.hpp"

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

namespace troupe::snapshot {

enum class archive_scheme : uint8_t { tar, zip };

/// The scheme that was given, else that of the last suffix of `path`.
/// `invalid_compression_scheme`.
result<archive_scheme> archive_scheme_of(const std::string& path,
                                         const std::optional<std::string>& given);

/// Whether an archive of `size` bytes may come in at all; to be asked while it does. `shown` is the
/// path that the error names.
result<void> check_input_size(const archive_limits& limits, uint64_t size,
                              const std::string& shown);

/// An archive that came in, and where it goes.
struct extract_request {
  int archive_fd = -1; ///< a file that nobody else can write; its offset is moved
  int root_fd = -1;
  std::string path;  ///< of the archive, beneath `root_fd`; members go beside it
  std::string shown; ///< `path` as errors name it, absolute
  archive_scheme scheme = archive_scheme::tar;
  archive_limits limits;
};

/// Puts the archive at its path, where it stays whatever comes, and then its members beside it.
/// Tar may be plain, gzip, bzip2, xz or zstd. Only files and directories are taken, and no link of
/// the workspace below the archive's folder is followed. All of the archive is read and judged
/// before the first member is written. What was written before a write fails stays.
///
/// Files get the permission bits that the archive has for them, directories that are new too, but
/// always with all bits for their owner. A file without such bits keeps those of the file that it
/// replaces. Owners and times are not taken.
///
/// Errors: `workspace_archive_write_error` for the path of the archive, with `member` and `reason`
/// for a member that may not be, with `reason`, `limit` and `actual` for a limit, with `cause` for
/// an archive that cannot be read; for the path of the file that cannot be written, with `member`
/// and `detail`; `no_space`, `cancelled`.
result<void> extract(const extract_request& request, std::stop_token stop);

} // namespace troupe::snapshot
