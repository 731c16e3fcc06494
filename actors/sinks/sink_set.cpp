#include "actors/sinks/sink_set.hpp"

#include <algorithm>

namespace troupe::actors {

/// One event on its way past all sinks.
struct sink_set::pass {
  event_ptr what;
  event_done done;
  size_t next = 0;
  result<void> outcome;
};

result<std::unique_ptr<sink_set>> sink_set::make(std::vector<sink_config> sinks,
                                                 event_policies policies, host host) {
  std::unique_ptr<sink_set> set{new sink_set};
  auto context
    = std::make_shared<const sink_context>(sink_context{std::move(policies), std::move(host.log)});
  for (const auto& config : sinks) {
    auto sink = make_sink(config, host.append);
    if (!sink)
      return unexpected(std::move(sink.error()));
    set->awaited_ |= (*sink)->awaited();
    set->output_bytes_ = std::max(set->output_bytes_, (*sink)->output_bytes(context->policies));
    set->lanes_.push_back(std::make_shared<sink_lane>(std::move(*sink), context, host.run));
  }
  set->configs_ = std::move(sinks);
  return set;
}

sink_set::~sink_set() {
  close();
  for (const auto& lane : lanes_)
    lane->wait_idle(std::chrono::steady_clock::time_point::max());
}

void sink_set::publish(event_ptr x, event_done done) {
  if (x->phase == event_phase::progress) {
    if (done)
      done({});
    return;
  }
  if (done) {
    go_on(std::make_shared<pass>(pass{std::move(x), std::move(done), 0, {}}));
    return;
  }
  for (const auto& lane : lanes_)
    lane->push(x, {});
}

void sink_set::go_on(const std::shared_ptr<pass>& x) {
  while (x->next < lanes_.size()) {
    auto& lane = *lanes_[x->next++];
    if (!lane.sink().awaited()) {
      lane.push(x->what, {});
      continue;
    }
    lane.push(x->what, [this, x](result<void> outcome) {
      if (x->outcome)
        x->outcome = std::move(outcome);
      go_on(x);
    });
    return;
  }
  x->done(std::move(x->outcome));
}

std::shared_ptr<const event_output> sink_set::capture(std::string_view stdout_data,
                                                      std::string_view stderr_data) const {
  if (output_bytes_ == 0)
    return nullptr;
  return std::make_shared<const event_output>(
    event_output{std::string{stdout_data.substr(0, output_bytes_)},
                 std::string{stderr_data.substr(0, output_bytes_)}});
}

bool sink_set::flush(std::chrono::milliseconds at_most) {
  auto deadline = std::chrono::steady_clock::now() + at_most;
  return std::all_of(lanes_.begin(), lanes_.end(),
                     [&](const auto& lane) { return lane->wait_idle(deadline); });
}

void sink_set::close() {
  for (const auto& lane : lanes_)
    lane->close();
}

std::vector<sink_stats> sink_set::stats() const {
  std::vector<sink_stats> all;
  for (const auto& lane : lanes_)
    all.push_back(lane->stats());
  return all;
}

} // namespace troupe::actors
