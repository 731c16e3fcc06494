#pragma once

#include "actors/sinks/event_policy.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace troupe::actors {

/// An event as one sink may see it.
struct event_payload {
  event what; ///< without the raw output
  std::optional<std::string> stdout_text;
  std::optional<std::string> stderr_text;
};

/// `policy` has every field set.
event_payload make_payload(const event& x, const event_policy& policy);

/// As many bytes of a stream's start as `max_chars` characters and the knowledge that there are
/// more can take.
size_t bytes_for(uint32_t max_chars);

/// The contract's line: keys sorted, no blanks, ASCII only, LF at the end.
std::string event_line(const event_payload& x);

} // namespace troupe::actors
