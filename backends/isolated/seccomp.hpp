#pragma once

#include "messages/error.hpp"

#include <string>

namespace troupe::backends::isolated {

/// (blocks) The system calls that programs in a sandbox may make, as a program for the kernel: what
/// is not listed fails with EPERM, another processor's calls kill. Made by libseccomp once, so that
/// init needs no library.
result<std::string> build_seccomp_filter();

} // namespace troupe::backends::isolated
