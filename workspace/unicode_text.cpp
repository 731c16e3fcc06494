#include "workspace/unicode_text.hpp"

#include <algorithm>
#include <array>

namespace troupe::workspace {

namespace {

constexpr std::array<std::string_view, 19> wide_blanks = {
  "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
  "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
  "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
  "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80",
};

bool is_ascii_blank(char c) {
  return (c >= '\t' && c <= '\r') || (c >= '\x1C' && c <= ' ');
}

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

/// Bytes of the line end that `text` starts with, 0 if it starts with none.
size_t line_end_at(std::string_view text) {
  if (text.starts_with("\r\n"))
    return 2;
  char c = text.front();
  if ((c >= '\n' && c <= '\r') || (c >= '\x1C' && c <= '\x1E'))
    return 1;
  if (text.starts_with("\xC2\x85"))
    return 2;
  return text.starts_with("\xE2\x80\xA8") || text.starts_with("\xE2\x80\xA9") ? 3 : 0;
}

struct sequence {
  size_t size; ///< of the character, or of the bytes that one U+FFFD stands for
  bool valid;
};

/// What `text` starts with, by the Unicode Standard's table of well-formed byte sequences.
sequence sequence_at(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  auto c = byte(0);
  if (c < 0x80)
    return {1, true};
  if (c < 0xC2 || c > 0xF4)
    return {1, false};
  size_t size = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
  // Overlong forms, surrogates and what lies above U+10FFFF show in the second byte.
  unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
  unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
  size_t i = 1;
  for (; i < size && i < text.size() && byte(i) >= low && byte(i) <= high; ++i) {
    low = 0x80;
    high = 0xBF;
  }
  return {i, i == size};
}

} // namespace

std::string_view take_line(std::string_view& text) {
  size_t size = 0;
  size_t end = 0;
  while (size < text.size() && (end = line_end_at(text.substr(size))) == 0)
    ++size;
  auto line = text.substr(0, size);
  text.remove_prefix(size + end);
  return line;
}

std::string_view trim_end(std::string_view text) {
  while (!text.empty()) {
    if (is_ascii_blank(text.back())) {
      text.remove_suffix(1);
      continue;
    }
    auto ends = [&](std::string_view blank) { return text.ends_with(blank); };
    auto blank = continues_character(text.back())
                   ? std::find_if(wide_blanks.begin(), wide_blanks.end(), ends)
                   : wide_blanks.end();
    if (blank == wide_blanks.end())
      break;
    text.remove_suffix(blank->size());
  }
  return text;
}

std::string_view trim(std::string_view text) {
  while (!text.empty()) {
    if (is_ascii_blank(text.front())) {
      text.remove_prefix(1);
      continue;
    }
    auto starts = [&](std::string_view blank) { return text.starts_with(blank); };
    auto blank = std::find_if(wide_blanks.begin(), wide_blanks.end(), starts);
    if (blank == wide_blanks.end())
      break;
    text.remove_prefix(blank->size());
  }
  return trim_end(text);
}

std::string_view head_of(std::string_view text, size_t bytes) {
  if (bytes >= text.size())
    return text;
  while (bytes > 0 && continues_character(text[bytes]))
    --bytes;
  return text.substr(0, bytes);
}

std::string_view tail_of(std::string_view text, size_t bytes) {
  size_t start = text.size() - std::min(bytes, text.size());
  while (start < text.size() && continues_character(text[start]))
    ++start;
  return text.substr(start);
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
    std::count_if(text.begin(), text.end(), [](char c) { return !continues_character(c); }));
}

std::string utf8_with_replacement(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    auto [size, valid] = sequence_at(bytes);
    out += valid ? bytes.substr(0, size) : "\xEF\xBF\xBD";
    bytes.remove_prefix(size);
  }
  return out;
}

} // namespace troupe::workspace
