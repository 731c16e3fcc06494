#include "gateway/http/websocket.hpp"

#include "gateway/http/answers.hpp"
#include "gateway/http/connection.hpp"
#include "gateway/http/field_values.hpp"

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/stream.hpp>

#include <poll.h>

#include <deque>

namespace troupe::gateway {

namespace {

namespace ws = boost::beast::websocket;

constexpr auto never = steady_clock::time_point::max();
constexpr size_t kept_buffer = 64 * 1024;

error ended() {
  return make_error(errc::cancelled, op::request, "the WebSocket is closed");
}

/// The longest beginning of `text` that fits a close frame and ends with a whole character.
std::string_view fitting_reason(std::string_view text) {
  constexpr size_t most = 123;
  if (text.size() <= most)
    return text;
  auto end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;
  return text.substr(0, end);
}

/// 16 bytes in base64.
bool is_key(std::string_view text) {
  auto is_digit = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+'
           || c == '/';
  };
  return text.size() == 24 && text.ends_with("==")
         && std::all_of(text.begin(), text.end() - 2, is_digit);
}

response refusal(int status, const request_head& head, const char* why) {
  auto answer
    = error_response(make_error(errc::invalid_request, op::request, why), head.request_id);
  answer.status = status;
  if (status == 426) {
    answer.headers.add("Upgrade", "websocket");
    answer.headers.add("Sec-WebSocket-Version", "13");
  }
  return answer;
}

/// Why a request cannot become a WebSocket.
std::optional<response> check_handshake(const request_head& head) {
  if (!asks_to_upgrade(head, "websocket"))
    return refusal(426, head, "this is for WebSockets");
  if (head.method != "GET")
    return refusal(400, head, "a WebSocket begins with GET");
  if (head.headers.get("sec-websocket-version").value_or("") != "13")
    return refusal(426, head, "the version of WebSocket is 13");
  if (head.headers.count("sec-websocket-key") != 1
      || !is_key(*head.headers.get("sec-websocket-key")))
    return refusal(400, head, "`Sec-WebSocket-Key` must be 16 bytes in base64");
  return std::nullopt;
}

} // namespace

/// What a handle and a connection share. Lives on the server thread but for the public calls.
///
/// Beast has time limits of its own, but they count a client as silent whose messages nobody asks
/// for; here they are the connection's tick.
class websocket_stream : public successor, public std::enable_shared_from_this<websocket_stream> {
public:
  using opened_callback = std::function<void(std::shared_ptr<websocket>)>;

  websocket_stream(const exchange& x, websocket_options options, opened_callback opened)
    : connection_(x.link()), worker_(x.link()->owner()), options_(options),
      opened_(std::move(opened)) {
    const auto& head = x.head();
    request_.method(http::verb::get);
    request_.set(http::field::host, "troupe");
    request_.set(http::field::connection, "upgrade");
    request_.set(http::field::upgrade, "websocket");
    request_.set(http::field::sec_websocket_version, "13");
    auto key = *head.headers.get("sec-websocket-key");
    request_.set(http::field::sec_websocket_key, {key.data(), key.size()});
    request_id_ = head.request_id;
  }

  // -- of the handle: any thread -----------------------------------------------------------------

  void receive(websocket::receive_done done) {
    worker_->post([self = shared_from_this(), done = std::move(done)]() mutable {
      if (self->closed_ || self->closing_)
        return call(done, unexpected(ended()));
      if (self->receive_)
        return call(done,
                    unexpected(make_error(errc::internal, op::request, "a receive is under way")));
      self->receive_ = std::move(done);
      self->read();
    });
  }

  void send(websocket::message x, websocket::send_done done) {
    worker_->post(
      [self = shared_from_this(), item = outgoing{std::move(x), std::move(done)}]() mutable {
        self->enqueue(std::move(item));
      });
  }

  void close(uint16_t code, std::string reason) {
    worker_->post([self = shared_from_this(), code, reason = std::move(reason)] {
      self->begin_close(code, reason);
    });
  }

