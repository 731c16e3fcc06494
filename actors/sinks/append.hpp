#pragma once

#include "messages/error.hpp"

#include <string>
#include <string_view>

namespace troupe::actors {

/// Appends to a file of the host in one piece, making it (0600) and its parents if missing; waits
/// at most a second for others that hold its advisory lock. Empty text: only checks that it could.
result<void> append_to_file(const std::string& path, std::string_view text);

/// Appends to a file (0644) beneath a workspace's root. Whatever is not a regular file of one name
/// is refused: the workspace's owner may have put anything there.
result<void> append_beneath(int root_fd, const std::string& path, std::string_view text);

} // namespace troupe::actors
