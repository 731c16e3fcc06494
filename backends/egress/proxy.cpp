#include "backends/egress/proxy.hpp"

#include "backends/egress/request_head.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace troupe::backends::egress {

namespace {

using clock = reactor::clock;
using std::chrono::milliseconds;

/// Within it, a decision that was told already is only counted.
constexpr milliseconds repeat_time{1000};
/// Different decisions that are kept apart in that time.
constexpr size_t max_repeated = 256;
/// After an answer of ours, for its reader to take it before the connection goes.
constexpr milliseconds linger_time{2000};
/// When this process is out of descriptors or connections.
constexpr milliseconds accept_pause{100};
/// Reads of one side before the others have their turn.
constexpr int reads_at_once = 4;

std::array<char, 64 * 1024>& read_buffer() {
  static thread_local std::array<char, 64 * 1024> buffer;
  return buffer;
}

const char* phrase(int status) {
  switch (status) {
    case 403: return "Forbidden";
    case 408: return "Request Timeout";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Bad Request";
  }
}

} // namespace

// -- one connection ------------------------------------------------------------------------------

class proxy::connection : public std::enable_shared_from_this<connection> {
public:
  connection(std::shared_ptr<proxy> owner, uint64_t id, unique_fd client)
    : owner_(std::move(owner)), id_(id) {
    client_.fd = std::move(client);
  }

  void start() {
    expire_in(limits().head_time);
    client_.watch = events().watch(client_.fd.get(), EPOLLIN,
                                   [self = shared_from_this()](uint32_t) { self->advance(); });
  }

  void close() {
    if (phase_ == phase::closed)
      return;
    phase_ = phase::closed;
    events().cancel(deadline_);
    for (auto* x : {&client_, &upstream_}) {
      if (x->watch != 0)
        events().unwatch(std::exchange(x->watch, 0));
      x->fd.reset();
    }
    std::exchange(owner_, nullptr)->ended(id_);
  }

private:
  enum class phase { head, resolving, connecting, relaying, answering, closed };

  /// One end: `out` waits to be written to it.
  struct side {
    unique_fd fd;
    reactor::watch_id watch = 0;
    std::string out;
    size_t written = 0;
    bool ended = false; ///< nothing more is read from it
    bool shut = false;  ///< nothing more is written to it

    size_t pending() const {
      return out.size() - written;
    }
  };

  reactor& events() {
    return owner_->shared_.events();
  }
  const proxy_limits& limits() {
    return owner_->shared_.limits();
  }

  void expire_in(milliseconds time) {
    events().cancel(deadline_);
    deadline_ = events().at(clock::now() + time, [self = shared_from_this()] { self->expired(); });
  }

  void expired() {
    deadline_ = 0;
    switch (phase_) {
      case phase::head: return answer(408, "slow_request");
      case phase::resolving:
      case phase::connecting: return answer(504, "timeout");
      case phase::relaying: {
        auto idle = std::chrono::ceil<milliseconds>(clock::now() - last_use_);
        if (idle >= limits().idle_time)
          return close();
        return expire_in(limits().idle_time - idle);
      }
      default: return close();
    }
  }

  void advance() {
    auto keep = shared_from_this();
    switch (phase_) {
      case phase::head: read_head(); break;
      case phase::connecting: connected(); break;
      case phase::relaying: relay(); break;
      case phase::answering: finish_answer(); break;
      default: break;
    }
  }

  // -- the request ---

