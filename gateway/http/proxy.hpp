#pragma once

#include "gateway/http/http.hpp"
#include "messages/unique_fd.hpp"

#include <chrono>
#include <functional>

namespace troupe::gateway {

/// Where a request goes on to.
struct proxy_target {
  /// Gets a connected (or connecting) stream, not blocking; an empty one means `host` and `port`.
  using dialled = std::function<void(result<unique_fd>)>;
  std::function<void(dialled)> dial; ///< null: `host` and `port`. The answer may come on any thread

  std::string host; ///< an address or a name
  uint16_t port = 0;
  std::string target;              ///< for the request line, as it is
  std::string prefix;              ///< what the client's path has before that of `target`
  bool with_authorization = false; ///< pass `Authorization` on
};

struct proxy_options {
  std::chrono::milliseconds connect_timeout{5'000};   ///< for all addresses of a name
  std::chrono::milliseconds answer_timeout{300'000};  ///< from the last byte sent
  std::chrono::milliseconds idle_timeout{300'000};    ///< without a byte of the answer's body
  std::chrono::milliseconds tunnel_timeout{3600'000}; ///< without a byte either way
};

/// Answers `x` with what an HTTP/1.1 server elsewhere answers to the same request, both bodies by
/// the piece. A request for a WebSocket becomes a tunnel once the other side has agreed. Fields
/// that are about one connection only, trailers and interim answers stay behind.
///
/// Nobody there, or no HTTP: `exposed_port_unavailable`; no answer in time: `timeout`. An answer
/// that breaks off is cut for the client too.
void forward(std::shared_ptr<exchange> x, proxy_target to, proxy_options options = {});

} // namespace troupe::gateway
