#pragma once

#include "actors/sinks/event_sink.hpp"

#include <string>

namespace troupe::actors {

/// Appends a line per event to a file of the host. Opens it each time, so it may be rotated.
class jsonl_sink : public event_sink {
public:
  jsonl_sink(sink_settings settings, std::string path)
    : event_sink(settings), path_(std::move(path)) {}

  std::string_view type() const override {
    return "jsonl";
  }

protected:
  result<void> take(const event& x, const sink_context& context) override;

private:
  std::string path_;
};

} // namespace troupe::actors
