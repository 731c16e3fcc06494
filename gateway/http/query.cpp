#include "gateway/http/query.hpp"

namespace troupe::gateway {

namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  if (c >= 'A' && c <= 'F')
    return c - 'A' + 10;
  return -1;
}

auto refused(std::string_view text) {
  return unexpected(make_error(errc::invalid_request, op::request, "malformed percent-encoding")
                      .with("text", text));
}

/// The text up to `separator`, which is taken off `rest` too.
std::string_view next_part(std::string_view& rest, char separator) {
  auto part = rest.substr(0, rest.find(separator));
  rest.remove_prefix(std::min(rest.size(), part.size() + 1));
  return part;
}

} // namespace

std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
      int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
      if (high < 0 || low < 0)
        return std::nullopt;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    } else if (c == '+' && plus_is_space) {
      c = ' ';
    }
    if (c == '\0')
      return std::nullopt;
    out += c;
  }
  return out;
}

result<query_params> query_params::parse(std::string_view text) {
  query_params params;
  while (!text.empty()) {
    auto value = next_part(text, '&');
    if (value.empty())
      continue;
    auto name = next_part(value, '=');
    auto decoded_name = percent_decode(name, true);
    auto decoded_value = percent_decode(value, true);
    if (!decoded_name || !decoded_value)
      return refused(decoded_name ? value : name);
    params.items_.emplace_back(std::move(*decoded_name), std::move(*decoded_value));
  }
  return params;
}

std::optional<std::string_view> query_params::get(std::string_view name) const {
  for (const auto& [key, value] : items_)
    if (key == name)
      return value;
  return std::nullopt;
}

std::vector<std::string_view> query_params::all(std::string_view name) const {
  std::vector<std::string_view> values;
  for (const auto& [key, value] : items_)
    if (key == name)
      values.emplace_back(value);
  return values;
}

result<std::vector<std::string>> split_path(std::string_view path) {
  std::vector<std::string> parts;
  if (path == "/")
    return parts;
  for (size_t begin = 1; begin <= path.size();) {
    auto end = std::min(path.find('/', begin), path.size());
    auto part = percent_decode(path.substr(begin, end - begin));
    if (!part)
      return refused(path);
    parts.push_back(std::move(*part));
    begin = end + 1;
  }
  return parts;
}

std::vector<std::string> split_encoded_path(std::string_view path) {
  std::vector<std::string> parts;
  for (size_t begin = 1; begin <= path.size();) {
    auto end = std::min(path.find('/', begin), path.size());
    parts.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

} // namespace troupe::gateway
