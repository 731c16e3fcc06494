#pragma once

#include "messages/error.hpp"
#include "workspace/patch_text.hpp"
#include "workspace/path_policy.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::workspace {

struct patch_options {
  /// The folder that relative paths start from, relative to the workspace root; empty: the root.
  /// Results name files as seen from there.
  std::string cwd;
  /// False: operations take effect one by one, and those before a failing one stay.
  bool all_or_nothing = true;
  /// Every path is checked before anything is read or written.
  bool paths_first = true;
};

enum class file_change : uint8_t { created, updated, deleted };

std::string_view to_string(file_change change);

/// What one operation did. Paths are relative to the workspace root.
struct patched_file {
  std::string path;
  file_change change = file_change::updated;
  std::optional<std::string> moved_to;
};

struct patch_outcome {
  std::string text; ///< for the model: a line for each change, or two for one with a move
  std::vector<patched_file> files;
};

/// Applies operations in order; each sees what those before it did. Blocks. Only files beneath
/// `root_fd`, the root of `policy`, are touched: grants are no part of the contract here.
///
/// All or nothing: everything is read and computed first, then written beside its place, then put
/// there. If that fails halfway, the files that were replaced are put back, themselves and not
/// copies. Other processes may see some changes before others, and a crash may leave it so.
///
/// Errors: `apply_patch_invalid_path`, `apply_patch_invalid_diff`, `apply_patch_file_not_found`,
/// `apply_patch_decode_error`, `payload_too_large`, and those of `open_for_read` and `staged_file`.
result<patch_outcome> apply_patch(int root_fd, const path_policy& policy,
                                  const std::vector<patch_operation>& operations,
                                  const patch_options& options = {});

} // namespace troupe::workspace
