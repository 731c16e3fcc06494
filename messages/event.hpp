#pragma once

#include "messages/error.hpp"
#include "messages/inspect.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace troupe {

enum class event_phase : uint8_t {
  start,
  finish,
  progress, ///< ours: how far long work has come
};

std::string_view to_string(event_phase phase);

/// What a command printed, or the start of it.
struct event_output {
  std::string stdout_data;
  std::string stderr_data;
};

/// One line of a session's audit trail.
struct event {
  uint64_t id = 0; ///< of the node's journal; 0: not journalled yet
  std::string event_id;
  int64_t ts_us = 0; ///< since the epoch, UTC
  std::string session_id;
  std::string tenant;
  uint64_t seq = 0; ///< counts a session's events from 1
  op operation = op::exec;
  event_phase phase = event_phase::start;
  std::string span_id;
  std::string data = "{}"; ///< JSON object
  // -- of a finish --------------------------------------------------------------------------------
  bool ok = true;
  int64_t duration_us = 0;
  std::optional<error> failure;
  /// Of an exec, for sinks whose policy asks for it. Never leaves the process, is not journalled
  /// and not shown to readers.
  std::shared_ptr<const event_output> output;
};

template <class Inspector>
auto inspect(Inspector& f, event& x) {
  return inspect_object(f, x, field("id", x.id), field("event_id", x.event_id),
                        field("ts_us", x.ts_us), field("session_id", x.session_id),
                        field("tenant", x.tenant), field("seq", x.seq), field("op", x.operation),
                        field("phase", x.phase), field("span_id", x.span_id), field("data", x.data),
                        field("ok", x.ok), field("duration_us", x.duration_us),
                        field("failure", x.failure));
}

} // namespace troupe
