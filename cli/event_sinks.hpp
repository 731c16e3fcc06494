#pragma once

#include "actors/sinks/sink_config.hpp"
#include "gateway/native/object_reader.hpp"

namespace troupe::cli {

/// Reads `event_sinks`, `event_policy` and `event_policy_by_op` (docs/events.md) from a
/// configuration. Errors name the field.
result<void> read_event_sinks(gateway::object_reader& in, std::vector<actors::sink_config>& sinks,
                              actors::event_policies& policies);

} // namespace troupe::cli
