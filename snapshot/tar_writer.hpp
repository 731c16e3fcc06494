#pragma once

#include "messages/error.hpp"

#include <sys/stat.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace troupe::snapshot {

/// Takes the bytes of a stream in order.
using byte_sink = std::function<result<void>(const char* data, size_t size)>;

/// One member of a tar.
struct tar_entry {
  std::string path; ///< "." or "./a/b"; bytes, maybe not UTF-8
  struct stat info {};
  std::string symlink_target;
  std::string hard_link_target; ///< path of an earlier member; empty: none
};

/// Writes a tar in pax format.
class tar_writer {
public:
  explicit tar_writer(byte_sink sink);
  ~tar_writer();
  tar_writer(const tar_writer&) = delete;
  tar_writer& operator=(const tar_writer&) = delete;

  /// Starts a member; a regular file needs `info.st_size` bytes of `data` before the next one.
  result<void> begin(const tar_entry& entry);
  result<void> data(const char* data, size_t size);

  /// Writes the end-of-archive marker. Without it, dropping the writer leaves a cut archive.
  result<void> finish();

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace troupe::snapshot
