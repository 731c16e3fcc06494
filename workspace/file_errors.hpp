#pragma once

#include "messages/error.hpp"

#include <string>
#include <string_view>
#include <vector>

// How a failed system call becomes one of the contract's errors. All take `err` as errno. `path` is
// how the error names the file; `relative` is the path beneath the root, for one that leaves it.

namespace troupe::workspace {

/// A stable word for an errno, such as `is_directory` or `escape_root`.
std::string_view errno_reason(int err);

/// The system's text for an errno.
std::string errno_text(int err);

/// `workspace_read_not_found`, `invalid_manifest_path` (EXDEV: left the root) or
/// `workspace_archive_read_error`.
error read_failure(int err, const std::string& path, const std::string& relative);

/// `no_space`, `invalid_manifest_path` (EXDEV: left the root) or `workspace_archive_write_error`.
error write_failure(int err, const std::string& path, const std::string& relative);

/// `invalid_manifest_path`: a link leads out of the root; reason `absolute` if `asked` is.
error escape_failure(const std::string& asked);

/// `exec_nonzero` as the command of that name would have ended: exit code 1 and `text` on stderr.
error command_failure(const std::vector<std::string>& command, const std::string& text);

} // namespace troupe::workspace
