#pragma once

#include "messages/error.hpp"
#include "messages/json.hpp"
#include "messages/session.hpp"

namespace troupe::workspace {

/// Reads `{"max_input_bytes", "max_extracted_bytes", "max_members"}`. A member that is missing has
/// its default, one that is null no limit; null instead of the object means no limits at all.
/// `invalid_request`.
result<archive_limits> parse_archive_limits(const json& value);

/// Writes all three, null for no limit.
json dump_archive_limits(const archive_limits& x);

} // namespace troupe::workspace
