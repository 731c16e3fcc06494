#pragma once

#include "messages/error.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/index_entry.hpp"

#include <time.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::snapshot {

enum class member_kind : uint8_t { directory, file, symlink, hard_link, other };

/// One member of a tar as it stands there: nothing in it may be trusted.
struct tar_member {
  std::string name;
  member_kind kind = member_kind::other;
  uint32_t mode = 0; ///< permission and set-id bits
  std::optional<timespec> mtime;
  std::string link_target;
  uint64_t size = 0; ///< logical size of a file
  /// Offset and size of the runs of a sparse file; empty: it is not stored as one.
  std::vector<std::pair<uint64_t, uint64_t>> runs;
  std::vector<xattr> xattrs;
};

/// A run of bytes of a file; what lies between two runs is a hole.
struct file_piece {
  std::string_view data; ///< empty: no more
  uint64_t offset = 0;
};

/// Gives the members of an archive, one after the other.
class member_source {
public:
  virtual ~member_source() = default;

  /// The next member; false at the verified end, when all of the input was read. The data of a file
  /// must have been read to its end before.
  virtual result<bool> next(tar_member& member) = 0;

  /// The next piece of the current file.
  virtual result<file_piece> data() = 0;
};

/// Reads a tar strictly. Any irregularity is `damaged(...)`: a wrong header checksum, a header that
/// does not parse, a missing end-of-archive marker, anything but zeros behind it.
class tar_reader final : public member_source {
public:
  explicit tar_reader(byte_source& input);
  ~tar_reader() override;
  tar_reader(const tar_reader&) = delete;
  tar_reader& operator=(const tar_reader&) = delete;

  result<bool> next(tar_member& member) override;
  result<file_piece> data() override;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace troupe::snapshot
