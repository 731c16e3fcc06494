#pragma once

#include "messages/error.hpp"

#include <string>

namespace troupe::backends::isolated {

/// (blocks) The system calls that programs in a sandbox may make, as a program for the kernel: what
/// is not listed fails with EPERM, another processor's calls kill. Calls that only an attack makes
/// are given to who listens to the filter, to refuse them and to tell of it; without a listener
/// they fail with ENOSYS. Made by libseccomp once, so that init needs no library.
result<std::string> build_seccomp_filter();

/// Of a system call of this machine: "mount".
std::string name_of_call(int number);

} // namespace troupe::backends::isolated
