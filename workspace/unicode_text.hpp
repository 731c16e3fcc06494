#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// UTF-8 text under the rules of Python's `str`, which the contract's text formats were defined by.

namespace troupe::workspace {

/// Takes the next line off `text`, without its end. Lines end where `str.splitlines` ends them: LF,
/// CR, CRLF, VT, FF, U+001C to U+001E, U+0085, U+2028, U+2029. `text` must not be empty.
std::string_view take_line(std::string_view& text);

/// The text without blanks at its end; blank is what `str.isspace` says.
std::string_view trim_end(std::string_view text);

/// The text without blanks at both ends.
std::string_view trim(std::string_view text);

/// The longest start of whole characters that has at most `bytes` bytes.
std::string_view head_of(std::string_view text, size_t bytes);

/// The longest end of whole characters that has at most `bytes` bytes.
std::string_view tail_of(std::string_view text, size_t bytes);

/// Characters, where every byte that does not continue one starts one.
size_t count_characters(std::string_view text);

/// `bytes` as text: each longest start of a character that is not continued becomes one U+FFFD, as
/// Python and web browsers do it (`to_utf8` makes one of every byte).
std::string utf8_with_replacement(std::string_view bytes);

} // namespace troupe::workspace
