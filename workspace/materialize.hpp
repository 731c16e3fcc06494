#pragma once

#include "messages/error.hpp"
#include "messages/manifest.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

// Puts manifest entries into a workspace. Every function blocks and belongs on the I/O pool; every
// one may be run again over what an earlier, broken run left.

namespace troupe::workspace {

/// Host folders that `local_file` and `local_dir` may read from.
struct local_source_policy {
  std::string base_dir; ///< what a relative `src` is relative to; always allowed. Empty: nothing is
  std::vector<std::string> roots; ///< further allowed folders
};

/// One file of a manifest with inline content.
struct inline_file {
  std::string destination; ///< relative to the workspace root
  const troupe::entry* entry = nullptr;
};

/// Writes many small files, in order: new ones directly, existing ones beside and renamed.
result<void> write_inline_files(int root_fd, const std::vector<inline_file>& files,
                                std::stop_token stop);

/// Makes a directory with its parents and gives it the entry's mode and group.
result<void> make_entry_directory(int root_fd, const std::string& destination, const entry& x);

/// Sets mode and group of what an entry made.
result<void> apply_metadata(int root_fd, const std::string& destination, const entry& x);

/// Copies one file from the host. No link is followed on the way to it, and it has to lie in a
/// folder of the policy or of a grant. Errors: `local_file_read_error` with context `src`,
/// `reason`; `local_checksum_error`.
result<materialized_file> copy_local_file(const local_source_policy& policy, int root_fd,
                                          const std::string& root, const std::string& destination,
                                          const entry& x, const std::vector<path_grant>& grants,
                                          std::stop_token stop);

/// Copies a folder from the host, with modes and empty folders; `parallel` files at a time
/// (nullopt: a fixed bound of ours). Files in path order. `report` is called on this thread, now
/// and then and at the end; it may be empty. Errors: `local_dir_read_error`, and those of
/// `copy_local_file`.
result<std::vector<materialized_file>>
copy_local_dir(const local_source_policy& policy, int root_fd, const std::string& root,
               const std::string& destination, const entry& x,
               const std::vector<path_grant>& grants, std::optional<int32_t> parallel,
               std::stop_token stop, const std::function<void(uint64_t files)>& report);

// -- git
// ----------------------------------------------------------------------------------------------

/// The subpath of a git entry: "" for the whole repository. `git_subpath_error` with reason.
result<std::string> check_git_subpath(const entry& x);

/// The URL that a git entry is fetched from.
std::string git_url(const entry& x);

/// The commands that put the repository at `tmp`, to be tried in order: each attempt is a list of
/// argument vectors of which the first that fails ends it. A ref that looks like a commit has two
/// attempts.
std::vector<std::vector<std::vector<std::string>>> git_attempts(const entry& x,
                                                                const std::string& tmp);

/// Moves what git fetched (an absolute path of ours) into the workspace: renamed where possible,
/// else copied. `git_copy_error`; a subpath that is not there or is no directory has reason
/// `not_found`.
result<void> adopt_git_tree(int root_fd, const std::string& destination, const std::string& tmp,
                            const std::string& subpath);

} // namespace troupe::workspace
