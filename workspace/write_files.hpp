#pragma once

#include "messages/error.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace troupe::workspace {

/// What is to become of one file.
struct file_edit {
  std::string path;                ///< beneath the root, not a link
  std::string shown;               ///< how errors name it
  std::optional<std::string> text; ///< nullopt: it goes, if it is there
  std::optional<uint32_t> mode;    ///< nullopt: that of the file replaced, else 0644
  /// What is there now goes first, be it a link, and nothing of it is kept.
  bool fresh = false;
};

/// Writes and removes files beneath `root_fd`, all of them or none: everything is written beside
/// its place first. What is replaced stays under another name until all is done, and is put back
/// if that fails. Folders are made as needed. Paths must differ.
result<void> write_files(int root_fd, const std::vector<file_edit>& files);

} // namespace troupe::workspace
