#include "gateway/http/connection.hpp"

#include <boost/asio/basic_socket_acceptor.hpp>

#include <netdb.h>
#include <netinet/in.h>

#include <cerrno>
#include <cstring>

namespace troupe::gateway {

namespace {

constexpr int backlog = 4096;
constexpr int accepts_at_once = 64; ///< then the connections get their turn
constexpr auto accept_pause = std::chrono::milliseconds{100};

error listen_error(const server_options& x, errc code, const char* why) {
  auto where = x.address + ":" + std::to_string(x.port);
  return make_error(code, op::start, "cannot listen on " + where + ": " + why);
}

/// Plain calls: Asio 1.74 opens and accepts sockets without CLOEXEC, and this process starts
/// others.
result<unique_fd> listen_on(const server_options& x) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  auto port = std::to_string(x.port);
  if (int rc = ::getaddrinfo(x.address.c_str(), port.c_str(), &hints, &found); rc != 0)
    return unexpected(listen_error(x, errc::invalid_request, ::gai_strerror(rc)));
  std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> address(found, &::freeaddrinfo);
  unique_fd fd(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int on = 1;
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0
      || ::bind(fd.get(), address->ai_addr, address->ai_addrlen) != 0
      || ::listen(fd.get(), backlog) != 0)
    return unexpected(listen_error(x, errno == EADDRINUSE ? errc::conflict : errc::invalid_request,
                                   std::strerror(errno)));
  return fd;
}

uint16_t port_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6
                 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                 : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

/// Deals new connections out to the workers. Lives on the first one's thread.
class listener {
public:
  listener(const std::vector<std::shared_ptr<worker>>& workers, unique_fd fd)
    : workers_(workers), acceptor_(workers.front()->context()), pause_(workers.front()->context()) {
    acceptor_.assign(asio::ip::tcp::v4(), fd.release()); // the family only matters to open()
  }

  void wait() {
    acceptor_.async_wait(asio::socket_base::wait_read, [this](const error_code& ec) {
      if (!ec)
        accept_some();
    });
  }

  void close() {
    error_code ec;
    acceptor_.close(ec);
    pause_.cancel();
  }

private:
  void accept_some() {
    for (int i = 0; i < accepts_at_once; ++i) {
      unique_fd fd(
        ::accept4(acceptor_.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd)
        deal(std::move(fd));
      else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        return pause();
      else if (errno == EAGAIN)
        break; // other errors are of a connection that is gone already
    }
    wait();
  }

  void deal(unique_fd fd) {
    auto& w = workers_[next_++ % workers_.size()];
    if (w->on_thread())
      w->adopt(std::move(fd));
    else
      w->post([w, fd = std::move(fd)]() mutable { w->adopt(std::move(fd)); });
  }

  /// Without descriptors to accept with, the socket stays readable: waiting on it would spin.
  void pause() {
    workers_.front()->evict();
    pause_.expires_after(accept_pause);
    pause_.async_wait([this](const error_code& ec) {
      if (!ec)
        wait();
    });
  }

  const std::vector<std::shared_ptr<worker>>& workers_;
  asio::basic_socket_acceptor<asio::ip::tcp, executor> acceptor_;
  steady_timer pause_;
  size_t next_ = 0;
};

} // namespace

struct server::impl {
  std::shared_ptr<server_core> core = std::make_shared<server_core>();
  std::vector<std::shared_ptr<worker>> workers;
  std::unique_ptr<listener> front;
  uint16_t port = 0;
};

server::server(std::unique_ptr<impl> x) : impl_(std::move(x)) {}

server::~server() {
  stop(std::chrono::milliseconds{0});
}

result<std::unique_ptr<server>> server::start(server_options options, handler serve) {
  auto fd = listen_on(options);
  if (!fd)
    return unexpected(std::move(fd.error()));
  auto x = std::make_unique<impl>();
  x->port = port_of(fd->get());
  x->core->options = std::move(options);
  x->core->serve = std::move(serve);
  for (unsigned i = 0; i < std::max(1u, x->core->options.threads); ++i)
    x->workers.push_back(std::make_shared<worker>(x->core));
  x->front = std::make_unique<listener>(x->workers, std::move(*fd));
  x->front->wait();
  for (auto& w : x->workers)
    w->run();
  return std::unique_ptr<server>(new server(std::move(x)));
}

uint16_t server::port() const {
  return impl_->port;
}

size_t server::connections() const {
  return impl_->core->connections;
}

void server::stop(std::chrono::milliseconds grace) {
  if (!impl_->front)
    return;
  auto& core = *impl_->core;
  auto& workers = impl_->workers;
  workers.front()->post([front = impl_->front.get()] { front->close(); });
  for (auto& w : workers)
    w->post([w] { w->begin_stop(); });
  {
    std::unique_lock lock{core.mutex};
    core.none_left.wait_for(lock, grace, [&] { return core.connections == 0; });
  }
  for (auto& w : workers)
    w->end();
  impl_->front.reset();
  core.serve = nullptr; // what it holds must not live on through an exchange that somebody keeps
  core.options.on_access = nullptr;
}

} // namespace troupe::gateway
