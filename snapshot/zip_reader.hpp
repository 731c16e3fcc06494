#pragma once

#include "messages/error.hpp"
#include "snapshot/tar_reader.hpp"

#include <memory>

namespace troupe::snapshot {

/// Reads the members of a zip, in the order of their contents. Only stored, deflate, bzip2 and LZMA
/// (with a small dictionary) are known. Sizes and checksums have to be right, and the two headers
/// of a member have to agree. Contents must not overlap: such archives unpack to far more than they
/// hold.
///
/// Keeps the central directory in memory: its limits have to be checked before.
class zip_reader final : public member_source {
public:
  /// `fd`: a file; its offset is left alone.
  explicit zip_reader(int fd);
  ~zip_reader() override;
  zip_reader(const zip_reader&) = delete;
  zip_reader& operator=(const zip_reader&) = delete;

  result<bool> next(tar_member& member) override;
  result<file_piece> data() override;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace troupe::snapshot
