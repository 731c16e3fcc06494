#pragma once

#include <cstdint>
#include <vector>

namespace troupe::backends {

/// A user as the kernel knows one.
struct user_ids {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups; ///< supplementary

  friend bool operator==(const user_ids&, const user_ids&) = default;
};

} // namespace troupe::backends
