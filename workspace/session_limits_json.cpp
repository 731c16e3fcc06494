#include "workspace/session_limits_json.hpp"

namespace troupe::workspace {

const std::array<limit_field, 8> limit_fields{{
  {"exec_timeout_ms", &session_limits::exec_timeout_ms, 0, INT64_MAX / 1'000'000, false},
  {"output_bytes", &session_limits::output_bytes, 0, int64_t{1} << 40, false},
  {"memory_bytes", &session_limits::memory_bytes, 1 << 20, int64_t{1} << 50, true},
  {"pids", &session_limits::pids, 1, 1 << 22, true},
  {"cpu_millis", &session_limits::cpu_millis, 10, 4'096'000, true},
  {"disk_bytes", &session_limits::disk_bytes, 1, int64_t{1} << 60, true},
  {"disk_inodes", &session_limits::disk_inodes, 1, int64_t{1} << 40, true},
  {"open_files", &session_limits::open_files, 16, 1 << 20, true},
}};

json dump_session_limits(const session_limits& x) {
  auto out = json::object();
  for (const auto& field : limit_fields)
    if (x.*field.value)
      out[std::string{field.name}] = *(x.*field.value);
  return out;
}

std::optional<session_limits> parse_session_limits(const json& value, backend_kind kind) {
  session_limits out;
  if (value.is_null())
    return out;
  if (!value.is_object())
    return std::nullopt;
  for (const auto& field : limit_fields) {
    auto i = value.find(field.name);
    if (i == value.end() || i->is_null())
      continue;
    // A limit that nothing enforces must not be promised.
    if (!i->is_number_integer() || *i < field.min || *i > field.max
        || (field.isolated && kind != backend_kind::isolated))
      return std::nullopt;
    out.*field.value = i->get<int64_t>();
  }
  return out;
}

} // namespace troupe::workspace
