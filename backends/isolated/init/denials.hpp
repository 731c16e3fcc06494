#pragma once

namespace troupe::backends::isolated::init {

/// Refuses one, and tells of it now and then: the count bounds what a flood can say.
void refuse_call();

} // namespace troupe::backends::isolated::init
