#include "gateway/http/proxy.hpp"

#include "gateway/http/answers.hpp"
#include "gateway/http/field_values.hpp"
#include "gateway/http/tunnel.hpp"

#include <boost/asio/ip/basic_resolver.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>

#include <sys/socket.h>

#include <charconv>
#include <deque>

namespace troupe::gateway {

namespace {

using endpoint = asio::ip::tcp::endpoint;
using milliseconds = std::chrono::milliseconds;

constexpr size_t piece_size = 64 * 1024;
constexpr size_t head_limit = 64 * 1024;

/// Whether a field is about the connection it came on and not about the message.
bool is_of_connection(const header_list& headers, std::string_view name) {
  for (auto x : {"connection", "keep-alive", "proxy-connection", "proxy-authenticate",
                 "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"})
    if (equal_ignoring_case(name, x))
      return true;
  return lists_token(headers, "connection", name);
}

std::string authority(const proxy_target& to) {
  auto host = to.host.find(':') == std::string::npos ? to.host : "[" + to.host + "]";
  return host + ":" + std::to_string(to.port);
}

void append_field(std::string& out, std::string_view name, std::string_view value) {
  out.append(name).append(": ").append(value).append("\r\n");
}

/// One request on its way to another server and the answer on its way back. Lives on the server
/// thread of its client.
class forwarding : public std::enable_shared_from_this<forwarding> {
public:
  forwarding(std::shared_ptr<exchange> x, proxy_target to, proxy_options options)
    : worker_(x->link()->owner()), client_(std::move(x)), to_(std::move(to)), options_(options),
      resolver_(worker_->context()), socket_(worker_->context()), timer_(worker_->context()) {}

  void start() {
    client_->on_disconnect([weak = weak_from_this()] {
      if (auto self = weak.lock())
        self->end();
    });
    client_->set_body_limit(UINT64_MAX);
    allow(options_.connect_timeout);
    if (!to_.dial)
      return look_up();
    to_.dial([self = shared_from_this()](result<unique_fd> stream) {
      auto shared = std::make_shared<result<unique_fd>>(std::move(stream));
      asio::post(self->worker_->context(), [self, shared] { self->use(std::move(*shared)); });
    });
  }

  void look_up() {
    error_code ec;
    auto address = asio::ip::make_address(to_.host, ec);
    if (!ec) {
      endpoints_ = {{address, to_.port}};
      return connect();
    }
    resolver_.async_resolve(to_.host, std::to_string(to_.port),
                            asio::ip::resolver_base::numeric_service,
                            [self = shared_from_this()](const error_code& fault, auto found) {
                              for (const auto& x : found)
                                self->endpoints_.push_back(x.endpoint());
                              self->last_error_ = fault;
                              self->connect();
                            });
  }

  /// A stream that somebody else opened.
  void use(result<unique_fd> stream) {
    if (ended_)
      return;
    if (!stream)
      return fail(unavailable("connect_failed", stream.error().message));
    if (!*stream)
      return look_up();
    error_code ec;
    socket_.assign(asio::ip::tcp::v4(), stream->release(), ec);
    socket_.async_wait(
      asio::ip::tcp::socket::wait_write, [self = shared_from_this()](const error_code& fault) {
        if (self->ended_)
          return;
        int code = fault ? fault.value() : 0;
        socklen_t size = sizeof code;
        if (!fault)
          ::getsockopt(self->socket_.native_handle(), SOL_SOCKET, SO_ERROR, &code, &size);
        if (code != 0)
          self->fail(self->unavailable("connect_failed", std::strerror(code)));
        else
          self->on_connected();
      });
  }

  /// The next piece of the answer's body.
  void next(body_source::next_done done) {
    if (ended_)
      return; // dropping `done` tells it
    next_ = std::move(done);
    use_body();
  }

  void end() {
    if (std::exchange(ended_, true))
      return;
    error_code ec;
    resolver_.cancel();
    socket_.close(ec);
    timer_.cancel();
    next_ = nullptr;
    client_.reset();
  }

private:
  // -- time and failure --------------------------------------------------------------------------

  /// Ends this if nothing happens for that long.
  void allow(milliseconds time) {
    timer_.expires_after(time);
    timer_.async_wait([self = shared_from_this()](const error_code& ec) {
      if (ec || self->ended_ || self->timer_.expiry() > steady_clock::now())
        return;
      self->connected_ ? self->fail(
        make_error(errc::timeout, op::request, "the program behind the port takes too long")
          .with("port", self->to_.port))
                       : self->fail(self->unavailable("connect_failed", "timed out"));
    });
  }

  void allow_any_time() {
    timer_.expires_at(steady_clock::time_point::max());
  }

  error unavailable(const char* reason, std::string_view detail) {
    auto x = make_error(errc::exposed_port_unavailable, op::resolve_exposed_port,
                        "port " + std::to_string(to_.port) + " does not answer as it should")
               .with("port", to_.port)
               .with("reason", reason)
               .with("detail", detail);
    x.retryable = true; // the program may be about to start
    return x;
  }

