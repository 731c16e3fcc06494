#pragma once

#include "messages/inspect.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace troupe {

enum class file_kind : uint8_t { directory, file, symlink, other };

std::string_view to_string(file_kind kind);

/// One line of a directory listing, from statx and never from parsed text.
struct file_entry {
  std::string path; ///< absolute, as the session sees it
  file_kind kind = file_kind::file;
  uint32_t mode = 0; ///< permission bits
  std::string owner;
  std::string group;
  uint64_t size = 0;
  int64_t mtime_ns = 0; ///< since the epoch
  std::optional<std::string> link_target;
};

template <class Inspector>
auto inspect(Inspector& f, file_entry& x) {
  return inspect_object(f, x, field("path", x.path), field("kind", x.kind), field("mode", x.mode),
                        field("owner", x.owner), field("group", x.group), field("size", x.size),
                        field("mtime_ns", x.mtime_ns), field("link_target", x.link_target));
}

} // namespace troupe
