#include "backends/isolated/shared_parts.hpp"

#include "backends/isolated/seccomp.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>

namespace troupe::backends::isolated {

result<std::string> shared_parts::filter() {
  std::lock_guard guard{mutex_};
  if (filter_.empty()) {
    auto made = build_seccomp_filter();
    if (!made)
      return made;
    filter_ = std::move(*made);
  }
  return filter_;
}

bool shared_parts::waived(const std::string& name) const {
  return std::find(options.waive.begin(), options.waive.end(), name) != options.waive.end();
}

bool shared_parts::gives_ranges() const {
  return ::geteuid() == 0 && !waived("user_range");
}

std::string shared_parts::why_no_layers() const {
  if (waived("layers"))
    return "waived by the operator";
  std::lock_guard guard{mutex_};
  return why_no_layers_;
}

void shared_parts::no_layers(const std::string& why) {
  std::lock_guard guard{mutex_};
  why_no_layers_ = why;
}

egress::service& shared_parts::egress() {
  std::lock_guard guard{mutex_};
  if (!egress_) {
    egress::service::options x;
    for (const auto& text : options.egress_ranges)
      if (auto range = egress::parse_range(text))
        x.allowed.push_back(*range);
    x.limits.connections = static_cast<size_t>(options.egress_connections);
    x.limits.idle_time = std::chrono::seconds{options.egress_idle_seconds};
    egress_ = std::make_unique<egress::service>(std::move(x));
  }
  return *egress_;
}

} // namespace troupe::backends::isolated
