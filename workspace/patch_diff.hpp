#pragma once

#include "messages/error.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::workspace {

/// Text and diff may have this many lines each, else `payload_too_large`.
inline constexpr size_t max_patch_lines = 1'000'000;

enum class diff_mode : uint8_t {
  update,
  create, ///< the diff is all there is; `text` does not matter
};

/// The text that a V4A diff makes of `text` (`contract: apply_patch, diff language`). Line ends are
/// those of the text: CRLF throughout if it has any.
/// Errors: `apply_patch_invalid_diff` without a path in its context; `payload_too_large`.
///
/// A hunk that belongs to the end of the file is looked for there first, whether or not the file
/// ends in a newline; the reference looks there only in files that do not.
result<std::string> apply_diff(std::string_view text, std::string_view diff, diff_mode mode);

} // namespace troupe::workspace
