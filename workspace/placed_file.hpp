#pragma once

#include "messages/error.hpp"
#include "messages/unique_fd.hpp"
#include "workspace/file_ops.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace troupe::workspace {

/// A file that an application of a manifest puts into a workspace. Nothing there yet: it is written
/// in its place, which is a third cheaper than beside and renamed, and nobody waits for it yet.
/// Else it replaces what is there, as `staged_file` does. Dropped without `finish`, it leaves
/// nothing new.
class placed_file {
public:
  /// Makes missing parents (0755).
  static result<placed_file> create(int root_fd, const std::string& path, uint32_t mode);

  placed_file(placed_file&&) noexcept = default;
  placed_file& operator=(placed_file&&) = delete;
  ~placed_file();

  result<void> append(const char* data, size_t size);
  int fd() const;
  result<void> finish();

private:
  placed_file(int root_fd, const std::string& path, uint32_t mode)
    : root_fd_(root_fd), path_(path), mode_(mode) {}

  int root_fd_;
  std::string path_;
  uint32_t mode_;
  unique_fd fd_;
  std::optional<staged_file> staged_;
};

} // namespace troupe::workspace
