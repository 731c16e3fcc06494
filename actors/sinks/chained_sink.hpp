#pragma once

#include "actors/sinks/event_sink.hpp"

#include <memory>
#include <vector>

namespace troupe::actors {

/// Hands an event to one sink after the other, whatever their modes: each begins when the one
/// before has ended. One that raises ends the chain for that event.
class chained_sink : public event_sink {
public:
  chained_sink(sink_settings settings, std::vector<std::unique_ptr<event_sink>> sinks)
    : event_sink(settings), sinks_(std::move(sinks)) {}

  std::string_view type() const override {
    return "chained";
  }

  size_t output_bytes(const event_policies& policies) const override;

protected:
  result<void> take(const event& x, const sink_context& context) override;

private:
  std::vector<std::unique_ptr<event_sink>> sinks_;
};

} // namespace troupe::actors
