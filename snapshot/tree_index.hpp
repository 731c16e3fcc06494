#pragma once

#include "snapshot/digest.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::snapshot {

/// Digests a tree, member by member, in the order of `workspace::walk`. It covers what a restore
/// gives back: paths, types, permission bits, sizes, link targets and contents; not times, owners,
/// set-id bits of files, nor the root directory itself.
class tree_index {
public:
  void add_directory(std::string_view path, uint32_t mode);
  void add_file(std::string_view path, uint32_t mode, uint64_t size, const digest_bytes& content);
  void add_symlink(std::string_view path, std::string_view target);
  void add_hard_link(std::string_view path, std::string_view target);

  digest_bytes finish();

private:
  void add(char type, std::string_view path, uint32_t mode, uint64_t size, std::string_view detail);

  sha256 lines_;
  std::string line_; ///< those that are not digested yet
};

/// What the rest of the system knows a tree by: lower-case hexadecimal, of the tree and its
/// manifest.
std::string fingerprint_of(const digest_bytes& tree, std::string_view manifest_digest);
/// The same of a digest in hexadecimal.
std::string fingerprint_of(std::string_view tree, std::string_view manifest_digest);

/// The mode bits that a restore gives back.
inline constexpr uint32_t restored_file_mode = 0777;
inline constexpr uint32_t restored_directory_mode = 03777;

} // namespace troupe::snapshot
