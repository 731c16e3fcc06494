#include "gateway/http/tunnel.hpp"

#include <boost/asio/write.hpp>

namespace troupe::gateway {

namespace {

constexpr size_t lane_buffer = 16 * 1024;

} // namespace

tunnel::tunnel(std::shared_ptr<connection> client, tcp_socket other, std::string_view first,
               std::chrono::milliseconds idle_timeout)
  : connection_(std::move(client)), worker_(connection_->owner()), client_(worker_->context()),
    other_(std::move(other)), idle_timeout_(idle_timeout) {
  down_.buffer.assign(first.begin(), first.end());
}

void tunnel::start(tcp_socket socket, std::vector<char> early) {
  client_ = std::move(socket);
  up_.buffer = std::move(early);
  for (auto* x : {&up_, &down_}) {
    auto first = x->buffer.size();
    x->buffer.resize(std::max(first, lane_buffer));
    if (first > 0)
      write(*x, first);
    else
      read(*x);
  }
}

void tunnel::stop() {
  connection_->close(); // there is no way to tell the two to end
}

void tunnel::close() {
  connection_.reset();
  error_code ec;
  client_.close(ec);
  other_.close(ec);
}

bool tunnel::expired(steady_clock::time_point now) {
  return now - last_ >= idle_timeout_;
}

void tunnel::read(lane& x) {
  x.from.async_read_some(asio::buffer(x.buffer),
                         [self = shared_from_this(), &x](const error_code& ec, size_t n) {
                           if (ec == asio::error::eof)
                             self->finish(x);
                           else if (self->usable(ec))
                             self->write(x, n);
                         });
}

void tunnel::write(lane& x, size_t size) {
  asio::async_write(x.to, asio::buffer(x.buffer.data(), size),
                    [self = shared_from_this(), &x](const error_code& ec, size_t) {
                      if (self->usable(ec))
                        self->read(x);
                    });
}

void tunnel::finish(lane& x) {
  x.done = true;
  error_code ec;
  x.to.shutdown(asio::socket_base::shutdown_send, ec);
  if (connection_ && (ec || (up_.done && down_.done)))
    connection_->close();
}

bool tunnel::usable(const error_code& ec) {
  last_ = steady_clock::now();
  if (ec && connection_)
    connection_->close();
  return connection_ != nullptr;
}

} // namespace troupe::gateway
