#pragma once

#include "messages/error.hpp"
#include "messages/manifest.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::workspace {

/// A path that the policy let through: where to start, and what to open beneath it.
struct resolved_path {
  std::string absolute; ///< lexically normal, as the session sees it
  std::string base;     ///< the workspace root, or the path of a grant
  std::string relative; ///< beneath `base`; "." for `base` itself
  int grant = -1;       ///< index into the grants; -1: the workspace root
};

/// The lexical path rules of a session (`contract: manifest, path policy`). What the names really
/// point to is the kernel's business, at the moment of use.
class path_policy {
public:
  /// `sandbox_config_invalid` for a root or grant that may not be.
  static result<path_policy> make(std::string root, std::vector<path_grant> grants);

  const std::string& root() const {
    return root_;
  }

  /// Rules of remote-style backends: `\` separates, a Windows drive is absolute.
  /// Errors: `invalid_manifest_path` with reason `absolute`, `escape_root` or `nul`;
  /// `workspace_archive_write_error` with reason `read_only_extra_path_grant`.
  result<resolved_path> resolve(std::string_view path, bool for_write) const;

  /// Rules of `unix_local`: a backslash is an ordinary character, except in an absolute Windows
  /// path, which is refused here too.
  result<resolved_path> resolve_local(std::string_view path, bool for_write) const;

private:
  result<resolved_path> resolve_posix(std::string_view path, bool for_write) const;

  std::string root_;
  std::vector<path_grant> grants_;
};

/// Whether `path` is absolute on Windows by its drive: a letter, a colon, a separator. UNC paths
/// start with a slash once `\` is `/`.
bool starts_with_drive(std::string_view path);

/// Lexical normal form of an absolute POSIX path ("." and ".." resolved, a leading double slash
/// kept).
std::string normalize_absolute(std::string_view path);

/// The path without ".", repeated and trailing slashes; ".." is kept, "" becomes ".".
std::string clean_path(std::string_view path);

/// `child` below `parent`, both clean and relative; "." is neutral.
std::string join_path(std::string_view parent, std::string_view child);

// The working folder of an agent's run anchors the relative paths of its tools; it confines
// nothing.

/// The folder `cwd` in its clean form: relative, not blank, without `..` and `\`. Errors:
/// `invalid_request`.
result<std::string> run_folder(std::string_view cwd);

/// `path` as seen from the run's folder, relative to the root; as it is if absolute or without
/// `cwd`.
std::string anchored_path(std::string_view cwd, std::string_view path);

/// `relative` to the root as an agent in `cwd` is told of it.
std::string shown_path(std::string_view cwd, std::string_view relative);

/// `path` relative to `base`, "." for `base` itself, nullopt when it is not below. Both are normal.
std::optional<std::string_view> path_below(std::string_view path, std::string_view base);

/// Where a mount with this `mount_path` goes: below `root`, which is normal, unless it is absolute.
/// Inside the root the result is normal. Errors as above, and reason `newline` or `too_long`.
result<std::string> resolve_mount_path(std::string_view mount_path, const std::string& root);

/// Normal form of an entry key: `\` becomes `/`, "." and repeated slashes vanish. Errors as above.
result<std::string> normalize_entry_path(std::string_view key);

/// Coerces and checks a path to leave out of snapshots: relative, concrete, inside the root. Errors
/// as above, and `invalid_request` for the root itself.
result<std::string> normalize_skip_path(std::string_view path);

/// The normal form of a grant's path: absolute and not the root of the file system, else
/// `sandbox_config_invalid`.
result<std::string> normalize_grant_path(std::string_view path);

/// Whether `path` equals one of `skip` or lies below it, by whole components. `skip` must be sorted
/// by bytes (`std::sort`), for lists may be long: this looks up each prefix of `path`.
bool covered_by(std::string_view path, const std::vector<std::string>& skip);

/// POSIX shell quoting of one word, as Python's shlex.quote.
std::string shell_quote(std::string_view word);

} // namespace troupe::workspace
