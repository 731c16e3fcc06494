#include "actors/sinks/path_redaction.hpp"

#include "messages/json.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace troupe::actors {

namespace {

constexpr std::string_view mark = "<path>";

constexpr std::string_view ends_path = " \t\r\n\"'`()[]{}<>,;|&";

bool names_path(std::string_view key) {
  constexpr std::array names{"path",           "rel",      "src",       "src_root", "dest", "root",
                             "workspace_root", "tar_path", "untar_dir", "subpath"};
  return std::find(names.begin(), names.end(), key) != names.end();
}

bool is_word(char c) {
  auto u = static_cast<unsigned char>(c);
  return u >= 0x80 || c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')
         || (c >= 'A' && c <= 'Z');
}

/// Replaces `path` where it is not a part of a longer word.
void replace_known(std::string& text, const std::string& path) {
  for (size_t at = 0; (at = text.find(path, at)) != std::string::npos;) {
    auto end = at + path.size();
    bool inside_word = (at > 0 && is_word(text[at - 1]) && is_word(path.front()))
                       || (end < text.size() && is_word(text[end]) && is_word(path.back()));
    if (inside_word) {
      ++at;
      continue;
    }
    text.replace(at, path.size(), mark);
    at += mark.size();
  }
}

/// Replaces every absolute path; an URL is none.
std::string without_absolute(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    bool after_separator = i == 0 || text[i - 1] == '=' || text[i - 1] == ':'
                           || ends_path.find(text[i - 1]) != std::string_view::npos;
    bool in_url = i > 0 && text[i - 1] == ':' && text.substr(i, 2) == "//";
    if (text[i] != '/' || !after_separator || in_url) {
      out += text[i++];
      continue;
    }
    out += mark;
    i = std::min(text.find_first_of(ends_path, i), text.size());
  }
  return out;
}

void collect_known(const json& value, std::vector<std::string>& known) {
  if (!value.is_object())
    return;
  for (const auto& [key, member] : value.items())
    if (names_path(key) && member.is_string() && !member.get_ref<const std::string&>().empty())
      known.push_back(member.get<std::string>());
}

/// `key`: of the member that `value` is; empty in lists.
void redact_value(json& value, std::string_view key) {
  if (value.is_object()) {
    for (auto& [name, member] : value.items())
      redact_value(member, name);
  } else if (value.is_array()) {
    for (auto& item : value)
      redact_value(item, key);
  } else if (value.is_string()) {
    value
      = names_path(key) ? std::string{mark} : without_absolute(value.get_ref<const std::string&>());
  }
}

} // namespace

void redact_paths(event& x) {
  std::vector<std::string> known;
  auto data = parse_json(x.data);
  if (data) {
    collect_known(*data, known);
    redact_value(*data, "");
  }
  x.data = data ? dump_json(*data) : "{}";
  if (!x.failure)
    return;
  if (auto context = parse_json(x.failure->context))
    collect_known(*context, known);
  std::sort(known.begin(), known.end(),
            [](const auto& a, const auto& b) { return a.size() > b.size(); });
  for (const auto& path : known)
    replace_known(x.failure->message, path);
  x.failure->message = without_absolute(x.failure->message);
  x.failure->context = "{}";
}

} // namespace troupe::actors
