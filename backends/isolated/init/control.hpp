#pragma once

namespace troupe::backends::isolated::init {

/// Takes one request of the controller. False when there is none, or the controller is gone.
bool serve_one();

/// One at a time: while there is one, others are turned away.
void accept_controller();

} // namespace troupe::backends::isolated::init
