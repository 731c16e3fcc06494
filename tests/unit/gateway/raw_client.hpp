#pragma once

#include "messages/unique_fd.hpp"

#include <boost/test/unit_test.hpp>

#include <arpa/inet.h>
#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <string>

/// What a client got.
struct reply {
  int status = 0;
  std::string head; ///< status line and fields
  std::map<std::string, std::string> fields;
  std::string body;
  bool whole = false; ///< the body came to its announced end
};

/// A blocking client that sends any bytes, so that tests can be as wrong as they like.
class raw_client {
public:
  explicit raw_client(uint16_t port, int receive_buffer = 0)
    : raw_client(troupe::unique_fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))) {
    if (receive_buffer > 0)
      ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    BOOST_REQUIRE_EQUAL(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }

  /// The other end of a connection that a `raw_listener` took.
  explicit raw_client(troupe::unique_fd fd) : fd_(std::move(fd)) {
    timeval patience{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  }

  /// False if the server cut the connection meanwhile.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      auto n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0)
        return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  void get(const std::string& target, const std::string& fields = "") {
    send("GET " + target + " HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n");
  }

  void post(const std::string& target, const std::string& body, const std::string& fields = "") {
    send("POST " + target + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size())
         + "\r\n" + fields + "\r\n" + body);
  }

  /// One answer; status 0 if the connection ended before it. `to_head`: it has no body.
  reply receive(bool to_head = false) {
    reply r;
    if (!fill_until("\r\n\r\n"))
      return r;
    auto end = in_.find("\r\n\r\n") + 2;
    r.head = in_.substr(0, end);
    in_.erase(0, end + 2);
    r.status = std::stoi(r.head.substr(9, 3));
    for (auto at = r.head.find("\r\n") + 2; at < r.head.size();) {
      auto colon = r.head.find(": ", at);
      auto line = r.head.find("\r\n", at);
      r.fields[r.head.substr(at, colon - at)] = r.head.substr(colon + 2, line - colon - 2);
      at = line + 2;
    }
    if (to_head || r.status == 204 || r.status == 304 || r.status == 100)
      r.whole = true;
    else if (r.fields.count("Transfer-Encoding"))
      receive_chunks(r);
    else if (r.fields.count("Content-Length"))
      r.whole = take(std::stoul(r.fields["Content-Length"]), r.body);
    else
      r.body = rest();
    return r;
  }

  /// Everything up to `mark` and it; empty if the connection ended before.
  std::string until(std::string_view mark) {
    if (!fill_until(mark))
      return {};
    auto end = in_.find(mark) + mark.size();
    auto text = in_.substr(0, end);
    in_.erase(0, end);
    return text;
  }

  /// The next `n` bytes, or fewer if the connection ended before.
  std::string bytes(size_t n) {
    std::string out;
    take(n, out);
    return out;
  }

  /// Everything until the server closes.
  std::string rest() {
    while (fill()) {
    }
    return std::exchange(in_, {});
  }

  /// Waits for the server to close; true if it did so without another byte.
  bool closed() {
    return rest().empty() && !timed_out_;
  }

  void half_close() {
    ::shutdown(fd_.get(), SHUT_WR);
  }

  void close() {
    fd_.reset();
  }

  /// Sends `piece` until nobody takes it any more, at most up to `most` bytes; the bytes sent.
  size_t send_until_stuck(std::string_view piece, size_t most) {
    timeval patience{0, 300'000};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    size_t sent = 0;
    while (sent < most && send(piece))
      sent += piece.size();
    return sent;
  }

  /// Closes with a reset instead of a goodbye.
  void reset() {
    linger now{1, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd_.reset();
  }

private:
  bool fill() {
    char buffer[65536];
    auto n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    timed_out_ = n < 0 && errno == EAGAIN;
    if (n > 0)
      in_.append(buffer, static_cast<size_t>(n));
    return n > 0;
  }

  bool fill_until(std::string_view mark) {
    while (in_.find(mark) == std::string::npos)
      if (!fill())
        return false;
    return true;
  }

  bool take(size_t n, std::string& out) {
    while (in_.size() < n && fill()) {
    }
    out += in_.substr(0, n);
    bool all = in_.size() >= n;
    in_.erase(0, n);
    return all;
  }

  void receive_chunks(reply& r) {
    for (;;) {
      if (!fill_until("\r\n"))
        return;
      auto size = std::stoul(in_, nullptr, 16);
      in_.erase(0, in_.find("\r\n") + 2);
      std::string end;
      if (!take(size, r.body) || !take(2, end))
        return;
      BOOST_TEST(end == "\r\n");
      if (size == 0) {
        r.whole = true;
        return;
      }
    }
  }

  troupe::unique_fd fd_;
  std::string in_;
  bool timed_out_ = false;
};

/// Waits for connections, for tests that are a server.
class raw_listener {
public:
  raw_listener() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    timeval patience{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    BOOST_REQUIRE_EQUAL(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&at), size), 0);
    BOOST_REQUIRE_EQUAL(::listen(fd_.get(), 16), 0);
    ::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&at), &size);
    port = ntohs(at.sin_port);
  }

  raw_client accept() {
    troupe::unique_fd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    BOOST_REQUIRE(fd);
    return raw_client(std::move(fd));
  }

  void close() {
    fd_.reset();
  }

  uint16_t port = 0;

private:
  troupe::unique_fd fd_;
};

/// Carries one value from a server thread to the test.
template <class T>
class mailbox {
public:
  void put(T value) {
    std::lock_guard guard{mutex_};
    value_ = std::move(value);
    filled_.notify_all();
  }

  /// The value, once it came; the test fails if it does not.
  T take() {
    std::unique_lock lock{mutex_};
    BOOST_REQUIRE(filled_.wait_for(lock, std::chrono::seconds{20}, [&] { return !!value_; }));
    return *std::exchange(value_, std::nullopt);
  }

private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::optional<T> value_;
};
