#include "backends/isolated/shared_parts.hpp"

#include "backends/granted_ids.hpp"
#include "backends/isolated/seccomp.hpp"
#include "backends/isolated/uid_range.hpp"

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
  return (::geteuid() == 0 || granted_ids()) && !waived("user_range");
}

bool shared_parts::is_shared(uint32_t first) const {
  return granted_ids() && granted_ids()->first == first;
}

result<uint32_t> shared_parts::take_ids(const std::string& owner) const {
  if (!gives_ranges())
    return 0;
  if (const auto& all = granted_ids())
    return take_granted_range(options.uid_dir, all->first, all->count / ids_per_range, owner);
  return take_uid_range(options.uid_dir, options.uid_base, owner);
}

bool shared_parts::move_ids(uint32_t first, const std::string& owner) const {
  return first == 0 || is_shared(first)
         || move_uid_range(options.uid_dir, first_range(), first, owner);
}

void shared_parts::release_ids(uint32_t first) const {
  if (first != 0 && !is_shared(first))
    release_uid_range(options.uid_dir, first_range(), first);
}

uint32_t shared_parts::first_range() const {
  return granted_ids() ? granted_ids()->first : options.uid_base;
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
