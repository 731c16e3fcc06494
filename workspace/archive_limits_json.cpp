#include "workspace/archive_limits_json.hpp"

#include "workspace/json_reader.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace troupe::workspace {

namespace {

struct limit_field {
  std::string_view name;
  std::optional<int64_t> archive_limits::*value;
};

constexpr limit_field fields[] = {
  {"max_input_bytes", &archive_limits::max_input_bytes},
  {"max_extracted_bytes", &archive_limits::max_extracted_bytes},
  {"max_members", &archive_limits::max_members},
};

error invalid(const std::string& field, std::string message) {
  return make_error(errc::invalid_request, op::create, std::move(message)).with("field", field);
}

bool is_limit(const json& value) {
  return value.is_number_unsigned()
           ? value.get<uint64_t>() - 1 < std::numeric_limits<int64_t>::max()
           : value.is_number_integer() && value.get<int64_t>() >= 1;
}

} // namespace

result<archive_limits> parse_archive_limits(const json& value) {
  if (value.is_null())
    return archive_limits{std::nullopt, std::nullopt, std::nullopt};
  if (!value.is_object())
    return unexpected(invalid("archive_limits", "`archive_limits` must be an object"));
  archive_limits out;
  for (const auto& [key, given] : value.items()) {
    auto name = "archive_limits." + shortened(key);
    auto field = std::ranges::find(fields, std::string_view{key}, &limit_field::name);
    if (field == std::ranges::end(fields))
      return unexpected(invalid(name, "unknown field `" + name + "`"));
    if (!given.is_null() && !given.is_number_integer())
      return unexpected(invalid(name, "`" + name + "` must be an integer"));
    if (!given.is_null() && !is_limit(given))
      return unexpected(invalid(name, name + " must be at least 1"));
    out.*field->value = given.is_null() ? std::nullopt : std::optional{given.get<int64_t>()};
  }
  return out;
}

json dump_archive_limits(const archive_limits& x) {
  auto out = json::object();
  for (const auto& field : fields)
    out[std::string{field.name}] = (x.*field.value) ? json(*(x.*field.value)) : json(nullptr);
  return out;
}

} // namespace troupe::workspace
