#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace troupe::snapshot {

/// Brings what folders of remote snapshots take together down to `max_bytes`, if that is exceeded
/// even to seven eighths of it, so that not each job has to. See `repository::trim_mirrors`.
bool trim_mirrors(const std::vector<std::string>& folders, uint64_t max_bytes,
                  const std::function<bool(const std::string& id)>& in_use);

} // namespace troupe::snapshot
