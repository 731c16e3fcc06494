#include "messages/json.hpp"

#include <simdjson.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <utility>

namespace troupe {

namespace {

/// Parsing and destroying deep JSON recurses, so depth is checked on the text first.
bool deeper_than(std::string_view text, size_t limit) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limit)
        return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

json convert(const simdjson::dom::element& x) {
  using type = simdjson::dom::element_type;
  switch (x.type()) {
    case type::OBJECT: {
      auto out = json::object();
      auto& members = out.get_ref<json::object_t&>();
      const simdjson::dom::object object = x;
      members.reserve(object.size());
      for (const auto& [key, value] : object)
        members[std::string{key}] = convert(value);
      return out;
    }
    case type::ARRAY: {
      auto out = json::array();
      const simdjson::dom::array array = x;
      out.get_ref<json::array_t&>().reserve(array.size());
      for (const auto& value : array)
        out.push_back(convert(value));
      return out;
    }
    case type::STRING: return std::string{x.get_string().value_unsafe()};
    case type::INT64: return x.get_int64().value_unsafe();
    case type::UINT64: return x.get_uint64().value_unsafe();
    case type::DOUBLE: return x.get_double().value_unsafe();
    case type::BOOL: return x.get_bool().value_unsafe();
    case type::NULL_VALUE: break;
  }
  return nullptr;
}

/// Large texts by simdjson, some five times as fast as the other library. What it refuses, or takes
/// too generously, is for the other one to judge and to explain.
std::optional<json> parse_quickly(std::string_view text) {
  constexpr size_t small = 4096;
  constexpr size_t large = 4 * 1024 * 1024; // its buffers are many times that
  auto has_surrogate = [&] {                // it makes bytes of a lone one that are not UTF-8
    return text.find("\\ud") != text.npos || text.find("\\uD") != text.npos;
  };
  if (text.size() < small || text.size() > large || has_surrogate())
    return std::nullopt;
  thread_local simdjson::dom::parser parser; // keeps its buffers
  auto parsed = parser.parse(text.data(), text.size());
  if (parsed.error() != simdjson::SUCCESS)
    return std::nullopt;
  return convert(parsed.value_unsafe());
}

// The library's writer handles a byte at a time and checks each stream call: a third of what an
// answer with a large manifest costs. This one copies runs and leaves it what is rare.

std::string by_library(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

void write_text(const std::string& text, std::string& out) {
  auto is_plain = [](char c) { return c >= 0x20 && c != '"' && c != '\\' && c != 0x7f; };
  if (!std::all_of(text.begin(), text.end(), is_plain)) {
    out += by_library(text);
    return;
  }
  out += '"';
  out += text;
  out += '"';
}

void write_value(const json& value, std::string& out) {
  switch (value.type()) {
    case json::value_t::object: {
      char before = '{';
      for (const auto& [key, member] : value.get_ref<const json::object_t&>()) {
        out += std::exchange(before, ',');
        write_text(key, out);
        out += ':';
        write_value(member, out);
      }
      out += value.empty() ? "{}" : "}";
      break;
    }
    case json::value_t::array: {
      char before = '[';
      for (const auto& item : value) {
        out += std::exchange(before, ',');
        write_value(item, out);
      }
      out += value.empty() ? "[]" : "]";
      break;
    }
    case json::value_t::string: write_text(value.get_ref<const std::string&>(), out); break;
    case json::value_t::number_integer: out += std::to_string(value.get<int64_t>()); break;
    case json::value_t::number_unsigned: out += std::to_string(value.get<uint64_t>()); break;
    case json::value_t::boolean: out += value.get<bool>() ? "true" : "false"; break;
    case json::value_t::null: out += "null"; break;
    default: out += by_library(value);
  }
}

} // namespace

result<json> parse_json(std::string_view text, size_t max_depth) {
  if (deeper_than(text, max_depth))
    return unexpected(make_error(errc::invalid_request, op::request, "JSON nests too deeply")
                        .with("max_depth", static_cast<int64_t>(max_depth)));
  if (auto quick = parse_quickly(text))
    return std::move(*quick);
  try {
    return json::parse(text);
  } catch (const json::exception& e) {
    return unexpected(
      make_error(errc::invalid_request, op::request, "malformed JSON").with("detail", e.what()));
  }
}

std::string dump_json(const json& value) {
  std::string out;
  write_value(value, out);
  return out;
}

json error_to_json(const error& x) {
  auto context = parse_json(x.context);
  return json{
    {"code", to_string(x.code)},
    {"message", x.message},
    {"op", to_string(x.operation)},
    {"retryable", x.retryable ? json(*x.retryable) : json(nullptr)},
    {"context", context && context->is_object() ? std::move(*context) : json::object()},
  };
}

error error_from_json(const json& value) {
  auto text = [&](const char* key) {
    auto i = value.find(key);
    return i != value.end() && i->is_string() ? i->get<std::string>() : std::string{};
  };
  error x;
  if (!value.is_object())
    return make_error(errc::internal, op::request, "malformed error");
  x.code = errc_from_string(text("code")).value_or(errc::internal);
  x.operation = op_from_string(text("op")).value_or(op::request);
  x.message = text("message");
  if (auto i = value.find("retryable"); i != value.end() && i->is_boolean())
    x.retryable = i->get<bool>();
  if (auto i = value.find("context"); i != value.end() && i->is_object())
    x.context = dump_json(*i);
  return x;
}

std::string rfc3339_ms(int64_t ms_since_epoch) {
  auto seconds = static_cast<time_t>(ms_since_epoch / 1000);
  tm utc{};
  ::gmtime_r(&seconds, &utc);
  char buffer[64];
  auto n = std::strftime(buffer, sizeof buffer, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(buffer + n, sizeof buffer - n, ".%03dZ", static_cast<int>(ms_since_epoch % 1000));
  return buffer;
}

json seconds_to_json(std::chrono::nanoseconds value) {
  return std::chrono::duration<double>(value).count();
}

} // namespace troupe
