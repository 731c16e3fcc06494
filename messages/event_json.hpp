#pragma once

#include "messages/event.hpp"
#include "messages/json.hpp"

namespace troupe {

/// An event as the contract writes it; a progress event has phase `progress`. Text at once, for
/// each operation of a session writes two of them.
std::string event_text(const event& x);

/// The same as a value.
json event_to_json(const event& x);

/// The reverse; what is missing keeps its default. `id` and `tenant` are not in there.
event event_from_json(const json& value);

} // namespace troupe
