#pragma once

#include "state.hpp"

// How commands end, and streams that init reads for those whose controller is gone.

namespace troupe::backends::isolated::init {

void remove_spool(uint32_t i);

bool is_full(const spool& x);

/// One read. What there is no room for is dropped, so that its writer neither waits nor dies.
void read_spool(spool& x);

/// Tells the ends that were not told yet; what cannot be told stays for later.
void report();

/// Everything that ended, also what others left behind. In rounds, lest a flood of them keep us
/// from everything else.
void reap();

} // namespace troupe::backends::isolated::init
