#pragma once

#include "messages/exec.hpp"

#include <string>
#include <vector>

// How a command becomes what the kernel runs (`contract: exec, preparing the argument vector`).
// Pure functions.

namespace troupe::backends {

/// The argument vector of `request`, with `sudo` for a user. `shell_flag` is what the backend's
/// `sh` gets: "-lc", but "-c" in unix_local. A shell prefix that is empty means no shell.
std::vector<std::string> prepare_argv(const exec_request& request, const std::string& shell_flag);

/// What unix_local hands to the kernel.
struct local_process {
  std::vector<std::string> argv;
  std::string cwd;
};

/// Places `argv` into `directory`, which is the workspace root unless the client asked for another:
/// `sh -c` goes there itself, from `/`; everything else is started there. In the root, absolute
/// arguments below it become relative.
local_process place_argv(std::vector<std::string> argv, const std::string& root,
                         const std::string& directory);

/// The PATH of commands whose environment has none.
inline constexpr const char* default_path
  = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a host variable may be passed on: `patterns` are names, or beginnings ended by `*`.
bool is_allowed(const std::string& name, const std::vector<std::string>& patterns);

} // namespace troupe::backends
