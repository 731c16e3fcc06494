#include "gateway/http/connection.hpp"

#include "gateway/http/answers.hpp"
#include "messages/ids.hpp"

#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>

#include <sys/socket.h>

#include <charconv>

namespace troupe::gateway {

namespace {

using piece_result = result<std::optional<body_source::chunk>>;

constexpr size_t small_read = 4096; ///< also what an idle connection keeps
constexpr size_t max_drain = 256 * 1024;
constexpr size_t max_linger = 16 * 1024 * 1024;
constexpr auto linger_time = std::chrono::seconds{2};
constexpr auto never = steady_clock::time_point::max();

error gone(std::string message) {
  return make_error(errc::cancelled, op::request, std::move(message));
}

error malformed(std::string message) {
  return make_error(errc::invalid_request, op::request, std::move(message));
}

/// The `done` of one pull. Dropped uncalled, it fails the pull: a producer that died must not leave
/// its reader waiting.
class pull_ticket {
public:
  pull_ticket(std::shared_ptr<connection> c, uint64_t serial)
    : connection_(std::move(c)), serial_(serial) {}
  pull_ticket(const pull_ticket&) = delete;
  pull_ticket& operator=(const pull_ticket&) = delete;
  ~pull_ticket() {
    if (!used_)
      connection_->deliver(serial_, unexpected(make_error(errc::internal, op::request,
                                                          "the source of the body is gone")));
  }
  void use(piece_result piece) {
    if (!used_.exchange(true))
      connection_->deliver(serial_, std::move(piece));
  }

private:
  std::shared_ptr<connection> connection_;
  uint64_t serial_;
  std::atomic<bool> used_{false};
};

void append_number(std::string& out, uint64_t value, int base = 10) {
  char digits[20];
  auto end = std::to_chars(digits, digits + sizeof digits, value, base).ptr;
  out.append(digits, end);
}

void append_field(std::string& out, std::string_view name, std::string_view value) {
  out.append(name).append(": ").append(value).append("\r\n");
}

/// A handler may pass on what a client or a file name gave it: line ends in it must not make
/// fields.
void append_untrusted_field(std::string& out, std::string_view name, std::string_view value) {
  auto at = out.size();
  append_field(out, name, value);
  for (; at < out.size() - 2; ++at)
    if (auto c = static_cast<unsigned char>(out[at]); (c < 0x20 && c != '\t') || c == 0x7F)
      out[at] = ' ';
}

bool is_ours(std::string_view name) {
  for (auto ours :
       {"x-request-id", "connection", "content-length", "transfer-encoding", "keep-alive"})
    if (equal_ignoring_case(name, ours))
      return true;
  return false;
}

std::string_view reason(int status) {
  if (status == 499)
    return "Client Closed Request";
  auto text = http::obsolete_reason(static_cast<http::status>(status));
  return {text.data(), text.size()};
}

bool has_no_body(int status) {
  return status == 204 || status == 304;
}

std::string choose_request_id(const header_list& headers) {
  auto given = headers.get("x-request-id");
  bool sane
    = given && !given->empty() && given->size() <= 128
      && std::all_of(given->begin(), given->end(), [](char c) { return c >= ' ' && c <= '~'; });
  return sane ? std::string(*given) : make_uuid();
}

/// Fills path, segments and query from the target: `/path?query`, or the same after `http://host`.
/// A broken escape is left to whoever needs it decoded.
result<void> parse_target(request_head& head) {
  std::string_view target = head.target;
  if (!target.starts_with('/')) {
    auto host = target.find("://");
    auto path = host == std::string_view::npos ? host : target.find('/', host + 3);
    if (path == std::string_view::npos)
      return unexpected(malformed("the request target is not a path"));
    target.remove_prefix(path);
  }
  head.path = target.substr(0, target.find('?'));
  head.query_text = target.substr(head.path.size());
  auto segments = split_path(head.path);
  if (segments)
    head.segments = std::move(*segments);
  else
    head.segments = split_encoded_path(head.path);
  auto query = query_params::parse(target.substr(std::min(target.size(), head.path.size() + 1)));
  if (query)
    head.query = std::move(*query);
  if (!segments || !query)
    head.malformed = segments ? std::move(query.error()) : std::move(segments.error());
  return {};
}

/// What Beast lets through and a server may not: with two readings of where a body ends, a proxy in
/// front of us can be made to see other requests than we do.
result<void> check_framing(const request_head& head, bool http11) {
  if (auto hosts = head.headers.count("host"); hosts > 1 || (http11 && hosts == 0))
    return unexpected(malformed("a request has one Host"));
  if (auto coding = head.headers.get("transfer-encoding")) {
    if (!http11 || head.headers.count("transfer-encoding") > 1
        || !equal_ignoring_case(*coding, "chunked"))
      return unexpected(malformed("the only transfer encoding is chunked"));
  }
  return {};
}

} // namespace

connection::connection(std::shared_ptr<worker> owner, unique_fd socket)
  : worker_(std::move(owner)), socket_(worker_->context()) {
  error_code ec;
  socket_.assign(asio::ip::tcp::v4(), socket.get(), ec); // the family only matters to open()
  if (!ec)
    socket.release();
}

std::string connection::peer() const {
  error_code ec;
  auto endpoint = socket_.remote_endpoint(ec);
  return ec ? "unknown" : endpoint.address().to_string();
}

template <class F>
void connection::run(F f) {
  if (worker_->on_thread())
    f();
  else
    worker_->post(std::move(f));
}

const server_options& connection::options() {
  return worker_->core().options;
}

// -- of an exchange ------------------------------------------------------------------------------

void connection::respond(uint64_t turn, response answer) {
  run([self = shared_from_this(), turn, answer = std::move(answer)]() mutable {
    if (self->request_.turn == turn)
      self->begin_answer(std::move(answer));
  });
}

void connection::answer_dropped(uint64_t turn) {
  run([self = shared_from_this(), turn] {
    if (self->request_.turn == turn)
      self->begin_answer(error_response(
        make_error(errc::internal, op::request, "the request was dropped without an answer"),
        self->request_.request_id));
  });
}

void connection::set_body_limit(uint64_t turn, uint64_t bytes) {
  run([self = shared_from_this(), turn, bytes] {
    if (self->request_.turn == turn)
      self->request_.body_limit = bytes;
  });
}

void connection::read_body(uint64_t turn, size_t max, body_reader::read_done done) {
  // Always posted: a handler that reads on from `done` would else recurse once per piece.
  worker_->post([self = shared_from_this(), turn, max, done = std::move(done)]() mutable {
    if (self->request_.turn != turn)
      return call(done, unexpected(gone("the request is over")));
    if (self->body_read_)
      return call(
        done, unexpected(make_error(errc::internal, op::request, "a read is already under way")));
    self->body_read_ = {max, std::move(done), {}};
    self->wait_for_body(0);
    self->serve_body();
  });
}

void connection::on_disconnect(uint64_t turn, std::function<void()> callback) {
  run([self = shared_from_this(), turn, callback = std::move(callback)]() mutable {
    if (self->request_.turn == turn && !self->peer_done_)
      self->request_.on_disconnect = std::move(callback);
    else if (self->phase_ == phase::closed || self->request_.turn == turn)
      self->worker_->post([callback = std::move(callback)] { call(callback); });
  });
}

void connection::upgrade(uint64_t turn, std::shared_ptr<successor> next) {
  run([self = shared_from_this(), turn, next = std::move(next)]() mutable {
    if (self->request_.turn != turn || self->request_.status != 0)
      return;
    if (self->peer_done_ || self->worker_->stopping())
      return self->close();
    if (!self->parser_->is_done())
      return self->refuse(400, malformed("a request to upgrade has no body"));
    self->request_.status = 101;
    self->end_request();
    self->phase_ = phase::upgraded;
    self->successor_ = std::move(next);
    error_code ec;
    if (self->reading_)
      self->socket_.cancel(ec); // `on_read` hands over
    else
      self->hand_over();
  });
}

void connection::set_route(uint64_t turn, std::string pattern) {
  run([self = shared_from_this(), turn, pattern = std::move(pattern)]() mutable {
    if (self->request_.turn == turn)
      self->request_.route = std::move(pattern);
  });
}

void connection::post(std::function<void()> task) {
  worker_->post([task = std::move(task)] { call(task); });
}

void connection::deliver(uint64_t serial, piece_result piece) {
  if (worker_->on_thread() && in_next_ && serial == pulls_) {
    pulled_ = std::move(piece);
    return;
  }
  // Never at once: the end of a stream destroys its source, which may be what is calling.
  worker_->post([self = shared_from_this(), serial, piece = std::move(piece)]() mutable {
    if (serial == self->pulls_ && self->stream_)
      self->on_piece(std::move(piece));
  });
}

// -- of the worker -------------------------------------------------------------------------------

void connection::start(connection_list::iterator self) {
  self_ = self;
  error_code ec;
  socket_.set_option(asio::ip::tcp::no_delay(true), ec);
  read_deadline_ = steady_clock::now() + options().header_timeout;
  want_bytes(small_read);
}

bool connection::expired(steady_clock::time_point now) {
  if (successor_)
    return successor_->expired(now);
  return now >= read_deadline_ || now >= write_deadline_;
}

void connection::give_up() {
  auto now = steady_clock::now();
  bool begun = phase_ == phase::head ? parser_.has_value()
                                     : phase_ == phase::request && request_.status == 0;
  if (!begun || peer_done_ || worker_->stopping() || now < read_deadline_ || now >= write_deadline_)
    return close();
  if (phase_ == phase::head)
    begin_request();
  read_deadline_ = never;
  refuse(408, make_error(errc::timeout, op::request, "the request did not come in time"));
  if (!body_read_)
    return;
  request_.body_failure = gone("the body did not come in time");
  finish_body_read(unexpected(*request_.body_failure));
}

void connection::begin_stop() {
  if (auto next = successor_)
    next->stop();
}

void connection::close() {
  if (phase_ == phase::closed)
    return;
  auto self = shared_from_this();
  auto& list = phase_ == phase::head ? worker_->waiting() : worker_->busy();
  phase_ = phase::closed;
  error_code ec;
  socket_.close(ec);
  worker_->remove(list, self_);
  if (auto next = std::exchange(successor_, nullptr))
    next->close();
  if (request_.turn != 0) {
    auto watcher = std::exchange(request_.on_disconnect, nullptr);
    end_request();
    if (watcher)
      call(watcher);
  }
  in_ = {}; // reads and writes under way are off the reactor already
  body_ = {};
  piece_ = {};
}

// -- reading -------------------------------------------------------------------------------------

void connection::want_bytes(size_t room) {
  if (reading_ || peer_done_)
    return;
  reading_ = true;
  auto space = in_.prepare(room);
  socket_.async_read_some(
    asio::buffer(space.data, space.size),
    [self = shared_from_this()](const error_code& ec, size_t n) { self->on_read(ec, n); });
}

void connection::on_read(const error_code& ec, size_t n) {
  reading_ = false;
  if (phase_ == phase::closed)
    return;
  if (phase_ == phase::upgraded && ec == asio::error::operation_aborted)
    return hand_over();
  if (ec)
    return on_peer_gone(ec != asio::error::eof);
  in_.commit(n);
  if (phase_ == phase::upgraded)
    return hand_over();
  if (body_read_)
    wait_for_body(n);
  use_bytes();
}

void connection::use_bytes() {
  switch (phase_) {
    case phase::head: return parse_head();
    case phase::request: return serve_body();
    case phase::drain: return drain();
    case phase::linger: return discard();
    case phase::upgraded:
    case phase::closed: return;
  }
}

void connection::on_peer_gone(bool reset) {
  peer_done_ = true;
  // A client may close its half after the request and still wait for the answer; a stream however
  // has no other sign that nobody reads.
  if (reset || phase_ != phase::request || stream_)
    return close();
  serve_body();
  if (auto watcher = std::exchange(request_.on_disconnect, nullptr))
    call(watcher);
}

void connection::parse_head() {
  if (!parser_) {
    while (in_.size() >= 2 && std::memcmp(in_.data(), "\r\n", 2) == 0)
      in_.consume(2); // some clients end a body with a line end too many
    if (in_.empty() || (in_.size() == 1 && *in_.data() == '\r'))
      return want_bytes(small_read);
    request_.began = steady_clock::now();
    if (turns_ > 0)
      read_deadline_ = request_.began + options().header_timeout;
    head_ = {};
    head_bytes_ = 0;
    parser_.emplace(head_, options().header_limit);
  }
  error_code ec;
  auto used = parser_->put(asio::const_buffer(in_.data(), in_.size()), ec);
  in_.consume(used);
  head_bytes_ += used;
  bool incomplete = ec == http::error::need_more;
  bool too_large = ec == http::error::header_limit
                   || head_bytes_ + (incomplete ? in_.size() : 0) > options().header_limit;
  if (incomplete && !too_large)
    return want_bytes(small_read);
  begin_request();
  if (too_large)
    return refuse(431, make_error(errc::payload_too_large, op::request, "the header is too large")
                         .with("limit_bytes", static_cast<int64_t>(options().header_limit)));
  if (ec)
    return refuse(400, malformed("malformed HTTP").with("detail", ec.message()));
  run_request();
}

void connection::begin_request() {
  phase_ = phase::request;
  worker_->mark_busy(self_);
  read_deadline_ = never;
  request_.turn = ++turns_;
  request_.method = head_.method;
  request_.request_id = choose_request_id(head_.headers);
  request_.body_limit = options().body_limit;
  request_.body_patience = options().body_timeout;
}

void connection::run_request() {
  auto ok = check_framing(head_, parser_->http11()).and_then([&] { return parse_target(head_); });
  if (!ok)
    return refuse(400, ok.error());
  if (auto length = parser_->content_length())
    head_.content_length = *length;
  auto expect = head_.headers.get("expect");
  request_.expects_continue = parser_->http11() && !parser_->is_done() && expect
                              && equal_ignoring_case(*expect, "100-continue");
  request_.keep_alive = head_.keep_alive = parser_->keep_alive();
  head_.http11 = parser_->http11();
  head_.request_id = request_.request_id;
  auto x = std::make_shared<exchange>(shared_from_this(), request_.turn, std::move(head_));
  call(worker_->core().serve, std::move(x));
  use_bytes();
}

void connection::refuse(int status, const error& failure) {
  request_.keep_alive = false;
  auto answer = error_response(failure, request_.request_id);
  answer.status = status;
  begin_answer(std::move(answer));
}

void connection::serve_body() {
  if (body_read_)
    fill_body_read();
  if (phase_ != phase::request)
    return;
  if (body_read_)
    want_bytes(std::clamp<uint64_t>(parser_->content_length_remaining().value_or(body_read_->max),
                                    small_read, std::max(body_read_->max, small_read)));
  else if (in_.size() < small_read)
    want_bytes(small_read);
}

void connection::wait_for_body(size_t received) {
  auto now = steady_clock::now();
  auto& patience = request_.body_patience;
  if (received > 0)
    patience -= now - body_read_->since;
  patience += std::chrono::seconds{received} / options().min_body_rate;
  patience = std::min<steady_clock::duration>(patience, options().body_timeout);
  body_read_->since = now;
  read_deadline_ = now + patience;
}

void connection::fill_body_read() {
  auto& failure = request_.body_failure;
  body_reader::chunk piece;
  error_code ec;
  if (parser_->content_length().value_or(0) > request_.body_limit)
    ec = http::error::body_limit;
  else if (!failure && !parser_->is_done())
    in_.consume(
      parser_->put_body(in_.data(), in_.size(), &piece, body_read_->max, request_.body_limit, ec));
  if (ec == http::error::need_more && in_.size() < options().header_limit)
    ec = {}; // a chunk's size line or the trailer is not complete
  if (!failure && ec == http::error::body_limit)
    failure = make_error(errc::payload_too_large, op::request, "the body is too large")
                .with("limit_bytes", static_cast<int64_t>(request_.body_limit));
  else if (!failure && ec)
    failure = malformed("malformed body").with("detail", ec.message());
  if (!piece.empty() || (!failure && parser_->is_done()))
    return finish_body_read(std::move(piece));
  if (!failure && peer_done_)
    failure = gone("the client went away in the middle of the body");
  if (failure)
    return finish_body_read(unexpected(*failure));
  if (request_.expects_continue && !send_continue())
    close();
}

void connection::finish_body_read(result<body_reader::chunk> piece) {
  read_deadline_ = never;
  auto done = std::move(body_read_->done);
  body_read_.reset();
  call(done, std::move(piece));
}

bool connection::send_continue() {
  request_.expects_continue = false;
  if (!in_.empty() || request_.status != 0)
    return true; // the client did not wait, or already has its answer
  constexpr std::string_view line = "HTTP/1.1 100 Continue\r\n\r\n";
  // All earlier answers went to the kernel, so that these few bytes fit unless the client does not
  // read.
  return ::send(socket_.native_handle(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
         == static_cast<ssize_t>(line.size());
}

void connection::drain() {
  error_code ec;
  auto used = parser_->put_body(in_.data(), in_.size(), nullptr, SIZE_MAX, UINT64_MAX, ec);
  in_.consume(used);
  drained_ += used;
  if (parser_->is_done())
    return next_request();
  bool stuck = in_.size() >= options().header_limit;
  if ((ec && ec != http::error::need_more) || drained_ > max_drain || stuck)
    return linger();
  want_bytes(4 * small_read);
}

// -- writing -------------------------------------------------------------------------------------

void connection::begin_answer(response answer) {
  if (request_.status != 0)
    return;
  if (peer_done_ && answer.stream)
    return close();
  request_.status = answer.status;
  std::optional<uint64_t> length = answer.body.size();
  if (answer.stream)
    length = answer.stream_length;
  bool head_only = request_.method == "HEAD" || has_no_body(answer.status);
  chunked_ = !length && !head_only && parser_->http11();
  bool until_close = !length && !head_only && !chunked_;
  auto unread = parser_->is_header_done() && !parser_->is_done();
  bool drainable = !request_.body_failure && !request_.expects_continue && parser_->is_header_done()
                   && parser_->content_length_remaining().value_or(0) <= max_drain;
  request_.keep_alive = request_.keep_alive && !until_close && !peer_done_ && !worker_->stopping()
                        && (!unread || drainable);
  write_head(answer, length);
  if (head_only || !answer.stream) {
    body_ = head_only ? std::string{} : std::move(answer.body);
    last_write_ = true;
    return write(body_, {});
  }
  stream_ = std::move(answer.stream);
  stream_left_ = length;
  if (length == 0)
    return end_stream();
  pull();
}

void connection::write_head(const response& answer, std::optional<uint64_t> length) {
  out_ = "HTTP/1.1 ";
  append_number(out_, static_cast<uint64_t>(answer.status));
  out_.append(" ").append(reason(answer.status)).append("\r\n");
  if (!answer.headers.get("server"))
    append_field(out_, "Server", "troupe");
  if (!answer.headers.get("date"))
    append_field(out_, "Date", worker_->date());
  append_field(out_, "X-Request-Id", request_.request_id);
  for (const auto& [name, value] : answer.headers)
    if (!is_ours(name))
      append_untrusted_field(out_, name, value);
  if (!request_.keep_alive)
    append_field(out_, "Connection", "close");
  else if (!parser_->http11())
    append_field(out_, "Connection", "keep-alive");
  if (chunked_) {
    append_field(out_, "Transfer-Encoding", "chunked");
  } else if (length && !has_no_body(answer.status)) {
    out_ += "Content-Length: ";
    append_number(out_, *length);
    out_ += "\r\n";
  }
  out_ += "\r\n";
}

void connection::write(std::string_view body, std::string_view tail) {
  writing_ = true;
  writes_ = {asio::buffer(out_), asio::buffer(body), asio::buffer(tail)};
  write_some();
}

void connection::write_some() {
  write_deadline_ = steady_clock::now() + options().write_timeout;
  socket_.async_write_some(writes_, [self = shared_from_this()](const error_code& ec, size_t n) {
    if (self->phase_ == phase::closed)
      return;
    if (ec)
      return self->close();
    for (auto& buffer : self->writes_) {
      auto step = std::min(n, buffer.size());
      buffer += step;
      n -= step;
    }
    bool all = asio::buffer_size(self->writes_) == 0;
    all ? self->on_written() : self->write_some();
  });
}

void connection::on_written() {
  writing_ = false;
  write_deadline_ = never;
  out_.clear();
  if (last_write_)
    return finish_answer();
  if (pulled_)
    return on_piece(*std::exchange(pulled_, std::nullopt));
  if (!awaiting_)
    pull();
}

void connection::pull() {
  auto ticket = std::make_shared<pull_ticket>(shared_from_this(), ++pulls_);
  awaiting_ = true;
  in_next_ = true;
  call([&] { stream_->next([ticket](piece_result piece) { ticket->use(std::move(piece)); }); });
  ticket.reset(); // while a drop still counts as an answer inside `next`
  in_next_ = false;
  if (pulled_)
    on_piece(*std::exchange(pulled_, std::nullopt));
  else if (!out_.empty())
    write({}, {}); // the head; the source takes its time
}

void connection::on_piece(piece_result piece) {
  awaiting_ = false;
  if (writing_) {
    pulled_ = std::move(piece);
    return;
  }
  if (!piece)
    return close();
  if (!*piece)
    return end_stream();
  piece_ = std::move(**piece);
  if (stream_left_) {
    if (piece_.size() > *stream_left_)
      return close(); // more than was announced would be taken for the next answer
    *stream_left_ -= piece_.size();
    if (*stream_left_ == 0) {
      stream_.reset();
      last_write_ = true;
    }
  }
  bool chunk = chunked_ && !piece_.empty(); // an empty one would end the body
  if (chunk) {
    append_number(out_, piece_.size(), 16);
    out_ += "\r\n";
  }
  write({piece_.data(), piece_.size()}, chunk ? "\r\n" : "");
}

void connection::end_stream() {
  if (stream_left_.value_or(0) > 0)
    return close();
  stream_.reset();
  last_write_ = true;
  write(chunked_ ? "0\r\n\r\n" : "", {});
}

void connection::finish_answer() {
  bool keep = request_.keep_alive;
  bool whole = parser_->is_header_done() && parser_->is_done();
  end_request();
  if (keep && whole)
    return next_request();
  if (!keep)
    return whole ? close() : linger();
  phase_ = phase::drain;
  drained_ = 0;
  read_deadline_ = steady_clock::now() + options().body_timeout;
  drain();
}

void connection::end_request() {
  auto ended = std::exchange(request_, {});
  auto read = std::exchange(body_read_, std::nullopt);
  stream_.reset();
  pulled_.reset();
  awaiting_ = false;
  last_write_ = false;
  body_ = {};
  piece_ = {};
  if (options().on_access)
    call(options().on_access,
         access_record{ended.method, ended.route, ended.status == 0 ? 499 : ended.status,
                       steady_clock::now() - ended.began});
  if (read)
    call(read->done, unexpected(gone("the request is over")));
}

void connection::next_request() {
  if (worker_->stopping() || peer_done_)
    return close();
  phase_ = phase::head;
  worker_->mark_waiting(self_);
  parser_.reset();
  read_deadline_ = steady_clock::now() + options().idle_timeout;
  use_bytes();
}

void connection::hand_over() {
  std::vector<char> early(in_.data(), in_.data() + in_.size());
  in_ = {};
  parser_.reset();
  auto next = successor_; // may be at its end in `start` already
  next->start(std::move(socket_), std::move(early));
}

void connection::linger() {
  // Closing with unread bytes resets the connection, which can take the answer from the client.
  phase_ = phase::linger;
  drained_ = 0;
  read_deadline_ = steady_clock::now() + linger_time;
  error_code ec;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ec);
  if (peer_done_)
    return close();
  use_bytes();
}

void connection::discard() {
  drained_ += in_.size();
  in_.clear();
  if (drained_ > max_linger)
    return close();
  want_bytes(16 * small_read);
}

} // namespace troupe::gateway
