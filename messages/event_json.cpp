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

json event_to_json(const event& x) {
  auto data = parse_json(x.data);
  json out{{"version", 1},
           {"event_id", x.event_id},
           {"ts", timestamp(x.ts_us)},
           {"session_id", x.session_id},
           {"seq", x.seq},
           {"op", to_string(x.operation)},
           {"phase", to_string(x.phase)},
           {"span_id", x.span_id},
           {"parent_span_id", nullptr},
           {"trace_id", nullptr},
           {"data", data ? std::move(*data) : json::object()}};
  if (x.phase != event_phase::finish)
    return out;
  out["ok"] = x.ok;
  out["duration_ms"] = static_cast<double>(x.duration_us) / 1000.0;
  out["error_code"] = x.failure ? json(to_string(x.failure->code)) : json(nullptr);
  out["error_type"] = x.failure ? json(class_name(x.failure->code)) : json(nullptr);
  out["error_message"] = x.failure ? json(x.failure->message) : json(nullptr);
  out["error_retryable"]
    = x.failure && x.failure->retryable ? json(*x.failure->retryable) : json(nullptr);
  out["stdout"] = nullptr;
  out["stderr"] = nullptr;
  return out;
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
