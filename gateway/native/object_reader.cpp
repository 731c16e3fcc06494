#include "gateway/native/object_reader.hpp"

#include <cmath>

namespace troupe::gateway {

namespace {

/// The name between backticks and what follows. Appended step by step: g++ 12 warns of an overlap
/// in
/// `"`" + std::string` that is not there.
std::string quoted(const std::string& name, const std::string& rest) {
  std::string out = "`";
  out += name;
  out += '`';
  out += rest;
  return out;
}

} // namespace

object_reader::object_reader(const json& value, std::string where)
  : value_(value), where_(std::move(where)) {
  if (!value_.is_object())
    failure_ = make_error(errc::invalid_request, op::request,
                          where_.empty() ? "the body must be a JSON object"
                                         : quoted(where_, " must be a JSON object"));
}

std::string object_reader::name_of(std::string_view key) const {
  return where_.empty() ? std::string{key} : where_ + "." + std::string{key};
}

void object_reader::fail(std::string_view key, const std::string& expected) {
  if (failure_)
    return;
  failure_
    = make_error(errc::invalid_request, op::request, quoted(name_of(key), " must be " + expected))
        .with("field", name_of(key));
}

bool object_reader::has(std::string_view key) const {
  return value_.is_object() && value_.contains(std::string{key});
}

const json* object_reader::any(std::string_view key) {
  if (!value_.is_object())
    return nullptr;
  known_.emplace(key);
  auto i = value_.find(std::string{key});
  return i == value_.end() || i->is_null() ? nullptr : &*i;
}

std::optional<std::string> object_reader::text(std::string_view key) {
  auto* x = any(key);
  if (!x)
    return std::nullopt;
  if (!x->is_string()) {
    fail(key, "text");
    return std::nullopt;
  }
  return x->get<std::string>();
}

std::optional<bool> object_reader::boolean(std::string_view key) {
  auto* x = any(key);
  if (!x)
    return std::nullopt;
  if (!x->is_boolean()) {
    fail(key, "true or false");
    return std::nullopt;
  }
  return x->get<bool>();
}

std::optional<int64_t> object_reader::integer(std::string_view key, int64_t min, int64_t max) {
  auto* x = any(key);
  if (!x)
    return std::nullopt;
  auto range = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
  bool fits = x->is_number_integer()
              && !(x->is_number_unsigned() && x->get<uint64_t>() > uint64_t{INT64_MAX})
              && x->get<int64_t>() >= min && x->get<int64_t>() <= max;
  if (!fits) {
    fail(key, range);
    return std::nullopt;
  }
  return x->get<int64_t>();
}

std::optional<std::chrono::nanoseconds> object_reader::seconds(std::string_view key) {
  auto* x = any(key);
  if (!x)
    return std::nullopt;
  constexpr double longest = 10.0 * 365 * 24 * 3600;
  auto value = x->is_number() ? x->get<double>() : -1.0;
  if (!std::isfinite(value) || value < 0 || value > longest) {
    fail(key, "a number of seconds, at least 0");
    return std::nullopt;
  }
  return std::chrono::nanoseconds{static_cast<int64_t>(value * 1e9)};
}

std::optional<std::vector<std::string>> object_reader::texts(std::string_view key) {
  auto* x = any(key);
  if (!x)
    return std::nullopt;
  std::vector<std::string> out;
  if (x->is_array())
    for (const auto& item : *x)
      if (item.is_string())
        out.push_back(item.get<std::string>());
  if (!x->is_array() || out.size() != x->size()) {
    fail(key, "a list of texts");
    return std::nullopt;
  }
  return out;
}

std::optional<std::map<std::string, std::string>> object_reader::text_map(std::string_view key) {
  auto* x = any(key);
  if (!x)
    return std::nullopt;
  std::map<std::string, std::string> out;
  if (x->is_object())
    for (const auto& [name, item] : x->items())
      if (item.is_string())
        out.emplace(name, item.get<std::string>());
  if (!x->is_object() || out.size() != x->size()) {
    fail(key, "an object of texts");
    return std::nullopt;
  }
  return out;
}

result<void> object_reader::finish() {
  if (!failure_)
    for (const auto& [key, unused] : value_.items())
      if (!known_.contains(key)) {
        failure_ = make_error(errc::invalid_request, op::request,
                              "unknown field " + quoted(name_of(key), ""))
                     .with("field", name_of(key));
        break;
      }
  if (failure_)
    return unexpected(std::move(*failure_));
  return {};
}

} // namespace troupe::gateway
