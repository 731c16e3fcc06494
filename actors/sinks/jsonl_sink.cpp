#include "actors/sinks/jsonl_sink.hpp"

#include "actors/sinks/append.hpp"
#include "actors/sinks/event_payload.hpp"

namespace troupe::actors {

result<void> jsonl_sink::take(const event& x, const sink_context& context) {
  return append_to_file(path_, event_line(make_payload(x, policy_for(x, context))));
}

} // namespace troupe::actors
