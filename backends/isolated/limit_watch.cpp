#include "backends/isolated/limit_watch.hpp"

#include <cstdint>
#include <string>
#include <utility>

namespace troupe::backends::isolated {

limit_watch::limit_watch(std::shared_ptr<limit_groups> v1, std::shared_ptr<cgroup> v2, bool is_new)
  : groups_(std::move(v1)), unified_(std::move(v2)),
    told_hits_(is_new ? limit_groups::hits{} : now()) {}

limit_groups::hits limit_watch::now() const {
  return groups_->hits_so_far(unified_ ? unified_->directory()->get() : -1);
}

void limit_watch::tell(const std::function<void(sandbox_notice)>& told) {
  auto all = now();
  auto one = [&](const char* limit, int64_t count) {
    if (count <= 0)
      return;
    sandbox_notice notice;
    notice.data = std::string{R"({"what":"limit","limit":")"} + limit + R"(","count":)"
                  + std::to_string(count) + "}";
    notice.failure = make_error(errc::quota_exceeded, op::sandbox,
                                std::string{"the sandbox met its limit: "} + limit);
    told(std::move(notice));
  };
  one("memory", all.memory - told_hits_.memory);
  one("pids", all.pids - told_hits_.pids);
  told_hits_ = all;
}

} // namespace troupe::backends::isolated
