#pragma once

#include "messages/json.hpp"
#include "messages/requests.hpp"

namespace troupe::gateway {

class object_reader;

/// The member `labels`, bounded: every list of sessions has them.
std::map<std::string, std::string> read_labels(object_reader& in);

/// Reads a create request. The id is left empty.
result<session_spec> parse_create_request(const json& body, backend_kind default_backend);

/// Reads `{"state": ..., "options"?: ...}`.
result<session_spec> parse_resume_request(const json& body);

/// Reads the object `limits` of a request; `where` is how errors name it.
result<void> read_limits(const json& value, backend_kind kind, session_limits& out,
                         const char* where = "limits");

/// A session as clients see it. `with_state`: with the serialised state, which lists leave out.
json session_to_json(const session_view& x, bool with_state = true);

json snapshot_to_json(const snapshot_info& x);
json diff_to_json(const workspace_diff& x);

} // namespace troupe::gateway
