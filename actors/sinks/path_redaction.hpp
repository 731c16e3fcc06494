#pragma once

#include "messages/event.hpp"

namespace troupe::actors {

/// Replaces paths in an event's `data` and in its error's message by `<path>` and drops the error's
/// context. Known to be paths: the members that name one, and every word that starts with a slash.
/// A relative path in the middle of a command's text cannot be told from other words and stays.
void redact_paths(event& x);

} // namespace troupe::actors
