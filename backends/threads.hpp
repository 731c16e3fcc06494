#pragma once

#include <functional>
#include <string>
#include <thread>

namespace troupe::backends {

/// Starts a thread called `name` (at most 15 bytes) with every signal blocked: signals of the
/// process belong to its main thread.
std::thread start_thread(const std::string& name, std::function<void()> body);

} // namespace troupe::backends
