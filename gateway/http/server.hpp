#pragma once

#include "gateway/http/http.hpp"

#include <chrono>
#include <memory>

namespace troupe::gateway {

/// One finished request, for metrics.
struct access_record {
  std::string_view method;
  std::string_view route; ///< the pattern; empty: none was found
  int status;             ///< 499: the client left before an answer began
  std::chrono::nanoseconds
    duration; ///< from its first byte until the last of the answer was written
};

struct server_options {
  std::string address = "127.0.0.1"; ///< or a host name; its first address counts
  uint16_t port = 0;                 ///< 0: any free one
  unsigned threads = 1;              ///< a connection stays on one of them
  /// When they are all in use, a new connection takes the place of the one that has waited longest
  /// for a request to be complete. If all have one running, it is closed at once, without an
  /// answer.
  size_t max_connections = 8192;
  std::chrono::milliseconds header_timeout{15'000}; ///< from accept, later from the first byte
  std::chrono::milliseconds idle_timeout{120'000};  ///< between two requests
  std::chrono::milliseconds body_timeout{60'000};   ///< without a byte while a handler reads
  /// Bytes of body per second while a handler reads. A client may fall behind by `body_timeout`:
  /// one that sends a byte now and then would else hold its connection for ever.
  int64_t min_body_rate = 64;
  std::chrono::milliseconds write_timeout{60'000};     ///< without the client taking a byte
  size_t header_limit = 16 * 1024;                     ///< bytes, with the request line
  uint64_t body_limit = 8 * 1024 * 1024;               ///< until `exchange::set_body_limit`
  std::function<void(const access_record&)> on_access; ///< called on the server threads
};

/// An HTTP/1.1 server on threads of its own.
class server {
public:
  /// Listens and serves. Fails with `conflict` if the port is taken, `invalid_request` for an
  /// address that cannot be had.
  static result<std::unique_ptr<server>> start(server_options options, handler serve);

  /// As `stop(0)`.
  ~server();

  server(const server&) = delete;
  server& operator=(const server&) = delete;

  uint16_t port() const;

  size_t connections() const;

  /// Takes no more requests, gives the running ones until `grace` is over, then cuts what is left
  /// and joins the threads. Exchanges may outlive it: their answers go nowhere, reads that begin
  /// after it never complete. Not to be called on a server thread.
  void stop(std::chrono::milliseconds grace);

private:
  struct impl;
  explicit server(std::unique_ptr<impl> x);
  std::unique_ptr<impl> impl_;
};

} // namespace troupe::gateway
