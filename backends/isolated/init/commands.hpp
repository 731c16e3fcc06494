#pragma once

#include "channel.hpp"

namespace troupe::backends::isolated::init {

/// Starts the command that `datagram` asks for; an answer, at once only if it failed.
void spawn(received& got);

} // namespace troupe::backends::isolated::init
