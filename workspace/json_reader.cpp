#include "workspace/json_reader.hpp"

#include "workspace/unicode_text.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace troupe::workspace {

namespace {

constexpr size_t max_problems = 100;
constexpr size_t max_step = 128;

std::optional<bool> to_bool(std::string_view word) {
  constexpr std::array yes = {"1", "on", "t", "true", "y", "yes"};
  constexpr std::array no = {"0", "off", "f", "false", "n", "no"};
  std::string lower{word.substr(0, 8)};
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  if (std::find(yes.begin(), yes.end(), lower) != yes.end())
    return true;
  if (std::find(no.begin(), no.end(), lower) != no.end())
    return false;
  return std::nullopt;
}

} // namespace

std::vector<std::string> location::steps() const {
  std::vector<std::string> out;
  for (auto* x = this; x->parent_; x = x->parent_)
    out.push_back(x->index_ ? std::to_string(*x->index_) : shortened(x->key_));
  std::reverse(out.begin(), out.end());
  return out;
}

std::string shortened(std::string_view text) {
  if (text.size() <= max_step)
    return std::string{text};
  auto end = max_step;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;
  return std::string{text.substr(0, end)} + "...";
}

error invalid_manifest(const std::vector<problem>& problems) {
  auto details = json::array();
  for (const auto& x : problems)
    details.push_back(json{{"loc", x.loc}, {"type", x.type}, {"msg", x.text}});
  const auto& first = problems.front();
  std::string text = "manifest is not valid: ";
  for (size_t i = 0; i < first.loc.size(); ++i)
    text.append(i > 0 ? "." : "").append(first.loc[i]);
  text.append(first.loc.empty() ? "" : ": ").append(first.text);
  return make_error(errc::invalid_manifest, op::materialize, to_utf8(text))
    .with_json("details", dump_json(details));
}

void json_reader::fail(const location& at, const char* type, std::string text) {
  if (problems_.size() < max_problems)
    problems_.push_back({at.steps(), type, std::move(text)});
}

const json* json_reader::member(const json& object, const location& at, const char* key,
                                need needed) {
  if (auto i = object.find(key); i != object.end())
    return &*i;
  if (needed == need::required)
    fail({at, key}, "missing", "Field required");
  return nullptr;
}

void json_reader::text(const json& object, const location& at, const char* key, std::string& out,
                       need needed) {
  auto* value = member(object, at, key, needed);
  if (!value)
    return;
  if (!value->is_string())
    return fail({at, key}, "string_type", "Input should be a valid string");
  out = value->get_ref<const std::string&>();
}

void json_reader::text(const json& object, const location& at, const char* key,
                       std::optional<std::string>& out) {
  auto* value = member(object, at, key, need::optional);
  if (!value)
    return;
  if (value->is_string())
    out = value->get_ref<const std::string&>();
  else if (value->is_null())
    out.reset();
  else
    fail({at, key}, "string_type", "Input should be a valid string");
}

void json_reader::boolean(const json& object, const location& at, const char* key, bool& out) {
  auto* value = member(object, at, key, need::optional);
  if (!value)
    return;
  if (value->is_boolean()) {
    out = value->get<bool>();
  } else if (value->is_number() && (*value == 0 || *value == 1)) {
    out = *value == 1;
  } else if (value->is_string() || value->is_number()) {
    auto parsed = value->is_string() ? to_bool(value->get_ref<const std::string&>()) : std::nullopt;
    if (!parsed)
      return fail({at, key}, "bool_parsing",
                  "Input should be a valid boolean, unable to interpret input");
    out = *parsed;
  } else {
    fail({at, key}, "bool_type", "Input should be a valid boolean");
  }
}

namespace {

/// A number written as text, as pydantic takes it: blanks around it, a sign, `_` between digits and
/// `.0` behind them are allowed.
std::optional<double> integer_of(std::string_view text) {
  text = trim(text);
  auto dot = text.find('.');
  if (dot != text.npos && dot + 1 < text.size()
      && text.find_first_not_of('0', dot + 1) == text.npos)
    text = text.substr(0, dot);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+'))
    text.remove_prefix(1);
  double number = 0;
  char before = '_';
  for (char c : text) {
    const bool is_digit = c >= '0' && c <= '9';
    if (!is_digit && (c != '_' || before == '_'))
      return std::nullopt;
    if (is_digit)
      number = number * 10 + (c - '0');
    before = c;
  }
  if (before == '_')
    return std::nullopt;
  return negative ? -number : number;
}

} // namespace

void json_reader::integer(const json& object, const location& at, const char* key, int32_t& out) {
  auto* value = member(object, at, key, need::optional);
  if (!value)
    return;
  // Every integer of 32 bits is exact as a double; what is bigger is out of range below.
  double number = 0;
  if (value->is_boolean()) {
    number = value->get<bool>() ? 1 : 0;
  } else if (value->is_number()) {
    number = value->get<double>();
    if (number != std::floor(number))
      return fail({at, key}, "int_from_float",
                  "Input should be a valid integer, got a number with a fractional part");
  } else if (value->is_string()) {
    auto parsed = integer_of(value->get_ref<const std::string&>());
    if (!parsed)
      return fail({at, key}, "int_parsing",
                  "Input should be a valid integer, unable to parse string as an integer");
    number = *parsed;
  } else {
    return fail({at, key}, "int_type", "Input should be a valid integer");
  }
  if (number < std::numeric_limits<int32_t>::min() || number > std::numeric_limits<int32_t>::max())
    return fail({at, key}, "int_parsing_size", "Input is out of range");
  out = static_cast<int32_t>(number);
}

} // namespace troupe::workspace