  void fail(const error& why) {
    if (ended_)
      return;
    if (auto done = std::exchange(next_, nullptr))
      done(unexpected(why));
    else if (!std::exchange(answered_, true))
      client_->respond(error_response(why, client_->head().request_id));
    end();
  }

  // -- the request -------------------------------------------------------------------------------

  void connect() {
    if (ended_)
      return;
    if (endpoints_.empty())
      return fail(unavailable("connect_failed", last_error_.message()));
    auto to = endpoints_.front();
    endpoints_.pop_front();
    error_code ec;
    socket_.close(ec);
    // Asio 1.74 opens sockets without CLOEXEC.
    unique_fd fd(::socket(to.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd)
      return fail(unavailable("connect_failed", "no socket"));
    socket_.assign(to.protocol(), fd.release(), ec);
    socket_.async_connect(to, [self = shared_from_this()](const error_code& fault) {
      self->last_error_ = fault;
      if (fault)
        self->connect();
      else if (!self->ended_)
        self->on_connected();
    });
  }

  void on_connected() {
    connected_ = true;
    error_code ec;
    socket_.set_option(asio::ip::tcp::no_delay(true), ec);
    socket_.set_option(asio::socket_base::keep_alive(true), ec);
    out_ = request_text();
    write({asio::buffer(out_), {}, {}});
    read_head();
  }

  std::string request_text() {
    const auto& head = client_->head();
    chunked_ = !head.content_length && head.headers.get("transfer-encoding");
    has_body_ = chunked_ || head.content_length.value_or(0) > 0;
    tunnels_ = head.method == "GET" && !has_body_ && asks_to_upgrade(head, "websocket");
    std::string out = head.method + " " + to_.target + " HTTP/1.1\r\n";
    append_field(out, "Host", authority(to_));
    for (const auto& [name, value] : head.headers)
      if (!is_of_connection(head.headers, name) && !is_replaced(name))
        append_field(out, name, value);
    auto given = [&](std::string_view name) { return head.headers.get(name); };
    auto before = given("x-forwarded-for");
    append_field(out, "X-Forwarded-For",
                 (before ? std::string(*before) + ", " : "") + client_->link()->peer());
    append_field(out, "X-Forwarded-Proto", given("x-forwarded-proto").value_or("http"));
    append_field(out, "X-Forwarded-Host",
                 given("x-forwarded-host").value_or(given("host").value_or("")));
    append_field(out, "X-Forwarded-Prefix", to_.prefix);
    if (chunked_)
      append_field(out, "Transfer-Encoding", "chunked");
    else if (head.content_length)
      append_field(out, "Content-Length", std::to_string(*head.content_length));
    append_field(out, "Connection", tunnels_ ? "Upgrade" : "close");
    if (tunnels_)
      append_field(out, "Upgrade", "websocket");
    return out + "\r\n";
  }

  bool is_replaced(std::string_view name) const {
    for (auto x : {"host", "content-length", "expect", "x-forwarded-for", "x-forwarded-proto",
                   "x-forwarded-host", "x-forwarded-prefix"})
      if (equal_ignoring_case(name, x))
        return true;
    return !to_.with_authorization && equal_ignoring_case(name, "authorization");
  }

  void write(std::array<asio::const_buffer, 3> buffers) {
    if (!answered_)
      allow(options_.answer_timeout);
    asio::async_write(socket_, buffers, [self = shared_from_this()](const error_code& ec, size_t) {
      // A server that wants no more of a body may have answered, which the read side finds out.
      if (!ec && !self->ended_ && self->has_body_)
        self->pull_request_body();
    });
  }

  void pull_request_body() {
    client_->body().read(piece_size, [self = shared_from_this()](result<body_reader::chunk> piece) {
      if (self->ended_)
        return;
      if (!piece)
        return self->fail(piece.error());
      self->has_body_ = !piece->empty();
      self->piece_ = std::move(*piece);
      if (self->chunked_)
        self->write_chunk();
      else if (self->has_body_)
        self->write({asio::buffer(self->piece_), {}, {}});
    });
  }

  void write_chunk() {
    char digits[16];
    auto end = std::to_chars(digits, digits + sizeof digits, piece_.size(), 16).ptr;
    out_.assign(digits, end).append("\r\n");
    write({asio::buffer(out_), asio::buffer(piece_), asio::buffer("\r\n", 2)});
  }

  // -- the answer --------------------------------------------------------------------------------

  template <class F>
  void read(size_t room, F then) {
    auto space = in_.prepare(room);
    socket_.async_read_some(asio::buffer(space.data, space.size),
                            [self = shared_from_this(), then](const error_code& ec, size_t n) {
                              if (self->ended_)
                                return;
                              self->in_.commit(n);
                              then(*self, ec);
                            });
  }

  void read_head() {
    read(4096, [](forwarding& self, const error_code& ec) {
      if (ec)
        self.fail(self.unavailable("no_answer", ec.message()));
      else
        self.parse_head();
    });
  }

  void parse_head() {
    while (!in_.empty()) {
      if (!parser_) {
        head_ = {};
        head_bytes_ = 0;
        parser_.emplace(head_, head_limit);
        parser_->skip(client_->head().method == "HEAD");
      }
      error_code ec;
      auto used = parser_->put({in_.data(), in_.size()}, ec);
      in_.consume(used);
      head_bytes_ += used;
      if (head_bytes_ + (ec ? in_.size() : 0) > head_limit)
        return fail(unavailable("bad_answer", "the header is too large"));
      if (ec == http::error::need_more)
        break;
      if (ec)
        return fail(unavailable("bad_answer", ec.message()));
      auto upgrade = head_.headers.get("upgrade").value_or("");
      if (head_.status == 101 && tunnels_ && equal_ignoring_case(upgrade, "websocket"))
        return open_tunnel();
      if (head_.status < 100 || head_.status == 101)
        return fail(unavailable("bad_answer", "unexpected status"));
      if (head_.status >= 200)
        return answer();
      parser_.reset(); // an interim answer
    }
    read_head();
  }

  void answer();

  void open_tunnel() {
    std::string text = "HTTP/1.1 101 Switching Protocols\r\n";
    for (const auto& [name, value] : head_.headers)
      if (!is_of_connection(head_.headers, name))
        append_field(text, name, value);
    append_field(text, "X-Request-Id", client_->head().request_id);
    append_field(text, "Connection", "Upgrade");
    append_field(text, "Upgrade", "websocket");
    text += "\r\n";
    text.append(in_.data(), in_.size());
    client_->upgrade(
      std::make_shared<tunnel>(client_->link(), std::move(socket_), text, options_.tunnel_timeout));
    end();
  }

  void use_body() {
    body_reader::chunk piece;
    error_code ec;
    if (!parser_->is_done())
      in_.consume(parser_->put_body(in_.data(), in_.size(), &piece, piece_size, UINT64_MAX, ec));
    if (!piece.empty())
      return give(std::move(piece));
    if (parser_->is_done())
      return give(std::nullopt);
    if (ec && (ec != http::error::need_more || in_.size() > head_limit))
      return fail(unavailable("bad_answer", ec.message()));
    allow(options_.idle_timeout);
    read(piece_size, [](forwarding& self, const error_code& fault) { self.on_body(fault); });
  }

  void on_body(const error_code& fault) {
    allow_any_time();
    error_code ec = fault;
    if (fault == asio::error::eof)
      parser_->put_eof(ec);
    if (ec)
      return fail(unavailable("broken_off", ec.message()));
    use_body();
  }

  void give(std::optional<body_source::chunk> piece) {
    auto done = std::exchange(next_, nullptr);
    done(std::move(piece));
  }

  std::shared_ptr<worker> worker_;   ///< outlives what is of its context
  std::shared_ptr<exchange> client_; ///< until `end`
  proxy_target to_;
  proxy_options options_;
  asio::ip::basic_resolver<asio::ip::tcp, executor> resolver_;
  tcp_socket socket_;
  steady_timer timer_;
  std::deque<endpoint> endpoints_; ///< not tried yet
  error_code last_error_;
  bool connected_ = false;
  bool answered_ = false;
  bool ended_ = false;

  std::string out_;
  body_reader::chunk piece_;
  bool has_body_ = false; ///< more of the request's body may come
  bool chunked_ = false;
  bool tunnels_ = false;

  receive_buffer in_;
  response_head head_;
  size_t head_bytes_ = 0;
  std::optional<response_parser> parser_;
  body_source::next_done next_;
};

/// The answer's body; without a client that reads it there is no use for the rest.
class forwarded_body : public body_source {
public:
  explicit forwarded_body(std::shared_ptr<forwarding> from) : from_(std::move(from)) {}
  ~forwarded_body() override {
    from_->end();
  }
  void next(next_done done) override {
    from_->next(std::move(done));
  }

private:
  std::shared_ptr<forwarding> from_;
};

void forwarding::answer() {
  if (auto coding = head_.headers.get("transfer-encoding");
      coding
      && (head_.headers.count("transfer-encoding") > 1 || !equal_ignoring_case(*coding, "chunked")))
    return fail(unavailable("bad_answer", "the only transfer encoding is chunked"));
  allow_any_time();
  response out;
  out.status = head_.status;
  for (auto& [name, value] : head_.headers)
    if (!is_of_connection(head_.headers, name))
      out.headers.add(name, value);
  if (auto length = parser_->content_length())
    out.stream_length = *length;
  out.stream = std::make_unique<forwarded_body>(shared_from_this());
  answered_ = true;
  auto client = client_; // the end of a short answer ends this too
  client->respond(std::move(out));
}

} // namespace

void forward(std::shared_ptr<exchange> x, proxy_target to, proxy_options options) {
  auto client = x;
  auto job = std::make_shared<forwarding>(std::move(x), std::move(to), options);
  client->post([job] { job->start(); });
}

} // namespace troupe::gateway