  void read_head() {
    auto& buffer = read_buffer();
    auto room = limits().head_bytes - head_.size();
    auto n = ::recv(client_.fd.get(), buffer.data(), std::min(room, buffer.size()), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
      return;
    if (n <= 0)
      return close();
    auto from = head_.size() > 3 ? head_.size() - 3 : 0;
    head_.append(buffer.data(), static_cast<size_t>(n));
    auto end = head_.find("\r\n\r\n", from);
    if (end == std::string::npos) {
      if (head_.size() >= limits().head_bytes)
        answer(431, "head_too_long");
      return;
    }
    auto parsed = parse_head(std::string_view{head_}.substr(0, end + 4));
    early_ = head_.substr(end + 4);
    head_.clear();
    if (!parsed) {
      owner_->tell({"", 0, false, parsed.error().reason, "", 1});
      return answer(parsed.error().status, parsed.error().reason);
    }
    request_ = std::move(*parsed);
    if (!allows(owner_->rules_, request_.host, request_.port)) {
      owner_->tell({request_.host, request_.port, false, "not_in_list", "", 1});
      return answer(403, "not_in_list");
    }
    phase_ = phase::resolving;
    events().modify(client_.watch, 0);
    expire_in(limits().connect_time);
    auto asked = owner_->shared_.resolve(
      owner_->name_, request_.host,
      [self = shared_from_this()](service::resolution x) { self->resolved(std::move(x)); });
    if (!asked) {
      owner_->tell({request_.host, request_.port, false, "busy", "", 1});
      answer(503, "busy");
    }
  }

  void resolved(service::resolution x) {
    if (phase_ != phase::resolving)
      return;
    if (x.reachable.empty()) {
      auto unknown = x.refused.empty();
      auto reason = unknown ? "unresolved" : x.refused;
      owner_->tell({request_.host, request_.port, false, reason,
                    unknown ? "" : to_string(x.refused_address), 1});
      return answer(unknown ? 502 : 403, reason);
    }
    owner_->tell({request_.host, request_.port, true, "listed", to_string(x.reachable.front()), 1});
    addresses_ = std::move(x.reachable);
    phase_ = phase::connecting;
    connect_next();
  }

  /// To the addresses that were checked, never to a name.
  void connect_next() {
    while (next_address_ < addresses_.size()) {
      const auto& to = addresses_[next_address_++];
      upstream_.fd.reset(
        ::socket(to.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      socklen_t size = 0;
      auto address = socket_address(to, request_.port, size);
      if (!upstream_.fd
          || (::connect(upstream_.fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0
              && errno != EINPROGRESS))
        continue;
      upstream_.watch = events().watch(upstream_.fd.get(), EPOLLOUT,
                                       [self = shared_from_this()](uint32_t) { self->advance(); });
      return;
    }
    answer(502, "unreachable");
  }

  void connected() {
    int fault = 0;
    socklen_t size = sizeof fault;
    if (::getsockopt(upstream_.fd.get(), SOL_SOCKET, SO_ERROR, &fault, &size) != 0 || fault != 0) {
      events().unwatch(std::exchange(upstream_.watch, 0));
      return connect_next();
    }
    int on = 1;
    ::setsockopt(upstream_.fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    phase_ = phase::relaying;
    last_use_ = clock::now();
    expire_in(limits().idle_time);
    if (request_.tunnel)
      client_.out = "HTTP/1.1 200 Connection established\r\n\r\n";
    else
      upstream_.out = std::move(request_.forwarded);
    pass_on(std::exchange(early_, {}));
    relay();
  }

  // -- bytes ---

  bool body_over() const {
    return !request_.tunnel && (request_.chunked ? chunks_.ended() : body_taken_ >= request_.body);
  }

  /// To the server, as far as it belongs to the request.
  void pass_on(std::string_view bytes) {
    if (!request_.tunnel && request_.chunked) {
      bytes = bytes.substr(0, chunks_.take(bytes));
    } else if (!request_.tunnel) {
      bytes = bytes.substr(0, std::min<uint64_t>(bytes.size(), request_.body - body_taken_));
      body_taken_ += bytes.size();
    }
    upstream_.out.append(bytes);
  }

  bool may_read(const side& from, const side& to) {
    return !from.ended && to.pending() < limits().buffer_bytes
           && !(&from == &client_ && body_over());
  }

  /// False when the connection is gone.
  bool read_from(side& from, side& to) {
    auto& buffer = read_buffer();
    for (int i = 0; i < reads_at_once && may_read(from, to); ++i) {
      auto n = ::recv(from.fd.get(), buffer.data(),
                      std::min(buffer.size(), limits().buffer_bytes - to.pending()), 0);
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0 && errno == EAGAIN)
        return true;
      if (n < 0)
        return false;
      last_use_ = clock::now();
      if (n == 0) {
        from.ended = true;
        return true;
      }
      std::string_view bytes{buffer.data(), static_cast<size_t>(n)};
      if (&from == &client_)
        pass_on(bytes);
      else
        to.out.append(bytes);
      if (chunks_.failed())
        return false;
      if (!write_to(to))
        return false;
    }
    return true;
  }

  bool write_to(side& to) {
    while (to.pending() > 0) {
      auto n = ::send(to.fd.get(), to.out.data() + to.written, to.pending(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return errno == EAGAIN;
      last_use_ = clock::now();
      to.written += static_cast<size_t>(n);
    }
    if (to.pending() == 0) {
      to.out.clear();
      to.written = 0;
    }
    return true;
  }

  void relay() {
    if (chunks_.failed() || !write_to(client_) || !write_to(upstream_)
        || !read_from(client_, upstream_) || !read_from(upstream_, client_))
      return close();
    // An end goes on in its own direction only.
    for (auto [from, to] : {std::pair{&client_, &upstream_}, std::pair{&upstream_, &client_}})
      if (from->ended && to->pending() == 0 && !std::exchange(to->shut, true))
        ::shutdown(to->fd.get(), SHUT_WR);
    if (client_.shut && client_.ended)
      return close();
    if (client_.shut && !request_.tunnel) {
      phase_ = phase::answering; // the server has said all, be there more of a body or not
      expire_in(linger_time);
      return finish_answer();
    }
    auto interest = [this](const side& x, const side& other) {
      return (may_read(x, other) ? EPOLLIN : 0U) | (x.pending() > 0 ? EPOLLOUT : 0U);
    };
    events().modify(client_.watch, interest(client_, upstream_));
    events().modify(upstream_.watch, interest(upstream_, client_));
  }

  // -- answers of ours ---

  void answer(int status, const std::string& reason) {
    if (upstream_.watch != 0)
      events().unwatch(std::exchange(upstream_.watch, 0));
    upstream_.fd.reset();
    auto body = "the sandbox's proxy refused this request: " + reason + "\n";
    client_.out = "HTTP/1.1 " + std::to_string(status) + " " + phrase(status)
                  + "\r\nContent-Type: text/plain\r\nX-Troupe-Reason: " + reason
                  + "\r\nContent-Length: " + std::to_string(body.size())
                  + "\r\nConnection: close\r\n\r\n" + body;
    phase_ = phase::answering;
    expire_in(linger_time);
    finish_answer();
  }

  /// What is still on its way here would turn our close into a reset that overtakes the answer.
  void finish_answer() {
    auto keep = shared_from_this();
    if (!write_to(client_))
      return close();
    if (client_.pending() == 0 && !std::exchange(client_.shut, true))
      ::shutdown(client_.fd.get(), SHUT_WR);
    auto& buffer = read_buffer();
    for (int i = 0; i < reads_at_once; ++i) {
      auto n = ::recv(client_.fd.get(), buffer.data(), buffer.size(), 0);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        return close();
      if (n < 0)
        break;
    }
    events().modify(client_.watch, EPOLLIN | (client_.pending() > 0 ? EPOLLOUT : 0U));
  }

  std::shared_ptr<proxy> owner_; ///< null once closed
  const uint64_t id_;
  phase phase_ = phase::head;
  reactor::timer_id deadline_ = 0;
  side client_;
  side upstream_;
  std::string head_;
  std::string early_; ///< what came with the head
  request_head request_;
  std::vector<ip_address> addresses_;
  size_t next_address_ = 0;
  uint64_t body_taken_ = 0;
  chunk_scanner chunks_;
  clock::time_point last_use_;
};

// -- the proxy -----------------------------------------------------------------------------------

proxy::proxy(service& shared, std::string name, std::vector<rule> rules, unique_fd listener,
             on_decision decided)
  : shared_(shared), name_(std::move(name)), rules_(std::move(rules)),
    listener_(std::move(listener)), decided_(std::move(decided)) {}

proxy::~proxy() = default;

void proxy::start() {
  ::fcntl(listener_.get(), F_SETFL, O_NONBLOCK);
  shared_.events().post([self = shared_from_this()] {
    if (!self->stopped_)
      self->watch_ = self->shared_.events().watch(self->listener_.get(), EPOLLIN,
                                                  [self](uint32_t) { self->accept(); });
  });
}

void proxy::stop() {
  shared_.events().post([self = shared_from_this()] {
    if (std::exchange(self->stopped_, true))
      return;
    auto& events = self->shared_.events();
    events.cancel(self->paused_);
    events.cancel(self->repeating_);
    if (self->watch_ != 0)
      events.unwatch(std::exchange(self->watch_, 0));
    self->listener_.reset();
    auto connections = self->connections_;
    for (auto& [id, x] : connections)
      x->close();
    self->decided_ = nullptr;
  });
}

void proxy::accept() {
  while (!stopped_ && connections_.size() < shared_.limits().connections) {
    if (!shared_.admit())
      return pause(accept_pause);
    unique_fd client{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (!client) {
      auto code = errno;
      shared_.release();
      if (code == EINTR || code == ECONNABORTED)
        continue;
      return code == EAGAIN ? void() : pause(accept_pause);
    }
    int on = 1;
    ::setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto id = next_id_++;
    auto x = std::make_shared<connection>(shared_from_this(), id, std::move(client));
    connections_[id] = x;
    x->start();
  }
  shared_.events().modify(watch_, 0); // until one ends
}

void proxy::pause(std::chrono::milliseconds time) {
  shared_.events().modify(watch_, 0);
  shared_.events().cancel(paused_);
  paused_ = shared_.events().at(clock::now() + time, [self = shared_from_this()] {
    self->paused_ = 0;
    self->shared_.events().modify(self->watch_, EPOLLIN);
  });
}

void proxy::ended(uint64_t id) {
  if (connections_.erase(id) == 0)
    return;
  shared_.release();
  if (watch_ != 0 && paused_ == 0)
    shared_.events().modify(watch_, EPOLLIN);
}

void proxy::tell(decision x) {
  decision_key key{x.host, x.port, x.allowed, x.reason};
  auto i = repeated_.find(key);
  if (i == repeated_.end() && repeated_.size() >= max_repeated) {
    x = {"", 0, x.allowed, "too_many_to_tell", "", 1};
    key = {x.host, x.port, x.allowed, x.reason};
    i = repeated_.find(key);
  }
  if (i != repeated_.end()) {
    ++i->second.count;
    return;
  }
  auto& kept = repeated_[key] = x;
  kept.count = 0;
  if (repeating_ == 0)
    repeating_ = shared_.events().at(clock::now() + repeat_time,
                                     [self = shared_from_this()] { self->tell_repeated(); });
  if (decided_)
    decided_(std::move(x));
}

void proxy::tell_repeated() {
  repeating_ = 0;
  auto all = std::exchange(repeated_, {});
  for (auto& [key, x] : all)
    if (x.count > 0 && decided_)
      decided_(std::move(x));
}

} // namespace troupe::backends::egress