  /// A stream must end on its thread.
  static void drop(std::shared_ptr<websocket_stream> x) {
    auto owner = x->worker_;
    owner->post([x = std::move(x)] { x->begin_close(ws::close_code::going_away, {}); });
  }

  // -- of the connection -------------------------------------------------------------------------

  void start(tcp_socket socket, std::vector<char> early) override {
    stream_.emplace(std::move(socket));
    if (!early.empty())
      return connection_->close(); // who talks before the answer does not speak WebSocket
    stream_->read_message_max(options_.message_limit);
    stream_->auto_fragment(false); // a message is one frame, as clients expect
    stream_->set_option(ws::stream_base::decorator([this](ws::response_type& answer) {
      answer.set(http::field::server, "troupe");
      answer.set("X-Request-Id", {request_id_.data(), request_id_.size()});
    }));
    stream_->control_callback([this](ws::frame_type, auto) { heard_ = steady_clock::now(); });
    write_deadline_ = steady_clock::now() + options_.write_timeout;
    stream_->async_accept(request_, [self = shared_from_this()](const error_code& ec) {
      if (self->usable(ec))
        self->on_accepted();
    });
  }

  void stop() override {
    begin_close(ws::close_code::going_away, "the server stops");
  }

  void close() override {
    closed_ = true;
    connection_.reset();
    opened_ = nullptr;
    error_code ec;
    if (stream_)
      stream_->next_layer().close(ec);
    if (auto done = std::exchange(receive_, nullptr))
      call(done, unexpected(ended()));
    for (auto& item : std::exchange(queue_, {}))
      call(item.done, unexpected(ended()));
  }

  bool expired(steady_clock::time_point now) override {
    if (now >= write_deadline_ || now >= close_deadline_)
      return true;
    if (!open_ || closing_)
      return false;
    if (!stream_->is_open() && close_deadline_ == never)
      close_deadline_ = now + options_.close_timeout; // the client has closed, or broke the rules
    if (!reading_)
      return has_left(now);
    if (std::exchange(seen_, in_.size()) != in_.size())
      heard_ = now; // a large message takes its time, and no pong comes in its middle
    if (now - heard_ >= options_.idle_timeout)
      return true;
    if (now - heard_ >= options_.idle_timeout / 2 && !pinging_)
      ping();
    return false;
  }

private:
  struct outgoing {
    websocket::message message;
    websocket::send_done done;
  };

  /// Whether to go on after an operation; ends the connection if it failed.
  bool usable(const error_code& ec) {
    if (closed_)
      return false;
    if (ec)
      connection_->close();
    return !ec;
  }

  void on_accepted() {
    write_deadline_ = never;
    open_ = true;
    heard_ = steady_clock::now();
    if (auto opened = std::exchange(opened_, nullptr))
      call(opened, std::make_shared<websocket>(shared_from_this()));
    if (closing_)
      say_goodbye();
  }

  /// Nobody asks for what a client sends while it is not read. One that has left is given some time
  /// for somebody to ask for its last words.
  bool has_left(steady_clock::time_point now) {
    pollfd state{stream_->next_layer().native_handle(), POLLRDHUP, 0};
    if (::poll(&state, 1, 0) == 0) {
      heard_ = now;
      return false;
    }
    return (state.revents & (POLLERR | POLLHUP)) != 0 || now - heard_ >= options_.idle_timeout;
  }

  void ping() {
    pinging_ = true;
    stream_->async_ping({}, [self = shared_from_this()](const error_code& ec) {
      self->pinging_ = false;
      self->usable(ec);
    });
  }

  void read() {
    if (reading_)
      return;
    reading_ = true;
    heard_ = steady_clock::now();
    stream_->async_read(in_, [self = shared_from_this()](const error_code& ec, size_t) {
      if (self->usable(ec))
        self->on_message();
    });
  }

