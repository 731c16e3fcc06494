#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::workspace {

/// RFC 4648 with padding, on one line.
std::string base64_encode(std::string_view bytes);

/// nullopt for anything but what `base64_encode` writes.
std::optional<std::string> base64_decode(std::string_view text);

} // namespace troupe::workspace
