#pragma once

#include "gateway/http/http.hpp"

#include <chrono>

namespace troupe::gateway {

class websocket_stream;

struct websocket_options {
  size_t message_limit = 1024 * 1024; ///< bytes of a message that comes; larger ones end it (1009)
  size_t queue_limit = 1024 * 1024;   ///< bytes of messages that wait to be written
  /// Without a sign of life from the client. It gets a ping after half of it.
  std::chrono::milliseconds idle_timeout{60'000};
  std::chrono::milliseconds write_timeout{60'000}; ///< for one message
  std::chrono::milliseconds close_timeout{5'000};  ///< for the client to answer a close
};

/// A WebSocket (RFC 6455) with the client of an exchange; thread-safe. Its callbacks run on the
/// server thread of the connection and must not block it. They run once each, unless the server has
/// ended, and with `cancelled` when the client is gone or either side has closed.
class websocket {
public:
  enum class kind { text, binary };

  struct message {
    kind type = kind::binary;
    std::string data;
  };

  using receive_done = std::function<void(result<message>)>;
  using send_done = std::function<void(result<void>)>;

  explicit websocket(std::shared_ptr<websocket_stream> stream);

  /// Closes with 1001, unless `close` was called.
  ~websocket();

  websocket(const websocket&) = delete;
  websocket& operator=(const websocket&) = delete;

  /// The next message, whole. Nothing is read from the client before it is asked for; one receive
  /// at a time.
  void receive(receive_done done);

  /// Queues a message; `done` once the kernel has it. `overloaded` if the queue is full: who waits
  /// for each `done` never gets there.
  void send(kind type, std::string data, send_done done);

  /// Writes what is queued, then says goodbye. `reason` is cut to what fits. Only the first counts.
  void close(uint16_t code, std::string reason = {});

private:
  std::shared_ptr<websocket_stream> stream_;
};

/// Answers `x`, a request without a body, by making its connection a WebSocket, or with 400 or 426
/// if it does not ask for one rightly. `opened` gets it once the client was told; if that fails it
/// is dropped.
void accept_websocket(const std::shared_ptr<exchange>& x, websocket_options options,
                      std::function<void(std::shared_ptr<websocket>)> opened);

} // namespace troupe::gateway
