#pragma once

#include "messages/event.hpp"

#include <cstdint>
#include <map>
#include <optional>

namespace troupe::actors {

/// What a sink may see of an event. A field that is not set leaves the choice to the wider policy.
struct event_policy {
  std::optional<bool> include_exec_output;
  std::optional<uint32_t> max_stdout_chars;
  std::optional<uint32_t> max_stderr_chars;
  std::optional<bool> include_write_len; ///< `bytes` in `data`
  std::optional<bool> redact_paths;
};

/// `base` with what `over` sets.
event_policy overlay(event_policy base, const event_policy& over);

/// What holds for all sinks of a node.
struct event_policies {
  event_policy all;
  std::map<op, event_policy> by_op;

  /// The policy for a sink with the policy `own`. Every field is set; the defaults are: no output,
  /// 8000 characters of each stream, lengths shown, paths shown.
  event_policy effective(op operation, const event_policy& own) const;
};

} // namespace troupe::actors
