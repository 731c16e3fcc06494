#include "backends/egress/proxy.hpp"

#include <boost/test/unit_test.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::backends::egress;

namespace {

struct listening {
  unique_fd fd;
  uint16_t port = 0;
};

listening listen_on(const char* address) {
  listening out;
  out.fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in a{};
  a.sin_family = AF_INET;
  ::inet_pton(AF_INET, address, &a.sin_addr);
  BOOST_REQUIRE(::bind(out.fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
  BOOST_REQUIRE(::listen(out.fd.get(), 16) == 0);
  socklen_t size = sizeof a;
  ::getsockname(out.fd.get(), reinterpret_cast<sockaddr*>(&a), &size);
  out.port = ntohs(a.sin_port);
  return out;
}

unique_fd connect_to(uint16_t port) {
  unique_fd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  BOOST_REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
  return fd;
}

void send_text(int fd, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    auto n = ::send(fd, text.data() + at, text.size() - at, MSG_NOSIGNAL);
    if (n <= 0)
      return;
    at += static_cast<size_t>(n);
  }
}

std::string read_until(int fd, const std::string& mark) {
  std::string out;
  char c;
  while (out.size() < 100'000 && (mark.empty() || out.find(mark) == std::string::npos)
         && ::read(fd, &c, 1) == 1)
    out += c;
  return out;
}

std::string read_all(int fd) {
  return read_until(fd, "");
}

/// A server behind the proxy: says what it was asked, and all that follows until the end.
struct fixture {
  explicit fixture(const std::function<void(service::options&)>& adjust = nullptr) {
    service::options options;
    options.allowed = {parse_range("127.0.0.1").value()};
    options.resolve = [this](const std::string& host) {
      std::lock_guard guard{mutex};
      ++lookups;
      if (auto x = parse_address(host))
        return std::vector{*x};
      auto i = names.find(host);
      return i == names.end() ? std::vector<ip_address>{} : i->second;
    };
    if (adjust)
      adjust(options);
    shared = std::make_unique<service>(std::move(options));
    names["good.test"] = {parse_address("127.0.0.1").value()};
    names["rebound.test"] = {parse_address("127.0.0.2").value()};
    names["inside.test"] = {parse_address("10.0.0.1").value()};
    names["mixed.test"] = {parse_address("10.0.0.1").value(), parse_address("127.0.0.1").value()};
    behind = listen_on("127.0.0.1");
    auto entry = listen_on("127.0.0.1");
    port = entry.port;
    std::vector<std::string> rules;
    for (auto host : {"good.test", "rebound.test", "inside.test", "mixed.test", "nowhere.test",
                      "*.wild.test", "127.0.0.1", "169.254.169.254"})
      rules.push_back(std::string{host} + ":*");
    tested = std::make_shared<proxy>(*shared, "s", parse_rules(rules).value(), std::move(entry.fd),
                                     [this](decision x) {
                                       std::lock_guard guard{mutex};
                                       decisions.push_back(std::move(x));
                                       wake.notify_all();
                                     });
    tested->start();
  }

  ~fixture() {
    tested->stop();
    tested.reset();
    shared.reset();
  }

  /// The whole answer to a request on a connection of its own.
  std::string ask(const std::string& text) {
    auto fd = connect_to(port);
    send_text(fd.get(), text);
    return read_all(fd.get());
  }

  decision last_decision(size_t count) {
    std::unique_lock lock{mutex};
    BOOST_REQUIRE(wake.wait_for(lock, 20s, [&] { return decisions.size() >= count; }));
    return decisions[count - 1];
  }

  std::string authority(const std::string& host) const {
    return host + ":" + std::to_string(behind.port);
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::map<std::string, std::vector<ip_address>> names; ///< guarded
  std::vector<decision> decisions;                      ///< guarded
  size_t lookups = 0;                                   ///< guarded
  listening behind;
  uint16_t port = 0;
  std::unique_ptr<service> shared;
  std::shared_ptr<proxy> tested;
};

struct impatient : fixture {
  impatient()
    : fixture([](service::options& x) {
        x.limits.head_time = 50ms;
        x.limits.idle_time = 100ms;
        x.limits.connections = 2;
        x.limits.head_bytes = 1024;
      }) {}
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(egress_proxy, fixture)

BOOST_AUTO_TEST_CASE(a_tunnel_carries_bytes_both_ways_and_each_end_of_them) {
  auto client = connect_to(port);
  send_text(client.get(), "CONNECT " + authority("good.test") + " HTTP/1.1\r\n\r\nearly");
  unique_fd server{::accept(behind.fd.get(), nullptr, nullptr)};
  BOOST_TEST(read_until(client.get(), "\r\n\r\n").substr(0, 13) == "HTTP/1.1 200 ");
  BOOST_TEST(read_until(server.get(), "early") == "early");
  send_text(client.get(), "ping");
  ::shutdown(client.get(), SHUT_WR);
  BOOST_TEST(read_all(server.get()) == "ping");
  send_text(server.get(), "pong");
  server.reset();
  BOOST_TEST(read_all(client.get()) == "pong");
  auto told = last_decision(1);
  BOOST_TEST(told.allowed);
  BOOST_TEST(told.host == "good.test");
  BOOST_TEST(told.address == "127.0.0.1");
}

BOOST_AUTO_TEST_CASE(a_tunnel_carries_more_than_its_buffers_hold) {
  const std::string much(8 << 20, 'x');
  auto client = connect_to(port);
  send_text(client.get(), "CONNECT " + authority("good.test") + " HTTP/1.1\r\n\r\n");
  unique_fd server{::accept(behind.fd.get(), nullptr, nullptr)};
  read_until(client.get(), "\r\n\r\n");
  std::thread writer{[&] {
    send_text(client.get(), much);
    ::shutdown(client.get(), SHUT_WR);
  }};
  size_t got = 0;
  std::vector<char> buffer(1 << 16);
  for (ssize_t n; (n = ::read(server.get(), buffer.data(), buffer.size())) > 0;)
    got += static_cast<size_t>(n);
  writer.join();
  BOOST_TEST(got == much.size());
}

BOOST_AUTO_TEST_CASE(a_plain_request_goes_to_its_host_and_no_second_one_after_it) {
  auto client = connect_to(port);
  send_text(client.get(), "POST http://" + authority("good.test")
                            + "/p HTTP/1.1\r\nHost: other.test\r\nContent-Length: 4\r\n\r\nbody"
                              "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n");
  unique_fd server{::accept(behind.fd.get(), nullptr, nullptr)};
  auto seen = read_until(server.get(), "body");
  BOOST_TEST(seen
             == "POST /p HTTP/1.1\r\nHost: " + authority("good.test")
                  + "\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody");
  send_text(server.get(), "HTTP/1.1 200 OK\r\n\r\nhello");
  ::shutdown(server.get(), SHUT_WR);
  BOOST_TEST(read_all(client.get()) == "HTTP/1.1 200 OK\r\n\r\nhello");
  BOOST_TEST(read_all(server.get()) == "");
}

BOOST_AUTO_TEST_CASE(names_that_are_not_listed_are_refused_without_a_look_up) {
  auto answer = ask("CONNECT evil.test:443 HTTP/1.1\r\n\r\n");
  BOOST_TEST(answer.substr(0, 13) == "HTTP/1.1 403 ");
  BOOST_TEST(answer.find("X-Troupe-Reason: not_in_list") != std::string::npos);
  auto told = last_decision(1);
  BOOST_TEST(!told.allowed);
  BOOST_TEST(told.host == "evil.test");
  BOOST_TEST(told.port == 443);
  BOOST_TEST(told.reason == "not_in_list");
  std::lock_guard guard{mutex};
  BOOST_TEST(lookups == 0);
}

BOOST_AUTO_TEST_CASE(a_listed_name_that_means_a_refused_address_is_refused) {
  // As by a name server that answers what it likes (rebinding).
  BOOST_TEST(ask("CONNECT " + authority("rebound.test") + " HTTP/1.1\r\n\r\n")
               .find("X-Troupe-Reason: loopback")
             != std::string::npos);
  auto told = last_decision(1);
  BOOST_TEST(told.reason == "loopback");
  BOOST_TEST(told.address == "127.0.0.2");
  BOOST_TEST(ask("GET http://inside.test/ HTTP/1.1\r\n\r\n").find("private") != std::string::npos);
  BOOST_TEST(ask("GET http://169.254.169.254/latest HTTP/1.1\r\n\r\n").find("metadata")
             != std::string::npos);
  BOOST_TEST(ask("CONNECT nowhere.test:1 HTTP/1.1\r\n\r\n").substr(0, 13) == "HTTP/1.1 502 ");
}

BOOST_AUTO_TEST_CASE(what_is_connected_to_is_the_address_that_was_checked) {
  auto client = connect_to(port);
  send_text(client.get(), "CONNECT " + authority("mixed.test") + " HTTP/1.1\r\n\r\n");
  unique_fd server{::accept(behind.fd.get(), nullptr, nullptr)};
  BOOST_TEST(read_until(client.get(), "\r\n\r\n").substr(0, 13) == "HTTP/1.1 200 ");
  BOOST_TEST(last_decision(1).address == "127.0.0.1");
  std::lock_guard guard{mutex};
  BOOST_TEST(lookups == 1);
}

BOOST_AUTO_TEST_CASE(what_is_no_request_is_answered_and_told) {
  BOOST_TEST(ask("\x16\x03\x01 hello\r\n\r\n").substr(0, 13) == "HTTP/1.1 400 ");
  BOOST_TEST(last_decision(1).reason == "bad_request");
  BOOST_TEST(ask("GET http://good.test/ HTTP/1.1\r\n" + std::string(20'000, 'x')).substr(0, 13)
             == "HTTP/1.1 431 ");
}

BOOST_AUTO_TEST_CASE(a_flood_of_the_same_decision_is_counted) {
  for (int i = 0; i < 200; ++i)
    ask("CONNECT evil.test:443 HTTP/1.1\r\n\r\n");
  uint64_t counted = 0;
  std::unique_lock lock{mutex};
  BOOST_TEST(wake.wait_for(lock, 20s, [&] {
    counted = 0;
    for (const auto& x : decisions)
      counted += x.count;
    return counted == 200;
  }));
  BOOST_TEST(decisions.size() < 50);
}

BOOST_FIXTURE_TEST_CASE(whoever_is_slow_is_cut_off_and_keeps_nobody_out, impatient) {
  auto silent = connect_to(port);
  auto dripping = connect_to(port);
  send_text(dripping.get(), "CONNECT good");
  // These two are all there may be: the third has to wait until they are gone.
  BOOST_TEST(ask("CONNECT evil.test:1 HTTP/1.1\r\n\r\n").substr(0, 13) == "HTTP/1.1 403 ");
  BOOST_TEST(read_all(silent.get()).substr(0, 13) == "HTTP/1.1 408 ");
  BOOST_TEST(read_all(dripping.get()).substr(0, 13) == "HTTP/1.1 408 ");

  auto idle = connect_to(port);
  send_text(idle.get(), "CONNECT " + authority("good.test") + " HTTP/1.1\r\n\r\n");
  unique_fd server{::accept(behind.fd.get(), nullptr, nullptr)};
  read_until(idle.get(), "\r\n\r\n");
  BOOST_TEST(read_all(idle.get()) == "");
  BOOST_TEST(read_all(server.get()) == "");
}

BOOST_AUTO_TEST_CASE(a_stop_ends_what_is_connected) {
  auto client = connect_to(port);
  send_text(client.get(), "CONNECT " + authority("good.test") + " HTTP/1.1\r\n\r\n");
  unique_fd server{::accept(behind.fd.get(), nullptr, nullptr)};
  read_until(client.get(), "\r\n\r\n");
  tested->stop();
  BOOST_TEST(read_all(client.get()) == "");
  BOOST_TEST(read_all(server.get()) == "");
}

BOOST_AUTO_TEST_SUITE_END()
