#pragma once

#include "gateway/http/connection.hpp"

#include <string>

namespace troupe::gateway {

/// Carries bytes both ways between a client and another socket until both sides are done, one
/// fails, or nothing came for too long. A side that ends only its half may still be sent to.
class tunnel : public successor, public std::enable_shared_from_this<tunnel> {
public:
  /// `first`: bytes for the client before those of `other`.
  tunnel(std::shared_ptr<connection> client, tcp_socket other, std::string_view first,
         std::chrono::milliseconds idle_timeout);

  void start(tcp_socket socket, std::vector<char> early) override;
  void stop() override;
  void close() override;
  bool expired(steady_clock::time_point now) override;

private:
  struct lane {
    tcp_socket& from;
    tcp_socket& to;
    std::vector<char> buffer; ///< at first: what goes before anything is read
    bool done = false;
  };

  void read(lane& x);
  void write(lane& x, size_t size);
  void finish(lane& x);
  bool usable(const error_code& ec);

  std::shared_ptr<connection> connection_; ///< until `close`
  std::shared_ptr<worker> worker_;         ///< outlives the sockets
  tcp_socket client_;
  tcp_socket other_;
  lane up_{client_, other_, {}};
  lane down_{other_, client_, {}};
  std::chrono::milliseconds idle_timeout_;
  steady_clock::time_point last_ = steady_clock::now();
};

} // namespace troupe::gateway
