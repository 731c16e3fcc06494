#pragma once

#include "backends/spawner.hpp"
#include "messages/error.hpp"

#include <cstdint>
#include <string>

namespace troupe::backends::isolated {

/// Once, before the first thread: gives this process mounts of its own, so that the images it
/// mounts are seen by nobody else and are gone with it, however it ends.
result<void> leave_the_host_s_mounts();

/// How much a file system may take.
struct disk_size {
  int64_t bytes = 0;
  int64_t inodes = 0; ///< 0: as many as is usual for the bytes
};

/// A file system of its own in a file: `<folder>/disk.img`, mounted at `<folder>/disk`. What is
/// written there ends at its size, whoever writes.
///
/// The loop device goes with its last mount. A sandbox that outlived its server still has one: then
/// the same device is mounted again.
class disk_image {
public:
  /// `templates`: where an empty file system of each size is kept, to be copied.
  disk_image(std::string folder, std::string templates);

  /// (blocks) Makes it if it is not there, mounts it if it is not mounted. Errors name the wall
  /// `disk`.
  result<void> open(spawner& starts, const disk_size& size) const;

  /// (blocks) Fine if it is not there.
  void unmount() const;

  /// Of a mounted one.
  int64_t used_bytes() const;

private:
  result<void> make(spawner& starts, const disk_size& size) const;
  bool is_mounted() const;

  std::string folder_;
  std::string templates_;
};

} // namespace troupe::backends::isolated
