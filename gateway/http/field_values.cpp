#include "gateway/http/field_values.hpp"

#include <algorithm>

namespace troupe::gateway {

namespace {

std::string_view trim(std::string_view text) {
  auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front()))
    text.remove_prefix(1);
  while (!text.empty() && blank(text.back()))
    text.remove_suffix(1);
  return text;
}

} // namespace

std::string_view next_item(std::string_view& rest, char separator) {
  auto item = rest.substr(0, rest.find(separator));
  rest.remove_prefix(std::min(rest.size(), item.size() + 1));
  return trim(item);
}

bool lists_token(const header_list& headers, std::string_view name, std::string_view token) {
  for (const auto& [key, value] : headers) {
    if (!equal_ignoring_case(key, name))
      continue;
    for (std::string_view rest = value; !rest.empty();)
      if (equal_ignoring_case(next_item(rest, ','), token))
        return true;
  }
  return false;
}

bool asks_to_upgrade(const request_head& head, std::string_view protocol) {
  return head.http11 && lists_token(head.headers, "connection", "upgrade")
         && lists_token(head.headers, "upgrade", protocol);
}

} // namespace troupe::gateway
