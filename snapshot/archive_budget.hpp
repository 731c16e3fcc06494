#pragma once

#include "messages/error.hpp"
#include "messages/session.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::snapshot {

/// `workspace_archive_write_error` for `path` with the contract's reason text.
error refused(const std::string& path, std::string_view reason);

/// What one archive has used of its limits. Errors name `path` and have `reason`, `limit` and
/// `actual`.
class archive_budget {
public:
  archive_budget(const archive_limits& limits, const std::string& path)
    : limits_(limits), path_(path) {}

  /// Bytes of the archive itself.
  result<void> add_input(uint64_t size);

  /// The root itself is none, the first time.
  result<void> add_member(const std::string& name, bool is_root);

  /// Bytes that a file has, holes included.
  result<void> add_content(const std::string& name, uint64_t size);

private:
  error over(std::string_view reason, int64_t limit, uint64_t actual) const;

  archive_limits limits_;
  std::string path_;
  uint64_t input_ = 0;
  uint64_t members_ = 0;
  uint64_t content_ = 0;
};

} // namespace troupe::snapshot
