#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// Cutting the middle out of output that a model is to read. All texts are UTF-8.

namespace troupe::workspace {

/// What is left, and how many tokens there were if any are gone.
struct truncated_text {
  std::string text;
  std::optional<int64_t> original_token_count;
};

/// Tokens of four bytes that a text of `bytes` bytes has.
int64_t tokens_in(size_t bytes);

/// Cuts to about `max_tokens` tokens of four bytes; nullopt: as it is. `count_lines`: what is cut
/// says first how many lines there were, if there is room for that.
truncated_text truncate_tokens(std::string_view text, std::optional<int64_t> max_tokens,
                               bool count_lines = true);

/// Cuts to `max_bytes` bytes of the text, not counting the note in place of what is gone and the
/// one about lines.
std::string truncate_bytes(std::string_view text, size_t max_bytes, bool count_lines = false);

} // namespace troupe::workspace
