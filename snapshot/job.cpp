#include "snapshot/job.hpp"

#include <utility>

namespace troupe::snapshot {

namespace {

constexpr auto report_interval = std::chrono::milliseconds{100};

} // namespace

job::job(op operation, std::stop_token stop, const progress& report)
  : operation_(operation), stop_(std::move(stop)), report_(report),
    next_report_(std::chrono::steady_clock::now() + report_interval) {}

result<void> job::step() {
  if (stop_.stop_requested())
    return unexpected(
      make_error(errc::cancelled, operation_, "the work on the archive was cancelled"));
  if (!report_)
    return {};
  if (auto now = std::chrono::steady_clock::now(); now >= next_report_) {
    next_report_ = now + report_interval;
    report_(files, bytes);
  }
  return {};
}

void job::done() {
  if (report_)
    report_(files, bytes);
}

} // namespace troupe::snapshot
