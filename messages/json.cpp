#include "messages/json.hpp"

#include <cstdio>
#include <ctime>

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

} // namespace

result<json> parse_json(std::string_view text, size_t max_depth) {
  if (deeper_than(text, max_depth))
    return unexpected(make_error(errc::invalid_request, op::request, "JSON nests too deeply")
                        .with("max_depth", static_cast<int64_t>(max_depth)));
  try {
    return json::parse(text);
  } catch (const json::exception& e) {
    return unexpected(
      make_error(errc::invalid_request, op::request, "malformed JSON").with("detail", e.what()));
  }
}

std::string dump_json(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
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