  void on_message() {
    reading_ = false;
    heard_ = steady_clock::now();
    auto data = in_.cdata();
    websocket::message x{stream_->got_text() ? websocket::kind::text : websocket::kind::binary,
                         {static_cast<const char*>(data.data()), data.size()}};
    in_.clear();
    if (in_.capacity() > kept_buffer)
      in_.shrink_to_fit();
    if (auto done = std::exchange(receive_, nullptr))
      call(done, std::move(x));
  }

  void enqueue(outgoing item) {
    auto size = item.message.data.size();
    if (closed_ || closing_)
      return call(item.done, unexpected(ended()));
    if (queued_ > 0 && queued_ + size > options_.queue_limit)
      return call(item.done, unexpected(make_error(errc::overloaded, op::request,
                                                   "the client reads too slowly")));
    queued_ += size;
    queue_.push_back(std::move(item));
    if (queue_.size() == 1)
      write();
  }

  void write() {
    const auto& next = queue_.front().message;
    stream_->text(next.type == websocket::kind::text);
    write_deadline_ = steady_clock::now() + options_.write_timeout;
    stream_->async_write(asio::buffer(next.data),
                         [self = shared_from_this()](const error_code& ec, size_t) {
                           if (self->usable(ec))
                             self->on_written();
                         });
  }

  void on_written() {
    write_deadline_ = never;
    auto done = std::move(queue_.front().done);
    queued_ -= queue_.front().message.data.size();
    queue_.pop_front();
    call(done, result<void>{});
    if (closed_)
      return;
    if (!queue_.empty())
      write();
    else if (closing_)
      say_goodbye();
  }

  void begin_close(uint16_t code, std::string_view reason) {
    if (closed_ || closing_)
      return;
    const auto text = fitting_reason(reason);
    closing_ = ws::close_reason(static_cast<ws::close_code>(code), {text.data(), text.size()});
    if (auto done = std::exchange(receive_, nullptr))
      call(done, unexpected(ended()));
    if (open_ && queue_.empty())
      say_goodbye();
  }

  void say_goodbye() {
    close_deadline_ = steady_clock::now() + options_.close_timeout;
    // Ends when the client has said goodbye too, or in `expired`.
    stream_->async_close(*closing_, [self = shared_from_this()](const error_code&) {
      if (!self->closed_)
        self->connection_->close();
    });
  }

  std::shared_ptr<connection> connection_; ///< until `close`
  std::shared_ptr<worker> worker_;         ///< outlives `stream_`
  websocket_options options_;
  opened_callback opened_;
  http::request<http::empty_body> request_; ///< what Beast needs of the client's
  std::string request_id_;
  std::optional<ws::stream<tcp_socket, false>> stream_;
  bool open_ = false;
  bool closed_ = false;
  std::optional<ws::close_reason> closing_; ///< nothing is taken or given any more
  steady_clock::time_point heard_;          ///< when the client last gave a sign of life
  steady_clock::time_point write_deadline_ = never;
  steady_clock::time_point close_deadline_ = never;

  boost::beast::flat_buffer in_;
  size_t seen_ = 0; ///< bytes in it when they were last looked at
  bool reading_ = false;
  bool pinging_ = false;
  websocket::receive_done receive_;
  std::deque<outgoing> queue_; ///< the first is being written
  size_t queued_ = 0;          ///< bytes in it
};

websocket::websocket(std::shared_ptr<websocket_stream> stream) : stream_(std::move(stream)) {}

websocket::~websocket() {
  websocket_stream::drop(std::move(stream_));
}

void websocket::receive(receive_done done) {
  stream_->receive(std::move(done));
}

void websocket::send(kind type, std::string data, send_done done) {
  stream_->send({type, std::move(data)}, std::move(done));
}

void websocket::close(uint16_t code, std::string reason) {
  stream_->close(code, std::move(reason));
}

void accept_websocket(const std::shared_ptr<exchange>& x, websocket_options options,
                      std::function<void(std::shared_ptr<websocket>)> opened) {
  if (auto refused = check_handshake(x->head()))
    return x->respond(std::move(*refused));
  x->upgrade(std::make_shared<websocket_stream>(*x, options, std::move(opened)));
}

} // namespace troupe::gateway
