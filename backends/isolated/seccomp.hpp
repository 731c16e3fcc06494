#pragma once

#include "messages/error.hpp"

#include <string>

namespace troupe::backends::isolated {

/// (blocks) The system calls that programs in a sandbox may make, as a program for the kernel: what
/// is not listed is given to who listens to the filter, to refuse it and to tell of it; without a
/// listener it fails with ENOSYS. Another processor's calls kill. What ordinary programs try too
/// fails without being told. Made by libseccomp once, so that init needs no library.
result<std::string> build_seccomp_filter();

/// Of a system call of this machine: "mount".
std::string name_of_call(int number);

} // namespace troupe::backends::isolated
