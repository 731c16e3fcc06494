#pragma once

namespace troupe::cli {

/// Prints which walls isolated sandboxes have on this machine, for this user, and how to get those
/// that are missing. 0: all that can be asked for.
int doctor();

} // namespace troupe::cli
