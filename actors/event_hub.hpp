#pragma once

#include "actors/offload.hpp"
#include "actors/services.hpp"

#include <deque>
#include <list>
#include <unordered_map>
#include <vector>

namespace troupe::actors {

/// Takes events from sessions, keeps the last ones at hand, hands them to whoever polls and to the
/// journal, and to the node's sinks. A reader has no queue of its own: it asks for what follows the
/// last event it saw, from memory or, if it fell behind, from the journal. So a slow reader costs
/// nothing and misses nothing.
class event_hub_state {
public:
  using handle_type = with_actions<event_hub_actor>;
  static constexpr const char* name = "troupe.event_hub";

  event_hub_state(self_ptr<handle_type> self, services& shared);

  handle_type::behavior_type make_behavior();

private:
  struct waiter {
    poll_events request;
    reply_to<event_page> reply;
    int64_t until_ms;
  };

  caf::result<void> on_publish(publish_event& x);
  caf::result<void> on_deliver(deliver_event& x);
  caf::result<void> on_flush();
  caf::result<event_page> on_poll(poll_events& x);

  /// Takes an event for readers and the journal; the event for the sinks, null without any.
  event_ptr accept(event& x);
  /// What the ring has for a reader.
  event_page page_from_ring(const poll_events& request) const;
  void read_journal(const poll_events& request, reply_to<event_page> reply);
  void flush();
  void schedule_tick();
  void tick();

  self_ptr<handle_type> self_;
  services& shared_;
  /// The last events, oldest first.
  std::deque<event> ring_;
  /// Readers that have seen everything.
  std::list<waiter> waiters_;
  /// Sessions that wait for sinks.
  std::unordered_map<uint64_t, reply_to<void>> deliveries_;
  uint64_t next_delivery_ = 0;
  /// Who waits for the journal.
  std::vector<reply_to<void>> flushes_;
  /// Not journalled yet.
  std::vector<event> unwritten_;
  bool writing_ = false;
  bool tick_scheduled_ = false;
  /// Ids are microseconds since the epoch, made unique: they keep growing over restarts.
  uint64_t last_id_ = 0;
};

} // namespace troupe::actors
