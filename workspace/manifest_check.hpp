#pragma once

#include "messages/error.hpp"
#include "messages/manifest.hpp"

namespace troupe::workspace {

/// The path rules of entries, at all levels; bounds what joining the paths can cost.
result<void> check_entry_paths(const manifest& x);

} // namespace troupe::workspace
