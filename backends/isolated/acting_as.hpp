#pragma once

#include "backends/user_ids.hpp"

namespace troupe::backends::isolated {

/// While it lives, what this thread does to files it does as another user: the kernel decides as
/// for that user, and what is made belongs to it. Only this thread changes; libc's own calls would
/// change all of them. Needs root; without, nothing changes.
class acting_as {
public:
  explicit acting_as(const user_ids& who);
  ~acting_as();

  acting_as(const acting_as&) = delete;
  acting_as& operator=(const acting_as&) = delete;

private:
  uint32_t uid_;
  uint32_t gid_;
  bool changed_;
};

} // namespace troupe::backends::isolated
