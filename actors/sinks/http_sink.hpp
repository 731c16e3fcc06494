#pragma once

#include "actors/sinks/event_sink.hpp"

#include <chrono>
#include <map>
#include <memory>
#include <string>

namespace troupe::actors {

struct http_options {
  std::string endpoint = {}; ///< http:// or https://
  std::map<std::string, std::string> headers = {};
  std::chrono::milliseconds timeout{5000}; ///< of one event, all included
  std::string spool_path = {}; ///< a file of the host for what could not be delivered; empty: none
};

/// Posts each event as JSON. Anything but a 2xx answer is a failure; redirects are not followed.
class http_sink : public event_sink {
public:
  /// `sandbox_config_invalid` for an endpoint or header that cannot be.
  static result<std::unique_ptr<event_sink>> make(sink_settings settings, http_options options);
  ~http_sink() override;

  std::string_view type() const override {
    return "http";
  }

protected:
  result<void> take(const event& x, const sink_context& context) override;

private:
  struct client;
  http_sink(sink_settings settings, std::string spool_path, std::unique_ptr<client> ready);

  std::string spool_path_;
  std::unique_ptr<client> client_;
};

} // namespace troupe::actors
