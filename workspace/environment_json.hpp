#pragma once

#include "messages/manifest.hpp"
#include "workspace/json_reader.hpp"

#include <vector>

namespace troupe::workspace {

/// Reads the `environment` of a manifest: `{"value": {name: value}}`.
std::vector<environment_value> read_environment(json_reader& read, const json& value,
                                                const location& at);

/// Writes it in the shapes that were given.
json dump_environment(const std::vector<environment_value>& values);

} // namespace troupe::workspace
