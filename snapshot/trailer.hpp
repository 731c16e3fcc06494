#pragma once

#include "messages/error.hpp"
#include "messages/snapshot.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace troupe::snapshot {

/// Version of what stands in a trailer.
inline constexpr int trailer_format = 1;

/// What we record of a snapshot behind its tar: a zstd skippable frame, which every zstd reader
/// passes over. Its payload:
///
///     JSON object | SHA-256 of the JSON | size of the JSON, u32 LE | "troupesn"
struct trailer {
  snapshot_info info; ///< without `id`, `base_path` and `stored_bytes`: the file system says those
  std::string tree;   ///< digest of the tree, hexadecimal: what came out is held against it
  std::string fingerprint;
  std::string fingerprint_version;
  uint64_t tar_size = 0; ///< of the zstd frame before it; not written
};

std::string encode_trailer(const trailer& x);

/// The trailer at the end of a file; nullopt if the file is no zstd stream, and so not one of ours.
/// A zstd stream without a whole and sound trailer is `damaged(...)`.
result<std::optional<trailer>> read_trailer(int fd);

} // namespace troupe::snapshot
