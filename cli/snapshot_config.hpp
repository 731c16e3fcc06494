#pragma once

#include "actors/services.hpp"
#include "gateway/native/object_reader.hpp"

namespace troupe::cli {

/// Reads `snapshot_stores` and `retention` (docs/snapshots.md) from a configuration. Errors name
/// the field.
result<void> read_snapshot_config(gateway::object_reader& in, actors::node_config& out);

} // namespace troupe::cli
