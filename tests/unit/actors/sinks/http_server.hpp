#pragma once

#include "messages/unique_fd.hpp"

#include <boost/test/unit_test.hpp>

#include <arpa/inet.h>
#include <sys/socket.h>

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace troupe::test {

/// A small HTTP server on a thread: keeps what it was sent, answers with `status`, or not at all.
class http_server {
public:
  struct request {
    std::string head;
    std::string body;
  };

  std::atomic<int> status{200};
  std::atomic<bool> mute{false};
  std::atomic<int> connections{0};

  http_server() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    auto* address = reinterpret_cast<sockaddr*>(&at);
    BOOST_REQUIRE(::bind(listener_.get(), address, size) == 0);
    BOOST_REQUIRE(::listen(listener_.get(), 8) == 0);
    BOOST_REQUIRE(::getsockname(listener_.get(), address, &size) == 0);
    port_ = ntohs(at.sin_port);
    thread_ = std::thread{[this] { serve(); }};
  }
  http_server(const http_server&) = delete;
  http_server& operator=(const http_server&) = delete;
  ~http_server() {
    stopping_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    ::shutdown(current_, SHUT_RDWR);
    thread_.join();
  }

  std::string url() const {
    return "http://127.0.0.1:" + std::to_string(port_) + "/events";
  }
  std::vector<request> requests() const {
    std::lock_guard lock{mutex_};
    return requests_;
  }

private:
  void serve() {
    while (!stopping_) {
      unique_fd connection{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
      if (!connection)
        return;
      ++connections;
      current_ = connection.get();
      while (!stopping_ && serve_one(connection.get())) {
      }
      current_ = -1;
    }
  }

  bool serve_one(int fd) {
    std::string in;
    auto receive_until = [&](auto enough) {
      char buffer[4096];
      while (!enough()) {
        auto n = ::recv(fd, buffer, sizeof buffer, 0);
        if (n <= 0)
          return false;
        in.append(buffer, static_cast<size_t>(n));
      }
      return true;
    };
    if (!receive_until([&] { return in.find("\r\n\r\n") != std::string::npos; }))
      return false;
    auto head = in.substr(0, in.find("\r\n\r\n") + 2);
    auto length = std::stoul(head.substr(head.find("Content-Length: ") + 16));
    auto start = head.size() + 2;
    if (!receive_until([&] { return in.size() >= start + length; }))
      return false;
    {
      std::lock_guard lock{mutex_};
      requests_.push_back({head, in.substr(start, length)});
    }
    if (mute)
      return receive_until([] { return false; });
    auto out = "HTTP/1.1 " + std::to_string(status.load()) + " X\r\nLocation: " + url()
               + "\r\nContent-Length: 2\r\n\r\nok";
    return ::send(fd, out.data(), out.size(), MSG_NOSIGNAL) > 0;
  }

  unique_fd listener_;
  uint16_t port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<int> current_{-1};
  mutable std::mutex mutex_;
  std::vector<request> requests_;
  std::thread thread_;
};

} // namespace troupe::test
