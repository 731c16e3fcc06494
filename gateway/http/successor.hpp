#pragma once

#include <utility> // before Asio: 1.74 forgets it under C++20

#include "gateway/http/worker.hpp"

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <vector>

namespace troupe::gateway {

using tcp_socket = asio::basic_stream_socket<asio::ip::tcp, executor>;

/// Goes on with the socket of a connection whose client asked for another protocol. The connection
/// stays behind it, for the server's limits and its stop: `connection::close` is how a successor
/// ends. All calls come on the server thread.
class successor {
public:
  virtual ~successor() = default;

  /// Takes over; `early` is what the client sent behind its request.
  virtual void start(tcp_socket socket, std::vector<char> early) = 0;

  /// The server takes no more work: to end soon.
  virtual void stop() = 0;

  /// The end, called once and by the connection only; maybe before `start`.
  virtual void close() = 0;

  /// Asked now and then; true: to be closed.
  virtual bool expired(steady_clock::time_point now) = 0;
};

} // namespace troupe::gateway
