#pragma once

#include <utility> // before Asio: 1.74 forgets it under C++20

#include "gateway/http/message_parser.hpp"
#include "gateway/http/receive_buffer.hpp"
#include "gateway/http/successor.hpp"

#include <array>

namespace troupe::gateway {

/// One client: reads requests one after the other and writes their answers.
///
/// While a request runs, one small read stays under way behind it. It is the read of the next
/// request, and until then it notices that the client is gone. A body is only read further when a
/// handler asks.
class connection : public std::enable_shared_from_this<connection> {
public:
  connection(std::shared_ptr<worker> owner, unique_fd socket);

  // -- of an exchange: any thread; without effect once `turn` is over ----------------------------

  void respond(uint64_t turn, response answer);
  void answer_dropped(uint64_t turn);
  void set_body_limit(uint64_t turn, uint64_t bytes);
  void read_body(uint64_t turn, size_t max, body_reader::read_done done);
  void on_disconnect(uint64_t turn, std::function<void()> callback);
  void upgrade(uint64_t turn, std::shared_ptr<successor> next);
  void set_route(uint64_t turn, std::string pattern);
  void post(std::function<void()> task);

  /// The answer to pull number `serial` of the body source.
  void deliver(uint64_t serial, result<std::optional<body_source::chunk>> piece);

  // -- of a successor or a proxy -----------------------------------------------------------------

  const std::shared_ptr<worker>& owner() const {
    return worker_;
  }

  /// The client's address as text. On the server thread, before a successor has the socket.
  std::string peer() const;

  // -- of the worker, on its thread --------------------------------------------------------------

  /// `self`: where the worker keeps this.
  void start(connection_list::iterator self);
  void begin_stop();
  void close();
  bool expired(steady_clock::time_point now);
  /// Closes what has expired, with 408 to a client whose request did not come whole.
  void give_up();

private:
  enum class phase {
    head,     ///< waits for a request
    request,  ///< a request runs, or its answer is being written
    drain,    ///< takes what is left of a body that nobody wanted
    linger,   ///< wrote all, waits for the client to have read it
    upgraded, ///< a successor has the socket, or gets it once a read has been called off
    closed,
  };

  /// A request from its first byte until its answer was written.
  struct request_state {
    uint64_t turn = 0; ///< 0: none runs
    std::string method;
    std::string request_id;
    std::string route;
    bool keep_alive = true;
    bool expects_continue = false;
    steady_clock::time_point began;
    uint64_t body_limit = 0;
    steady_clock::duration body_patience{}; ///< how long reads may still wait; bytes add to it
    int status = 0;                         ///< of the answer; 0: none yet
    std::optional<error> body_failure;
    std::function<void()> on_disconnect;
  };

  struct pending_read {
    size_t max;
    body_reader::read_done done;
    steady_clock::time_point since; ///< the wait for the next byte
  };

  template <class F>
  void run(F f);
  const server_options& options();

  // -- reading -----------------------------------------------------------------------------------
  void want_bytes(size_t room);
  void on_read(const error_code& ec, size_t n);
  void use_bytes();
  void parse_head();
  void begin_request();
  void run_request();
  void refuse(int status, const error& failure);
  void serve_body();
  /// Bounds the wait for the next bytes, after `received` of them.
  void wait_for_body(size_t received);
  void fill_body_read();
  void finish_body_read(result<body_reader::chunk> piece);
  bool send_continue();
  void drain();
  void on_peer_gone(bool reset);

  // -- writing -----------------------------------------------------------------------------------
  void begin_answer(response answer);
  void write_head(const response& answer, std::optional<uint64_t> length);
  void write(std::string_view body, std::string_view tail);
  void write_some();
  void on_written();
  void pull();
  void on_piece(result<std::optional<body_source::chunk>> piece);
  void end_stream();
  void finish_answer();
  void end_request();
  void next_request();
  void hand_over();
  void linger();
  void discard();

  std::shared_ptr<worker> worker_;
  tcp_socket socket_;
  connection_list::iterator self_;
  phase phase_ = phase::head;
  steady_clock::time_point read_deadline_ = steady_clock::time_point::max();
  steady_clock::time_point write_deadline_ = steady_clock::time_point::max();

  receive_buffer in_;
  bool reading_ = false;
  bool peer_done_ = false; ///< no more bytes will come
  request_head head_;
  std::optional<request_parser> parser_;
  size_t head_bytes_ = 0;
  uint64_t turns_ = 0;
  request_state request_;
  std::optional<pending_read> body_read_;
  size_t drained_ = 0;

  std::shared_ptr<successor> successor_;

  std::string out_; ///< head or chunk size that the next write begins with
  std::string body_;
  std::array<asio::const_buffer, 3> writes_;
  bool writing_ = false;
  bool last_write_ = false; ///< what is being written ends the answer
  std::unique_ptr<body_source> stream_;
  std::optional<uint64_t> stream_left_; ///< unknown: chunked, or until the connection ends
  bool chunked_ = false;
  body_source::chunk piece_;
  uint64_t pulls_ = 0;
  bool in_next_ = false;  ///< inside `stream_->next`
  bool awaiting_ = false; ///< asked the source and have no answer yet
  std::optional<result<std::optional<body_source::chunk>>> pulled_; ///< came at a bad moment
};

} // namespace troupe::gateway
