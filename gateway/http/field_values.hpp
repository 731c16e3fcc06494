#pragma once

#include "gateway/http/http.hpp"

namespace troupe::gateway {

/// Takes the text up to `separator` off `rest`, without the blanks around it.
std::string_view next_item(std::string_view& rest, char separator);

/// Whether a field called `name` has `token` in its comma-separated list.
bool lists_token(const header_list& headers, std::string_view name, std::string_view token);

/// Whether a request wants to go on with another protocol.
bool asks_to_upgrade(const request_head& head, std::string_view protocol);

} // namespace troupe::gateway
