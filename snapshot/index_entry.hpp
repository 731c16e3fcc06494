#pragma once

#include "messages/error.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/digest.hpp"
#include "snapshot/tar_writer.hpp"

#include <sys/stat.h>
#include <time.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::snapshot {

enum class entry_type : uint8_t { directory, file, symlink, hard_link, whiteout };

/// One path of an index: what a layer says of it.
struct index_entry {
  std::string path; ///< relative, "" is the root; bytes, maybe not UTF-8
  entry_type type = entry_type::file;
  uint32_t mode = 0; ///< permission, set-id and sticky bits
  uint32_t uid = 0;  ///< recorded, not restored and not compared
  uint32_t gid = 0;
  uint64_t size = 0; ///< of a file, holes included
  timespec mtime{};
  std::string target; ///< of a symlink; of a hard link: the path that has the content
  std::string xattrs; ///< those of the user namespace, see `encode_xattrs`
  digest_bytes content{};
  uint64_t inode = 0; ///< 0: what follows is unknown, or too young to be believed
  timespec ctime{};
  uint64_t links = 1;    ///< names that the file had
  uint32_t layer = 0;    ///< of the layers that were read, which has it; not written
  uint64_t position = 0; ///< in the index of that layer; not written
};

/// Orders paths as `workspace::walk` visits them: parents before children, all below a directory
/// before its next sibling.
int compare_paths(std::string_view a, std::string_view b);

/// Whether `path` lies below `directory` (and is not the directory itself).
bool lies_below(std::string_view path, std::string_view directory);

/// Whether a restore would give back the same: all but owners, times of change and where it is.
bool same_entry(const index_entry& a, const index_entry& b);

struct xattr {
  std::string name;
  std::string value;
};

/// Whether a snapshot keeps an extended attribute of that name. Others would be believed by the
/// kernel: file capabilities, or the marks of an overlay.
bool is_kept_xattr(std::string_view name);

/// Sorted by name by the caller.
std::string encode_xattrs(const std::vector<xattr>& all);
std::vector<xattr> decode_xattrs(std::string_view bytes);

/// Writes entries in the order of `compare_paths`:
///
///     "troupeix" version | entry... | 0x7f
///
/// An entry is a byte of type and flags, then numbers as LEB128 (signed ones zigzag) and bytes with
/// their length before them: shared prefix with the path before, rest of the path, mode, uid, gid,
/// mtime seconds and nanoseconds (of a whiteout none of these); by type size, links and SHA-256, or
/// target; by flag xattrs; inode, ctime seconds (from mtime's) and nanoseconds.
class index_encoder {
public:
  explicit index_encoder(byte_sink sink) : sink_(std::move(sink)) {}

  result<void> add(const index_entry& x);
  result<void> finish();

private:
  result<void> flush(size_t above);

  byte_sink sink_;
  std::string before_;
  std::string buffer_ = std::string{"troupeix\x01"};
};

/// Reads what `index_encoder` wrote. Anything else is `damaged(...)`: paths that leave the root or
/// are out of order, an index that is cut.
class index_decoder {
public:
  /// `blob`: what errors name, if not empty.
  explicit index_decoder(std::unique_ptr<byte_source> input, std::string blob = {})
    : input_(std::move(input)), blob_(std::move(blob)) {}

  /// The next entry; false at the end, which is verified.
  result<bool> next(index_entry& x);

private:
  bool fill();
  bool take(void* data, size_t size);
  bool number(uint64_t& x);
  bool signed_number(int64_t& x);
  bool text(std::string& x, uint64_t limit);
  bool parse(unsigned char head, index_entry& x);
  error failure();

  std::unique_ptr<byte_source> input_;
  std::string blob_;
  std::string_view chunk_;
  std::string before_;
  uint64_t position_ = 0;
  bool started_ = false;
  bool ended_ = false;
  std::optional<error> input_failure_;
};

inline constexpr int index_version = 1;

} // namespace troupe::snapshot
