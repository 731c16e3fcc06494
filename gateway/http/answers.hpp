#pragma once

#include "gateway/http/http.hpp"
#include "messages/json.hpp"

namespace troupe::gateway {

/// The status that the HTTP API gives an error.
int http_status(errc code);

/// `{"error": {...}}` with the status of its code, and `Retry-After` where waiting helps.
response error_response(const error& failure, std::string_view request_id);

response json_response(int status, const json& body);

} // namespace troupe::gateway
