#pragma once

#include "actors/sinks/event_payload.hpp"
#include "actors/sinks/event_sink.hpp"

namespace troupe::actors {

/// What an embedder gives to be called, on a pool thread. While an operation waits for it, it must
/// not wait for an operation of the same session.
using event_callback = std::function<result<void>(const event_payload&)>;

class callback_sink : public event_sink {
public:
  callback_sink(sink_settings settings, event_callback callback)
    : event_sink(settings), callback_(std::move(callback)) {}

  std::string_view type() const override {
    return "callback";
  }

protected:
  result<void> take(const event& x, const sink_context& context) override {
    return callback_(make_payload(x, policy_for(x, context)));
  }

private:
  event_callback callback_;
};

} // namespace troupe::actors
