#include "actors/sinks/chained_sink.hpp"

#include <algorithm>

namespace troupe::actors {

size_t chained_sink::output_bytes(const event_policies& policies) const {
  size_t most = 0;
  for (const auto& sink : sinks_)
    most = std::max(most, sink->output_bytes(policies));
  return most;
}

result<void> chained_sink::take(const event& x, const sink_context& context) {
  for (const auto& sink : sinks_)
    if (auto done = sink->deliver(x, context); !done)
      return done;
  return {};
}

} // namespace troupe::actors
