#pragma once

#include "messages/json.hpp"

#include <string>

namespace troupe::gateway {

/// What a call takes and gives, beside what the route table says of it.
struct call_description {
  json query = json::object();   ///< schemas of its query parameters, by name
  json body = json::object();    ///< of its request, by media type
  json answers = json::object(); ///< its successes (OpenAPI response objects), by status
};

/// Of the call "METHOD pattern". One that the table lacks is described as taking and giving
/// nothing, which no test of the API lets pass.
const call_description& describe_call(const std::string& method_and_pattern);

} // namespace troupe::gateway
