#include "snapshot/free_space.hpp"

#include <sys/statvfs.h>

namespace troupe::snapshot {

namespace {

/// Less room than this is none.
constexpr uint64_t least_space = 1024 * 1024;

/// What the last block of a file wastes, on average.
constexpr uint64_t half_block = 2048;

} // namespace

result<void> check_space(int fd, uint64_t needed, const std::string& path, op operation) {
  struct statvfs disk;
  if (::fstatvfs(fd, &disk) != 0)
    return {}; // the writes will tell
  uint64_t free = disk.f_bavail * disk.f_frsize;
  needed += least_space;
  if (needed <= free)
    return {};
  auto x = make_error(errc::no_space, operation, "there is not enough space")
             .with("path", path)
             .with("needed_bytes", static_cast<int64_t>(needed))
             .with("free_bytes", static_cast<int64_t>(free));
  x.retryable = false;
  return unexpected(std::move(x));
}

uint64_t space_for(const snapshot_info& x) {
  return x.size_bytes + x.files * half_block;
}

} // namespace troupe::snapshot
