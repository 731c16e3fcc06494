#include "messages/event_json.hpp"

#include <cstdio>
#include <ctime>

namespace troupe {

namespace {

/// UTC ISO 8601 with microseconds.
std::string timestamp(int64_t us) {
  auto seconds = static_cast<time_t>(us / 1'000'000);
  tm utc{};
  ::gmtime_r(&seconds, &utc);
  char buffer[64];
  auto n = std::strftime(buffer, sizeof buffer, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(buffer + n, sizeof buffer - n, ".%06dZ", static_cast<int>(us % 1'000'000));
  return buffer;
}

int64_t parse_timestamp(const std::string& text) {
  tm utc{};
  auto* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &utc);
  if (!rest)
    return 0;
  int us = 0;
  std::sscanf(rest, ".%6dZ", &us);
  return static_cast<int64_t>(::timegm(&utc)) * 1'000'000 + us;
}

} // namespace

std::string event_text(const event& x) {
  std::string out;
  out.reserve(512 + x.data.size());
  auto put = [&out](std::string_view name, std::string_view value) {
    out.append(out.empty() ? "{\"" : ",\"").append(name).append("\":").append(value);
  };
  auto put_name = [&put](std::string_view name, std::string_view value) {
    put(name, '"' + std::string{value} + '"'); // of ours: nothing in it needs an escape
  };
  put("version", "1");
  put("event_id", json_quote(x.event_id));
  put_name("ts", timestamp(x.ts_us));
  put("session_id", json_quote(x.session_id));
  put("seq", std::to_string(x.seq));
  put_name("op", to_string(x.operation));
  put_name("phase", to_string(x.phase));
  put("span_id", json_quote(x.span_id));
  put("parent_span_id", "null");
  put("trace_id", "null");
  put("data", x.data.empty() ? "{}" : x.data);
  if (x.phase == event_phase::finish) {
    char duration[40];
    std::snprintf(duration, sizeof duration, "%lld.%03d",
                  static_cast<long long>(x.duration_us / 1000),
                  static_cast<int>(x.duration_us % 1000));
    put("ok", x.ok ? "true" : "false");
    put("duration_ms", duration);
    if (const auto& why = x.failure) {
      put_name("error_code", to_string(why->code));
      put_name("error_type", class_name(why->code));
      put("error_message", json_quote(why->message));
      put("error_retryable", !why->retryable ? "null" : *why->retryable ? "true" : "false");
    } else {
      for (auto name : {"error_code", "error_type", "error_message", "error_retryable"})
        put(name, "null");
    }
    put("stdout", "null");
    put("stderr", "null");
  }
  return out += '}';
}

json event_to_json(const event& x) {
  return parse_json(event_text(x)).value_or(json::object());
}

event event_from_json(const json& value) {
  event x;
  auto text = [&](const char* key) {
    auto i = value.find(key);
    return i != value.end() && i->is_string() ? i->get<std::string>() : std::string{};
  };
  x.event_id = text("event_id");
  x.ts_us = parse_timestamp(text("ts"));
  x.session_id = text("session_id");
  x.seq = value.value("seq", uint64_t{0});
  x.operation = op_from_string(text("op")).value_or(op::request);
  auto phase = text("phase");
  x.phase = phase == "start"    ? event_phase::start
            : phase == "finish" ? event_phase::finish
                                : event_phase::progress;
  x.span_id = text("span_id");
  if (auto i = value.find("data"); i != value.end())
    x.data = dump_json(*i);
  x.ok = value.value("ok", true);
  if (auto i = value.find("duration_ms"); i != value.end() && i->is_number())
    x.duration_us = static_cast<int64_t>(i->get<double>() * 1000.0);
  if (auto code = errc_from_string(text("error_code"))) {
    error e = make_error(*code, x.operation, text("error_message"));
    e.retryable.reset();
    if (auto i = value.find("error_retryable"); i != value.end() && i->is_boolean())
      e.retryable = i->get<bool>();
    x.failure = std::move(e);
  }
  return x;
}

} // namespace troupe
