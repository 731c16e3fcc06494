#pragma once

#include "messages/event.hpp"
#include "messages/json.hpp"

namespace troupe {

/// An event as the contract writes it; a progress event has phase `progress`.
json event_to_json(const event& x);

/// The reverse; what is missing keeps its default. `id` and `tenant` are not in there.
event event_from_json(const json& value);

} // namespace troupe
