#include "gateway/http/server.hpp"
#include "gateway/http/websocket.hpp"
#include "raw_client.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/stream.hpp>

#include <thread>

using namespace troupe;
using namespace troupe::gateway;
using namespace std::chrono_literals;

namespace asio = boost::asio;
namespace ws = boost::beast::websocket;
using kind = websocket::kind;
using socket_ptr = std::shared_ptr<websocket>;
using received = result<websocket::message>;

namespace {

const std::string handshake = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
                              "Sec-WebSocket-Version: 13\r\n"
                              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A blocking WebSocket client.
class client {
public:
  explicit client(uint16_t port) : stream_(context_) {
    stream_.next_layer().connect({asio::ip::address_v4::loopback(), port});
    timeval patience{20, 0};
    ::setsockopt(fd(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ws::response_type answer;
    stream_.handshake(answer, "x", "/ws");
    request_id = std::string(answer["X-Request-Id"]);
  }

  int fd() {
    return stream_.next_layer().native_handle();
  }

  void send(kind type, const std::string& data) {
    stream_.text(type == kind::text);
    boost::beast::error_code ec;
    stream_.write(asio::buffer(data), ec);
  }

  /// The next message after `T` or `B` for its kind; or the code that the server closed with.
  std::string receive() {
    boost::beast::flat_buffer in;
    boost::beast::error_code ec;
    stream_.read(in, ec);
    if (ec)
      return ec == ws::error::closed ? "closed " + std::to_string(stream_.reason().code) + " "
                                         + std::string(stream_.reason().reason.c_str())
                                     : ec.message();
    auto data = in.cdata();
    return (stream_.got_text() ? "T" : "B")
           + std::string(static_cast<const char*>(data.data()), data.size());
  }

  void close() {
    boost::beast::error_code ec;
    stream_.close(ws::close_code::normal, ec);
  }

  void vanish() {
    ::linger now{1, 0};
    ::setsockopt(fd(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    stream_.next_layer().close();
  }

  std::string request_id;

private:
  asio::io_context context_;
  ws::stream<asio::ip::tcp::socket> stream_;
};

struct fixture {
  fixture() {
    options.header_timeout = 400ms; // for a fast tick
  }

  server& start() {
    running = server::start(options, [this](std::shared_ptr<exchange> x) {
                if (x->head().path == "/ws")
                  accept_websocket(x, socket_options, [this](socket_ptr s) { opened.put(s); });
                else
                  x->respond({});
              }).value();
    return *running;
  }

  /// What the server gets next from the client.
  received receive(const socket_ptr& s) {
    mailbox<received> box;
    s->receive([&](received x) { box.put(std::move(x)); });
    return box.take();
  }

  result<void> send(const socket_ptr& s, kind type, const std::string& data) {
    mailbox<result<void>> box;
    s->send(type, data, [&](result<void> x) { box.put(std::move(x)); });
    return box.take();
  }

  void wait_until_gone() {
    while (running->connections() > 0)
      std::this_thread::sleep_for(1ms);
  }

  server_options options;
  websocket_options socket_options;
  mailbox<socket_ptr> opened;
  mailbox<received> last;
  std::unique_ptr<server> running;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(websocket_suite, fixture)

// -- the handshake -------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_right_request_is_upgraded) {
  start();
  raw_client c(running->port());
  c.get("/ws", handshake + "X-Request-Id: r1\r\n");
  auto r = c.receive(true);
  BOOST_TEST(r.status == 101);
  BOOST_TEST(r.fields["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  BOOST_TEST(r.fields["X-Request-Id"] == "r1");
  BOOST_TEST(opened.take() != nullptr);
}

BOOST_AUTO_TEST_CASE(wrong_requests_are_answered_over_http) {
  start();
  struct wrong {
    const char* what;
    const char* instead;
    int status;
  };
  for (auto [what, instead, status] : {
         wrong{"Upgrade: websocket", "Upgrade: h2c", 426},
         wrong{"keep-alive, Upgrade", "keep-alive", 426},
         wrong{"Version: 13", "Version: 8", 426},
         wrong{"dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", 400},
         wrong{"dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j!!==", 400},
       }) {
    auto fields = handshake;
    fields.replace(fields.find(what), std::string_view(what).size(), instead);
    raw_client c(running->port());
    c.get("/ws", fields);
    auto r = c.receive();
    BOOST_TEST(r.status == status, instead);
    BOOST_TEST(r.fields.count("Sec-WebSocket-Version") == (status == 426 ? 1u : 0u), instead);
    c.get("/");
    BOOST_TEST(c.receive().status == 200); // it is HTTP still
  }
  raw_client c(running->port());
  c.post("/ws", "", handshake);
  BOOST_TEST(c.receive().status == 400);
  raw_client old(running->port());
  old.send("GET /ws HTTP/1.0\r\nHost: x\r\n" + handshake + "\r\n");
  BOOST_TEST(old.receive().status == 426);
  raw_client with_body(running->port());
  with_body.get("/ws", handshake + "Content-Length: 3\r\n");
  BOOST_TEST(with_body.receive().status == 400);
}

BOOST_AUTO_TEST_CASE(who_talks_before_the_answer_is_cut) {
  start();
  raw_client c(running->port());
  c.send("GET /ws HTTP/1.1\r\nHost: x\r\n" + handshake + "\r\n\x81\x80....");
  BOOST_TEST(c.receive().status == 0);
  wait_until_gone();
}

// -- messages ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(messages_go_both_ways_and_keep_their_kind) {
  start();
  client c(running->port());
  auto s = opened.take();
  BOOST_TEST(!c.request_id.empty());
  c.send(kind::text, "one");
  c.send(kind::binary, std::string("\0\xFF", 2));
  c.send(kind::text, "");
  auto first = receive(s);
  BOOST_TEST((first->type == kind::text));
  BOOST_TEST(first->data == "one");
  auto second = receive(s);
  BOOST_TEST((second->type == kind::binary));
  BOOST_TEST(second->data == std::string("\0\xFF", 2));
  BOOST_TEST(receive(s)->data == "");
  BOOST_TEST(send(s, kind::text, "ä").has_value());
  BOOST_TEST(send(s, kind::binary, std::string(300'000, 'x')).has_value());
  BOOST_TEST(c.receive() == "Tä");
  BOOST_TEST(c.receive() == "B" + std::string(300'000, 'x'));
}

BOOST_AUTO_TEST_CASE(messages_queued_at_once_keep_their_order) {
  start();
  client c(running->port());
  auto s = opened.take();
  for (int i = 0; i < 100; ++i)
    s->send(kind::text, std::to_string(i), [](auto) {});
  for (int i = 0; i < 100; ++i)
    BOOST_TEST(c.receive() == "T" + std::to_string(i));
}

BOOST_AUTO_TEST_CASE(a_client_that_does_not_read_fills_a_bounded_queue) {
  socket_options.queue_limit = 1'000'000;
  start();
  client c(running->port());
  auto s = opened.take();
  mailbox<error> refused;
  std::atomic<int> sent{0};
  std::atomic<bool> full{false};
  for (int i = 0; i < 1000 && !full; ++i)
    s->send(kind::binary, std::string(100'000, 'x'), [&](result<void> x) {
      if (x)
        ++sent;
      else if (!full.exchange(true))
        refused.put(x.error());
    });
  BOOST_TEST((refused.take().code == errc::overloaded));
  c.vanish();
  wait_until_gone();
  BOOST_TEST(sent < 1000);
}

BOOST_AUTO_TEST_CASE(nothing_is_read_before_it_is_asked_for) {
  start();
  raw_client c(running->port());
  c.get("/ws", handshake);
  BOOST_TEST(c.receive(true).status == 101);
  auto s = opened.take();
  std::string frame("\x82\xFE\xC3\x50\0\0\0\0", 8); // binary, 50000 bytes, masked with zeros
  frame.append(50'000, 'x');
  auto sent = c.send_until_stuck(frame, 60'000'000);
  BOOST_TEST(sent < 60'000'000u);
  for (size_t got = 0; got < sent; got += frame.size())
    BOOST_REQUIRE(receive(s)->data == frame.substr(8));
}

BOOST_AUTO_TEST_CASE(a_message_beyond_the_limit_ends_the_socket) {
  socket_options.message_limit = 1000;
  start();
  client c(running->port());
  auto s = opened.take();
  c.send(kind::binary, std::string(1001, 'x'));
  s->receive([&](received x) { last.put(std::move(x)); });
  BOOST_TEST(c.receive() == "closed 1009 ");
  BOOST_TEST((last.take().error().code == errc::cancelled));
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(text_that_is_not_utf8_ends_the_socket) {
  start();
  client c(running->port());
  auto s = opened.take();
  c.send(kind::text, "\xFF");
  s->receive([&](received x) { last.put(std::move(x)); });
  BOOST_TEST(c.receive() == "closed 1007 ");
  BOOST_TEST((last.take().error().code == errc::cancelled));
  wait_until_gone();
}

// -- the end -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_close_follows_what_is_queued) {
  start();
  client c(running->port());
  auto s = opened.take();
  s->send(kind::text, "last", [](auto) {});
  s->close(4000, std::string(200, 'r'));
  BOOST_TEST(c.receive() == "Tlast");
  BOOST_TEST(c.receive() == "closed 4000 " + std::string(123, 'r'));
  BOOST_TEST((receive(s).error().code == errc::cancelled));
  BOOST_TEST((send(s, kind::text, "x").error().code == errc::cancelled));
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(a_close_of_the_client_ends_a_receive) {
  start();
  client c(running->port());
  auto s = opened.take();
  std::thread closer([&] { c.close(); });
  BOOST_TEST((receive(s).error().code == errc::cancelled));
  closer.join();
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(a_handle_that_is_dropped_says_goodbye) {
  start();
  client c(running->port());
  opened.take();
  BOOST_TEST(c.receive() == "closed 1001 ");
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(a_client_that_vanishes_ends_receives_and_sends) {
  start();
  client c(running->port());
  auto s = opened.take();
  c.vanish();
  BOOST_TEST((receive(s).error().code == errc::cancelled));
  BOOST_TEST((send(s, kind::text, "x").error().code == errc::cancelled));
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(a_client_that_vanishes_is_noticed_while_nobody_reads) {
  start();
  client c(running->port());
  auto s = opened.take();
  c.vanish();
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(the_last_words_of_a_client_are_not_lost) {
  socket_options.idle_timeout = 20s;
  start();
  client c(running->port());
  auto s = opened.take();
  for (auto text : {"a", "b", "c"})
    c.send(kind::text, text);
  ::shutdown(c.fd(), SHUT_WR);
  for (auto text : {"a", "b", "c"})
    BOOST_TEST(receive(s)->data == text);
  BOOST_TEST((receive(s).error().code == errc::cancelled));
}

BOOST_AUTO_TEST_CASE(a_silent_client_is_pinged_and_one_that_answers_stays) {
  socket_options.idle_timeout = 300ms;
  start();
  client silent(running->port()); // reads nothing, so it answers no ping
  auto a = opened.take();
  client alive(running->port());
  auto b = opened.take();
  std::string got;
  std::thread reader([&] { got = alive.receive(); });
  mailbox<received> still;
  b->receive([&](received x) { still.put(std::move(x)); });
  BOOST_TEST((receive(a).error().code == errc::cancelled)); // its time is up
  BOOST_TEST(send(b, kind::text, "end").has_value());
  reader.join();
  BOOST_TEST(got == "Tend");
  BOOST_TEST(running->connections() == 1u);
  b->close(1000);
  BOOST_TEST((still.take().error().code == errc::cancelled));
}

BOOST_AUTO_TEST_CASE(a_client_that_takes_nothing_is_cut) {
  socket_options.write_timeout = 100ms;
  start();
  client c(running->port());
  auto s = opened.take();
  BOOST_TEST((send(s, kind::binary, std::string(50'000'000, 'x')).error().code == errc::cancelled));
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(a_client_that_does_not_answer_a_close_is_cut) {
  socket_options.close_timeout = 100ms;
  start();
  client c(running->port());
  opened.take()->close(1000);
  client wrong(running->port());
  wrong.send(kind::text, "\xFF");
  BOOST_TEST((receive(opened.take()).error().code == errc::cancelled));
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(an_upgraded_connection_counts_as_one) {
  options.max_connections = 1;
  start();
  client c(running->port());
  auto s = opened.take();
  raw_client other(running->port());
  BOOST_TEST(other.closed());
  s->close(1000);
  c.receive();
  wait_until_gone();
  raw_client again(running->port());
  again.get("/");
  BOOST_TEST(again.receive().status == 200);
}

BOOST_AUTO_TEST_CASE(a_stop_says_goodbye_and_waits_for_the_answer) {
  start();
  client c(running->port());
  auto s = opened.take();
  std::string goodbye;
  std::thread reader([&] { goodbye = c.receive(); });
  running->stop(20s);
  reader.join();
  BOOST_TEST(goodbye == "closed 1001 the server stops");
  BOOST_TEST(running->connections() == 0u);
}

BOOST_AUTO_TEST_CASE(a_stop_without_grace_cuts_and_tells_the_receiver) {
  start();
  client c(running->port());
  auto s = opened.take();
  mailbox<received> box;
  s->receive([&](received x) { box.put(std::move(x)); });
  c.send(kind::text, "in");
  BOOST_TEST(box.take()->data == "in");
  s->receive([&](received x) { box.put(std::move(x)); });
  running.reset();
  BOOST_TEST((box.take().error().code == errc::cancelled));
}

BOOST_AUTO_TEST_CASE(an_upgrade_is_reported_as_101) {
  mailbox<int> status;
  options.on_access = [&](const access_record& r) { status.put(r.status); };
  start();
  client c(running->port());
  BOOST_TEST(status.take() == 101);
  opened.take();
}

BOOST_AUTO_TEST_SUITE_END()
