#pragma once

#include "messages/json.hpp"
#include "messages/session.hpp"

#include <array>
#include <optional>
#include <string_view>

namespace troupe::workspace {

/// One limit of a session: its name in a state, where it is, and what it may be.
struct limit_field {
  std::string_view name;
  std::optional<int64_t> session_limits::*value;
  int64_t min;
  int64_t max;
  bool isolated; ///< no other backend can hold it
};

extern const std::array<limit_field, 8> limit_fields;

/// Those that are set, by name.
json dump_session_limits(const session_limits& x);

/// Null or missing: none. Members that we do not know are ignored. Nullopt: a value that no limit
/// of such a session can have.
std::optional<session_limits> parse_session_limits(const json& value, backend_kind kind);

} // namespace troupe::workspace
