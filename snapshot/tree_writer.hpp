#pragma once

#include "messages/unique_fd.hpp"
#include "snapshot/index_entry.hpp"
#include "snapshot/tar_reader.hpp"

#include <sys/stat.h>
#include <time.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::snapshot {

/// Why a member could not be put on the disk.
struct write_fault {
  int error = 0;      ///< errno; 0: `reason` says it
  std::string reason; ///< the contract's text
  std::string member; ///< another member that is to blame; empty: the one at hand
};

/// Opens a directory that may lie deeper than one path can say, through no link; errno negated on
/// failure. An empty path is `root_fd` itself.
int open_deep_directory(int root_fd, std::string_view path);

/// Fills an empty directory with members in any order. Everything goes through descriptors that the
/// kernel resolved beneath it, through no link; members can neither leave it nor replace each
/// other.
///
/// Memory does not grow with the number of members: the disk itself says what is already there,
/// modes and times of directories wait only while something below them is being written, and what
/// is kept of directories that no member named is bounded.
class tree_writer {
public:
  using outcome = std::optional<write_fault>;

  /// `root_fd` must stay open.
  explicit tree_writer(int root_fd);

  /// `member` is the name to blame if the directories above `path` turn out to be in the way later.
  outcome add_directory(const std::string& path, const std::string& member, uint32_t mode,
                        const std::optional<timespec>& mtime);
  outcome add_symlink(const std::string& path, const std::string& member, const std::string& target,
                      const std::optional<timespec>& mtime);
  outcome add_hard_link(const std::string& path, const std::string& member,
                        const std::string& target);

  /// Extended attributes of the file that was begun, else of the directory that was added last.
  outcome set_xattrs(const std::vector<xattr>& all);

  /// What an overlay takes for a path that is gone.
  outcome add_whiteout(const std::string& path);

  outcome begin_file(const std::string& path, const std::string& member);
  outcome write_file(std::string_view data, uint64_t offset);
  /// All of another file, holes and all; on the disk the same blocks where the file system can.
  outcome clone_file(int from_fd, uint64_t size);
  /// Gives the file its size, mode and time.
  outcome end_file(uint64_t size, uint32_t mode, const std::optional<timespec>& mtime);

  /// Gives the directories still open their modes and times.
  outcome finish();

  /// Directories that no member named, with the member that needed each.
  const std::map<std::string, std::string>& implied() const {
    return implied_;
  }

  /// Whether the root itself was a member; if so it has that member's mode.
  bool root_named() const {
    return root_named_;
  }

private:
  /// A directory that gets its mode and time when all below it is written.
  struct open_directory {
    size_t path_size = 0; ///< of `path_`, up to and with this directory
    uint32_t mode = 0;
    timespec mtime{0, UTIME_OMIT};
  };

  outcome enter_parent(const std::string& path, const std::string& member, std::string& name);
  outcome leave_to(std::string_view path);
  outcome close_top();
  outcome descend(const std::string& name);
  outcome make_top_current();
  outcome occupied(const std::string& path, member_kind kind) const;

  int root_fd_;
  std::string path_; ///< of the deepest open directory
  std::vector<open_directory> open_;
  unique_fd top_; ///< the deepest open directory; empty: to be opened again
  unique_fd file_;
  uint64_t file_end_ = 0;
  std::map<std::string, std::string> implied_;
  size_t implied_bytes_ = 0;
  bool root_named_ = false;
};

} // namespace troupe::snapshot
