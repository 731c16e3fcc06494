#include "backends/isolated/limit_watch.hpp"

#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>

namespace troupe::backends::isolated {

namespace {

/// Who meets a limit without end is told of once in this time.
constexpr std::chrono::milliseconds pause_after_news{1000};
/// Version 1 wakes us before it kills.
constexpr std::chrono::milliseconds pause_before_count{100};
/// At counts that change without a word.
constexpr std::chrono::milliseconds look_interval{2000};

} // namespace

limit_watch::limit_watch(std::shared_ptr<limit_groups> v1, std::shared_ptr<cgroup> v2,
                         std::vector<limit_groups::alarm> alarms, bool is_new)
  : groups_(std::move(v1)), unified_(std::move(v2)),
    told_hits_(is_new ? limit_groups::hits{} : now()) {
  for (auto& x : alarms)
    alarms_.push_back({std::move(x), 0});
}

limit_groups::hits limit_watch::now() const {
  return groups_->hits_so_far(unified_ ? unified_->directory()->get() : -1);
}

void limit_watch::start(reactor& events, listener told) {
  events.post([self = shared_from_this(), &events, told = std::move(told)]() mutable {
    self->events_ = &events;
    self->told_ = std::move(told);
    std::weak_ptr<limit_watch> weak = self;
    auto fired = [weak](uint32_t) {
      if (auto watch = weak.lock())
        watch->on_alarm();
    };
    for (auto& x : self->alarms_)
      x.id = events.watch(x.alarm.fd.get(), x.alarm.events, fired);
    // What happened before is told too, but not before the first command is on its way.
    self->listen_again_after(pause_before_count);
  });
}

void limit_watch::stop() {
  told_ = nullptr;
  if (events_ == nullptr)
    return;
  events_->cancel(pause_);
  for (const auto& x : alarms_)
    events_->unwatch(x.id);
  alarms_.clear();
}

void limit_watch::on_alarm() {
  listen(false);
  listen_again_after(tell() ? pause_after_news : pause_before_count);
}

void limit_watch::listen_again_after(std::chrono::milliseconds pause) {
  events_->cancel(pause_);
  pause_ = events_->at(reactor::clock::now() + pause, [weak = weak_from_this()] {
    if (auto watch = weak.lock())
      watch->listen_again();
  });
}

void limit_watch::listen_again() {
  // Read before it is looked at what they mean, so that a change after it wakes us again.
  std::array<char, 1024> unused;
  for (const auto& x : alarms_)
    if (::pread(x.alarm.fd.get(), unused.data(), unused.size(), 0) < 0) // an eventfd has no place
      (void) !::read(x.alarm.fd.get(), unused.data(), unused.size());
  tell();
  listen(true);
  if (groups_->has_silent())
    listen_again_after(look_interval);
}

void limit_watch::listen(bool on) {
  for (const auto& x : alarms_)
    events_->modify(x.id, on ? x.alarm.events : 0);
}

bool limit_watch::tell() {
  auto all = now();
  auto is_news = all.memory > told_hits_.memory || all.pids > told_hits_.pids;
  auto one = [&](const char* limit, int64_t count) {
    if (count <= 0 || !told_)
      return;
    sandbox_notice notice;
    notice.data = std::string{R"({"what":"limit","limit":")"} + limit + R"(","count":)"
                  + std::to_string(count) + "}";
    notice.failure = make_error(errc::quota_exceeded, op::sandbox,
                                std::string{"the sandbox met its limit: "} + limit);
    told_(std::move(notice));
  };
  one("memory", all.memory - told_hits_.memory);
  one("pids", all.pids - told_hits_.pids);
  told_hits_ = all;
  return is_news;
}

} // namespace troupe::backends::isolated
