#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

namespace troupe::bench {

/// A blocking keep-alive client for one connection to a server on loopback: as little as a
/// measurement needs, so that it measures the server.
class http_client {
public:
  explicit http_client(uint16_t port) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
      throw std::runtime_error("connect");
    int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  http_client(const http_client&) = delete;
  http_client& operator=(const http_client&) = delete;
  ~http_client() {
    ::close(fd_);
  }

  struct answer {
    int status = 0;
    std::string body;
  };

  answer call(std::string_view method, const std::string& path, std::string_view body = "") {
    request_.clear();
    request_ += method;
    request_ += ' ';
    request_ += path;
    request_
      += " HTTP/1.1\r\nHost: bench\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n";
    request_ += body;
    for (size_t sent = 0; sent < request_.size();) {
      auto n = ::send(fd_, request_.data() + sent, request_.size() - sent, MSG_NOSIGNAL);
      if (n <= 0)
        throw std::runtime_error("send");
      sent += static_cast<size_t>(n);
    }
    size_t head = std::string::npos;
    while ((head = buffer_.find("\r\n\r\n")) == std::string::npos)
      fill();
    answer out;
    out.status = std::atoi(buffer_.c_str() + 9);
    size_t length = 0;
    if (auto at = buffer_.find("Content-Length: "); at != std::string::npos && at < head)
      length = std::strtoull(buffer_.c_str() + at + 16, nullptr, 10);
    while (buffer_.size() < head + 4 + length)
      fill();
    out.body = buffer_.substr(head + 4, length);
    buffer_.erase(0, head + 4 + length);
    return out;
  }

  /// The same, for a status that must be `want`.
  std::string expect(int want, std::string_view method, const std::string& path,
                     std::string_view body = "") {
    auto x = call(method, path, body);
    if (x.status != want)
      throw std::runtime_error(std::string{method} + " " + path + ": " + std::to_string(x.status)
                               + " " + x.body.substr(0, 500));
    return std::move(x.body);
  }

  /// The first `"id":"..."` of an answer.
  static std::string id_of(const std::string& body) {
    auto at = body.find("\"id\":\"");
    if (at == std::string::npos)
      throw std::runtime_error("no id");
    return body.substr(at + 6, 36);
  }

private:
  void fill() {
    char chunk[65536];
    auto n = ::recv(fd_, chunk, sizeof chunk, 0);
    if (n <= 0)
      throw std::runtime_error("the server closed the connection");
    buffer_.append(chunk, static_cast<size_t>(n));
  }

  int fd_ = -1;
  std::string request_;
  std::string buffer_;
};

} // namespace troupe::bench
