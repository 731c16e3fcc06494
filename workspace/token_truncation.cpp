#include "workspace/token_truncation.hpp"

#include "workspace/unicode_text.hpp"

#include <algorithm>

namespace troupe::workspace {

namespace {

constexpr size_t bytes_per_token = 4;

std::string line_note(std::string_view text) {
  size_t lines = 0;
  for (; !text.empty(); ++lines)
    take_line(text);
  return "Total output lines: " + std::to_string(lines) + "\n\n";
}

std::string gap_note(int64_t count, const char* unit) {
  return "…" + std::to_string(count) + ' ' + unit + " truncated…";
}

/// A text in three parts, of which the middle goes.
struct split_text {
  std::string_view head;
  std::string_view gap;
  std::string_view tail;
};

/// Whole characters only, so that head and tail together may have less than `keep` bytes.
split_text split(std::string_view text, size_t keep) {
  auto head = head_of(text, keep / 2);
  auto rest = text.substr(head.size());
  auto tail = tail_of(rest, keep - keep / 2);
  return {head, rest.substr(0, rest.size() - tail.size()), tail};
}

std::string join(std::string note, const split_text& parts, const std::string& gap) {
  return note.append(parts.head).append(gap).append(parts.tail);
}

} // namespace

int64_t tokens_in(size_t bytes) {
  return static_cast<int64_t>(bytes / bytes_per_token + (bytes % bytes_per_token != 0));
}

truncated_text truncate_tokens(std::string_view text, std::optional<int64_t> max_tokens,
                               bool count_lines) {
  const auto tokens = tokens_in(text.size());
  const auto limit = std::max<int64_t>(max_tokens.value_or(INT64_MAX), 0);
  if (tokens <= limit) // not compared in bytes: the limit times four may not fit
    return {std::string{text}, std::nullopt};
  const auto budget = static_cast<size_t>(limit) * bytes_per_token;
  auto gap = gap_note(tokens, "tokens");
  if (gap.size() > budget)
    return {std::string{head_of(gap, budget)}, tokens};
  auto note = count_lines ? line_note(text) : std::string{};
  if (note.size() + gap.size() > budget)
    note.clear();
  auto parts = split(text, budget - note.size() - gap.size());
  gap = gap_note(tokens_in(parts.gap.size()), "tokens");
  return {join(std::move(note), parts, gap), tokens};
}

std::string truncate_bytes(std::string_view text, size_t max_bytes, bool count_lines) {
  if (text.size() <= max_bytes)
    return std::string{text};
  auto parts = split(text, max_bytes);
  return join(count_lines ? line_note(text) : std::string{}, parts,
              gap_note(static_cast<int64_t>(count_characters(parts.gap)), "chars"));
}

} // namespace troupe::workspace
