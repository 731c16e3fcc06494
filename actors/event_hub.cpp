#include "actors/event_hub.hpp"

#include <algorithm>
#include <utility>

namespace troupe::actors {

namespace {

constexpr size_t ring_limit = 4096;
constexpr size_t unwritten_limit = 20'000;
constexpr size_t waiter_limit = 4096;
constexpr auto tick_interval = std::chrono::milliseconds{50};

bool matches(const event& x, const poll_events& request) {
  return x.tenant == request.tenant
         && (request.session_id.empty() || x.session_id == request.session_id);
}

} // namespace

event_hub_state::event_hub_state(self_ptr<handle_type> self, services& shared)
  : self_(self), shared_(shared), last_id_(static_cast<uint64_t>(now_ms()) * 1000) {}

event_hub_state::handle_type::behavior_type event_hub_state::make_behavior() {
  return {
    [this](publish_event& x) { return on_publish(x); },
    [this](deliver_event& x) { return on_deliver(x); },
    [this](const flush_events&) { return on_flush(); },
    [this](poll_events& x) { return on_poll(x); },
    [](action& work) { work(); },
  };
}

caf::result<void> event_hub_state::on_publish(publish_event& x) {
  if (auto for_sinks = accept(x.event))
    shared_.sinks->publish(std::move(for_sinks));
  return caf::unit;
}

caf::result<void> event_hub_state::on_deliver(deliver_event& x) {
  auto for_sinks = accept(x.event);
  if (!for_sinks)
    return caf::unit;
  reply_to<void> reply{self_};
  auto id = next_delivery_++;
  deliveries_.emplace(id, reply);
  // A promise may not leave for another thread, so it waits here.
  actor_inbox inbox{self_};
  shared_.sinks->publish(std::move(for_sinks), [this, inbox, id](result<void> outcome) {
    inbox.post([this, id, outcome = std::move(outcome)] {
      deliveries_.extract(id).mapped().finish(outcome);
    });
  });
  return reply;
}

event_ptr event_hub_state::accept(event& published) {
  last_id_ = std::max(last_id_ + 1, static_cast<uint64_t>(published.ts_us));
  published.id = last_id_;
  shared_.metrics.events_published.fetch_add(1, std::memory_order_relaxed);
  auto for_sinks = shared_.sinks ? std::make_shared<const event>(published) : nullptr;
  published.output.reset();
  if (unwritten_.size() < unwritten_limit)
    unwritten_.push_back(published);
  else
    shared_.metrics.events_dropped.fetch_add(1, std::memory_order_relaxed);
  ring_.push_back(std::move(published));
  if (ring_.size() > ring_limit)
    ring_.pop_front();
  for (auto i = waiters_.begin(); i != waiters_.end();) {
    auto next = std::next(i);
    if (matches(ring_.back(), i->request)) {
      i->reply.finish(page_from_ring(i->request));
      waiters_.erase(i);
    }
    i = next;
  }
  schedule_tick();
  return for_sinks;
}

caf::result<void> event_hub_state::on_flush() {
  reply_to<void> reply{self_};
  flushes_.push_back(reply);
  flush();
  return reply;
}

caf::result<event_page> event_hub_state::on_poll(poll_events& x) {
  reply_to<event_page> reply{self_};
  if (x.from_now) {
    x.after_id = last_id_;
    x.from_now = false;
  }
  // Without anything in the ring after that id, the journal may still have some: after a restart.
  auto oldest = ring_.empty() ? last_id_ + 1 : ring_.front().id;
  if (x.after_id + 1 < oldest && x.after_id < last_id_) {
    read_journal(x, reply);
    return reply;
  }
  auto page = page_from_ring(x);
  if (!page.items.empty() || waiters_.size() >= waiter_limit) {
    reply.finish(std::move(page));
    return reply;
  }
  auto until = now_ms() + std::clamp<int64_t>(x.wait_ms, 0, 60'000);
  waiters_.push_back({std::move(x), reply, until});
  schedule_tick();
  return reply;
}

event_page event_hub_state::page_from_ring(const poll_events& request) const {
  event_page page;
  page.next_after = std::max(request.after_id, last_id_);
  auto first = std::upper_bound(ring_.begin(), ring_.end(), request.after_id,
                                [](uint64_t id, const event& e) { return id < e.id; });
  for (auto i = first; i != ring_.end(); ++i) {
    if (!matches(*i, request))
      continue;
    page.items.push_back(*i);
    if (page.items.size() == static_cast<size_t>(request.limit)) {
      page.next_after = i->id;
      break;
    }
  }
  return page;
}

void event_hub_state::read_journal(const poll_events& request, reply_to<event_page> reply) {
  flush();
  read_events query{request.after_id, request.session_id, request.tenant, request.limit};
  // What is in the ring is not older than what the journal lacks, so a short page ends at the ring.
  auto ring_start = ring_.empty() ? last_id_ : ring_.front().id - 1;
  ask_then<std::vector<event>>(
    self_, shared_.directory.registry(),
    [this, request, reply, ring_start](result<std::vector<event>> x) {
      if (!x) {
        reply.finish(unexpected(std::move(x.error())));
        return;
      }
      event_page page;
      page.items = std::move(*x);
      if (page.items.size() == static_cast<size_t>(request.limit)) {
        page.next_after = page.items.back().id;
        reply.finish(std::move(page));
        return;
      }
      auto after = page.items.empty() ? request.after_id : page.items.back().id;
      auto rest = request;
      rest.after_id = std::max(after, ring_start);
      rest.limit = request.limit - static_cast<int32_t>(page.items.size());
      auto recent = page_from_ring(rest);
      page.next_after = recent.next_after;
      std::move(recent.items.begin(), recent.items.end(), std::back_inserter(page.items));
      reply.finish(std::move(page));
    },
    std::move(query));
}

void event_hub_state::flush() {
  if (writing_)
    return;
  if (unwritten_.empty()) {
    for (const auto& waiting : std::exchange(flushes_, {}))
      waiting.finish({});
    return;
  }
  writing_ = true;
  append_events batch{std::move(unwritten_)};
  unwritten_.clear();
  auto count = batch.events.size();
  ask_then<void>(
    self_, shared_.directory.registry(),
    [this, count](const result<void>& x) {
      writing_ = false;
      if (!x)
        shared_.metrics.events_dropped.fetch_add(count, std::memory_order_relaxed);
      if (!flushes_.empty())
        flush();
      schedule_tick();
    },
    std::move(batch));
}

void event_hub_state::schedule_tick() {
  if (tick_scheduled_ || (unwritten_.empty() && waiters_.empty()))
    return;
  tick_scheduled_ = true;
  tell_later(self_, tick_interval, action{[this] { tick(); }});
}

void event_hub_state::tick() {
  tick_scheduled_ = false;
  flush();
  auto now = now_ms();
  for (auto i = waiters_.begin(); i != waiters_.end();) {
    auto next = std::next(i);
    if (i->until_ms <= now) {
      i->reply.finish(page_from_ring(i->request));
      waiters_.erase(i);
    }
    i = next;
  }
  schedule_tick();
}

} // namespace troupe::actors
