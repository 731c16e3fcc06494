#pragma once

#include "cli/config.hpp"

namespace troupe::cli {

/// Runs the server until SIGTERM or SIGINT. Both must be blocked in every thread. Exit codes: 0
/// after a clean stop, 1 when it could not start, 3 when it gave up (a service manager should
/// restart it).
int serve(serve_config config);

} // namespace troupe::cli
