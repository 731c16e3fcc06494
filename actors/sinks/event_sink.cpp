#include "actors/sinks/event_sink.hpp"

#include "actors/sinks/event_payload.hpp"

#include <algorithm>
#include <exception>
#include <utility>

namespace troupe::actors {

namespace {

error named(error cause, std::string_view type, const event& x) {
  cause.message
    = "event sink " + std::string{type} + " failed for event " + x.event_id + ": " + cause.message;
  return cause;
}

} // namespace

bool event_sink::awaited() const {
  return settings_.mode == sink_mode::sync
         || (settings_.mode == sink_mode::async && settings_.on_error == sink_on_error::raise);
}

result<void> event_sink::deliver(const event& x, const sink_context& context) {
  result<void> taken;
  try {
    taken = take(x, context);
  } catch (const std::exception& e) { // an embedder's callback, or memory
    taken = unexpected(make_error(errc::internal, x.operation, e.what()));
  }
  if (taken) {
    ++delivered_;
    failing_ = false;
    return {};
  }
  ++failed_;
  auto failure = named(std::move(taken.error()), type(), x);
  if (settings_.on_error != sink_on_error::ignore && !std::exchange(failing_, true))
    context.log(failure);
  if (settings_.on_error == sink_on_error::raise)
    return unexpected(std::move(failure));
  return {};
}

size_t event_sink::output_bytes(const event_policies& policies) const {
  auto policy = policies.effective(op::exec, settings_.policy);
  if (!*policy.include_exec_output)
    return 0;
  return bytes_for(std::max(*policy.max_stdout_chars, *policy.max_stderr_chars));
}

} // namespace troupe::actors
