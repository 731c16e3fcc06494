#pragma once

#include "backends/backend.hpp"
#include "backends/cgroups.hpp"
#include "backends/isolated/limit_groups.hpp"

#include <functional>
#include <memory>

namespace troupe::backends::isolated {

/// Tells of limits that a sandbox met. Reactor thread.
class limit_watch {
public:
  /// `is_new`: it cannot have met any yet.
  limit_watch(std::shared_ptr<limit_groups> v1, std::shared_ptr<cgroup> v2, bool is_new);

  limit_groups::hits now() const;

  /// Some limit may be why a command failed: the kernel keeps count.
  void tell(const std::function<void(sandbox_notice)>& told);

private:
  const std::shared_ptr<limit_groups> groups_;
  const std::shared_ptr<cgroup> unified_;
  limit_groups::hits told_hits_;
};

} // namespace troupe::backends::isolated
