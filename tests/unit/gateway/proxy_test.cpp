#include "gateway/http/proxy.hpp"
#include "gateway/http/server.hpp"
#include "raw_client.hpp"

#include <thread>

using namespace troupe;
using namespace troupe::gateway;
using namespace std::chrono_literals;

namespace {

/// A server that passes everything on to the test's own.
struct fixture {
  fixture() {
    options.header_timeout = 400ms; // for a fast tick
    to.port = upstream.port;
    to.host = "127.0.0.1";
    to.prefix = "/prefix";
  }

  server& start() {
    running = server::start(options, [this](std::shared_ptr<exchange> x) {
                auto one = to;
                one.target = x->head().target;
                forward(std::move(x), one, limits);
              }).value();
    return *running;
  }

  raw_client connect() {
    return raw_client(running->port());
  }

  /// Sends one request, lets upstream answer it with `answer` and close.
  reply exchange_with(const std::string& request, const std::string& answer) {
    auto c = connect();
    c.send(request);
    auto u = upstream.accept();
    u.until("\r\n\r\n");
    u.send(answer);
    u.half_close();
    return c.receive(request.starts_with("HEAD"));
  }

  void wait_until_gone() {
    while (running->connections() > 0)
      std::this_thread::sleep_for(1ms);
  }

  server_options options;
  raw_listener upstream;
  proxy_target to;
  proxy_options limits;
  std::unique_ptr<server> running;
};

const std::string get = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

bool has_field(const std::string& head, const std::string& field) {
  return head.find("\r\n" + field + "\r\n") != std::string::npos;
}

} // namespace

BOOST_FIXTURE_TEST_SUITE(proxy_suite, fixture)

// -- heads ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_request_goes_on_with_its_own_fields_only) {
  start();
  auto c = connect();
  c.get("/a%2Fb/?x=%41&y", "Host2: y\r\nCookie: a=b\r\nAuthorization: Bearer k\r\n"
                           "Connection: keep-alive, X-Private\r\nX-Private: 1\r\nTE: trailers\r\n"
                           "Proxy-Authorization: z\r\nUpgrade: h2c\r\nExpect: nothing\r\n");
  auto u = upstream.accept();
  auto head = u.until("\r\n\r\n");
  BOOST_TEST(head.starts_with("GET /a%2Fb/?x=%41&y HTTP/1.1\r\n"));
  for (auto there :
       {"Host2: y", "Cookie: a=b", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http",
        "X-Forwarded-Host: x", "X-Forwarded-Prefix: /prefix", "Connection: close"})
    BOOST_TEST(has_field(head, there), there << " in " << head);
  BOOST_TEST(has_field(head, "Host: 127.0.0.1:" + std::to_string(upstream.port)));
  for (auto gone : {"Authorization", "X-Private", "TE:", "Upgrade", "Expect", "keep-alive",
                    "Content-Length", "Transfer-Encoding"})
    BOOST_TEST(head.find(gone) == std::string::npos, gone << " in " << head);
}

BOOST_AUTO_TEST_CASE(authorization_can_be_passed_on_and_forwarding_is_continued) {
  to.with_authorization = true;
  start();
  auto c = connect();
  c.get("/", "Authorization: Basic k\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n"
             "X-Forwarded-Host: public\r\n");
  auto u = upstream.accept();
  auto head = u.until("\r\n\r\n");
  for (auto there : {"Authorization: Basic k", "X-Forwarded-For: 1.2.3.4, 127.0.0.1",
                     "X-Forwarded-Proto: https", "X-Forwarded-Host: public"})
    BOOST_TEST(has_field(head, there), there << " in " << head);
}

BOOST_AUTO_TEST_CASE(an_answer_comes_back_as_it_was_given) {
  start();
  auto r = exchange_with(get, "HTTP/1.1 302 Elsewhere\r\nLocation: http://127.0.0.1/next?a=%20\r\n"
                              "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nServer: theirs\r\n"
                              "Date: then\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
                              "Keep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\nhello");
  BOOST_TEST(r.status == 302);
  BOOST_TEST(r.body == "hello");
  for (auto there : {"Location: http://127.0.0.1/next?a=%20", "Set-Cookie: a=1; Path=/",
                     "Set-Cookie: b=2", "Server: theirs", "Date: then", "Content-Length: 5"})
    BOOST_TEST(has_field(r.head, there), there << " in " << r.head);
  BOOST_TEST(r.fields.count("X-Hop") == 0u);
  BOOST_TEST(r.fields.count("Keep-Alive") == 0u);
  BOOST_TEST(r.fields.count("X-Request-Id") == 1u);
}

BOOST_AUTO_TEST_CASE(answers_without_a_body_have_none) {
  start();
  auto head = exchange_with("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n",
                            "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n");
  BOOST_TEST(head.status == 200);
  BOOST_TEST(head.fields["Content-Length"] == "12345");
  auto chunked_head = exchange_with("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n",
                                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
  BOOST_TEST(chunked_head.status == 200);
  BOOST_TEST(exchange_with(get, "HTTP/1.1 204 No\r\n\r\n").status == 204);
  BOOST_TEST(exchange_with(get, "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n").status == 304);
  auto empty = exchange_with(get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  BOOST_TEST(empty.whole);
  BOOST_TEST(empty.body == "");
}

BOOST_AUTO_TEST_CASE(interim_answers_stay_behind) {
  start();
  auto r = exchange_with(get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
                              "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  BOOST_TEST(r.status == 200);
  BOOST_TEST(r.body == "ok");
  BOOST_TEST(r.fields.count("Link") == 0u);
}

BOOST_AUTO_TEST_CASE(a_head_may_come_byte_by_byte) {
  start();
  auto c = connect();
  c.send(get);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  std::string answer
    = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nTrailer: x\r\n\r\n";
  for (char byte : answer)
    u.send({&byte, 1});
  auto r = c.receive();
  BOOST_TEST(r.whole);
  BOOST_TEST(r.body == "abcd");
}

// -- bodies --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_large_body_goes_up_with_its_length) {
  start();
  std::string body(5'000'000, 'u');
  auto c = connect();
  std::thread sender([&] { c.post("/up", body); });
  auto u = upstream.accept();
  auto head = u.until("\r\n\r\n");
  BOOST_TEST(has_field(head, "Content-Length: 5000000"));
  BOOST_TEST((u.bytes(body.size()) == body));
  sender.join();
  u.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  BOOST_TEST(c.receive().body == "ok");
}

BOOST_AUTO_TEST_CASE(a_chunked_body_goes_up_as_it_comes) {
  start();
  auto c = connect();
  c.send("POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  auto u = upstream.accept();
  BOOST_TEST(has_field(u.until("\r\n\r\n"), "Transfer-Encoding: chunked"));
  BOOST_TEST(u.bytes(8) == "3\r\nabc\r\n");
  c.send("12\r\nabcdefghijklmnopqr\r\n");
  BOOST_TEST(u.bytes(24) == "12\r\nabcdefghijklmnopqr\r\n");
  c.send("0\r\nDropped: trailer\r\n\r\n");
  BOOST_TEST(u.bytes(5) == "0\r\n\r\n");
  u.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  BOOST_TEST(c.receive().body == "ok");
}

BOOST_AUTO_TEST_CASE(a_client_that_waits_for_continue_gets_it) {
  start();
  auto c = connect();
  c.send("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  BOOST_TEST(c.receive().status == 100);
  c.send("hi");
  BOOST_TEST(u.bytes(2) == "hi");
  u.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  BOOST_TEST(c.receive().status == 200);
}

BOOST_AUTO_TEST_CASE(a_large_body_comes_down_whatever_its_framing) {
  start();
  std::string body(5'000'000, 'd');
  for (int framing = 0; framing < 3; ++framing) {
    auto c = connect();
    c.send(get);
    auto u = upstream.accept();
    u.until("\r\n\r\n");
    std::thread sender([&] {
      u.send("HTTP/1.1 200 OK\r\n");
      if (framing == 0)
        u.send("Content-Length: 5000000\r\n\r\n" + body);
      else if (framing == 1)
        u.send("Transfer-Encoding: chunked\r\n\r\n4c4b40\r\n" + body + "\r\n0\r\n\r\n");
      else
        u.send("\r\n" + body);
      u.half_close();
    });
    auto r = c.receive();
    sender.join();
    BOOST_TEST(r.whole);
    BOOST_TEST((r.body == body));
    BOOST_TEST(u.closed());
  }
}

BOOST_AUTO_TEST_CASE(a_body_is_passed_on_before_it_is_whole) {
  start();
  auto c = connect();
  c.send(get);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
  BOOST_TEST(c.until("\r\n\r\n").starts_with("HTTP/1.1 200"));
  u.send("data: 1\n\n");
  BOOST_TEST(c.until("data: 1\n\n") == "9\r\ndata: 1\n\n");
  u.send("data: 2\n\n");
  BOOST_TEST(c.until("data: 2\n\n") == "\r\n9\r\ndata: 2\n\n");
}

BOOST_AUTO_TEST_CASE(a_reader_that_stops_holds_the_sender_up) {
  start();
  raw_client c(running->port(), 65536);
  c.send(get);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send("HTTP/1.1 200 OK\r\n\r\n");
  BOOST_TEST(c.until("\r\n\r\n").starts_with("HTTP/1.1 200"));
  BOOST_TEST(u.send_until_stuck(std::string(100'000, 'x'), 60'000'000) < 60'000'000u);
}

BOOST_AUTO_TEST_CASE(an_early_answer_ends_a_request_that_is_not_whole) {
  start();
  auto c = connect();
  c.send("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc");
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
  auto r = c.receive();
  BOOST_TEST(r.status == 413);
  BOOST_TEST(r.body == "no");
}

BOOST_AUTO_TEST_CASE(a_malformed_body_is_refused) {
  start();
  auto c = connect();
  c.send("POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n");
  auto u = upstream.accept();
  BOOST_TEST(c.receive().status == 400);
  u.until("\r\n\r\n");
  BOOST_TEST(u.closed());
}

BOOST_AUTO_TEST_CASE(a_connection_serves_one_request_after_the_other) {
  start();
  auto c = connect();
  for (auto body : {"one", "two"}) {
    c.post("/", body);
    auto u = upstream.accept();
    u.until("\r\n\r\n");
    BOOST_TEST(u.bytes(3) == body);
    u.send(std::string("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n") + body);
    BOOST_TEST(c.receive().body == body);
  }
}

// -- failures ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(nobody_there_is_a_typed_error) {
  start();
  upstream.close();
  auto c = connect();
  c.send(get);
  auto r = c.receive();
  BOOST_TEST(r.status == 404);
  BOOST_TEST(r.body.starts_with(R"({"error":{"code":"exposed_port_unavailable")"));
  BOOST_TEST(r.body.find("Connection refused") != std::string::npos);
  to.host = "no-such-host.invalid";
  c.send(get);
  BOOST_TEST(c.receive().status == 404);
}

BOOST_AUTO_TEST_CASE(every_address_of_a_name_is_tried) {
  to.host = "localhost"; // ::1 too, where nobody listens
  start();
  BOOST_TEST(exchange_with(get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").status == 200);
}

BOOST_AUTO_TEST_CASE(what_is_not_http_is_a_typed_error) {
  start();
  for (auto answer : {"", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nConte",
                      "HTTP/1.1 101 Switching\r\n\r\n", "HTTP/1.1 000 Nothing\r\n\r\n",
                      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"}) {
    auto r = exchange_with(get, answer);
    BOOST_TEST(r.status == 404, answer);
    BOOST_TEST(r.body.starts_with(R"({"error":{"code":"exposed_port_unavailable")"), answer);
  }
  auto large = "HTTP/1.1 200 OK\r\nA: " + std::string(70'000, 'x');
  BOOST_TEST(exchange_with(get, large).status == 404);
  std::string many = "HTTP/1.1 200 OK\r\n";
  for (int i = 0; i < 200; ++i)
    many += "A: b\r\n";
  BOOST_TEST(exchange_with(get, many + "\r\n").status == 404);
}

BOOST_AUTO_TEST_CASE(a_body_that_breaks_off_is_cut) {
  start();
  for (auto answer : {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n"}) {
    auto r = exchange_with(get, answer);
    BOOST_TEST(r.status == 200, answer);
    BOOST_TEST(!r.whole, answer);
  }
}

BOOST_AUTO_TEST_CASE(fields_cannot_be_split) {
  start();
  auto r = exchange_with(get, "HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: x=y\r\n\r\n");
  BOOST_TEST(r.status == 404);
}

BOOST_AUTO_TEST_CASE(an_answer_that_does_not_come_times_out) {
  limits.answer_timeout = 100ms;
  start();
  auto c = connect();
  c.send(get);
  auto u = upstream.accept();
  BOOST_TEST(c.receive().status == 504);
  u.until("\r\n\r\n");
  BOOST_TEST(u.closed());
}

BOOST_AUTO_TEST_CASE(a_body_that_stalls_is_cut) {
  limits.idle_timeout = 100ms;
  start();
  auto c = connect();
  c.send(get);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
  auto r = c.receive();
  BOOST_TEST(r.body == "abc");
  BOOST_TEST(!r.whole);
}

BOOST_AUTO_TEST_CASE(a_client_that_leaves_ends_the_request) {
  start();
  for (auto answer : {"", "HTTP/1.1 200 OK\r\n\r\nabc"}) {
    auto c = connect();
    c.send(get);
    auto u = upstream.accept();
    u.until("\r\n\r\n");
    u.send(answer);
    if (*answer != '\0')
      BOOST_TEST(c.until("abc").size() > 0u);
    c.reset();
    BOOST_TEST(u.closed());
  }
  auto c = connect();
  c.send("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  auto u = upstream.accept();
  u.until("\r\n\r\nabc");
  c.close();
  BOOST_TEST(u.closed());
}

BOOST_AUTO_TEST_CASE(a_stop_ends_what_is_under_way) {
  start();
  auto c = connect();
  c.send(get);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  running.reset();
  BOOST_TEST(u.closed());
}

// -- tunnels -------------------------------------------------------------------------------------

const std::string upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
                            "Sec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n";
const std::string agreed = "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           "Sec-WebSocket-Accept: a\r\n\r\n";

BOOST_AUTO_TEST_CASE(a_websocket_becomes_a_tunnel) {
  start();
  auto c = connect();
  c.get("/live", upgrade);
  auto u = upstream.accept();
  auto head = u.until("\r\n\r\n");
  for (auto there : {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k"})
    BOOST_TEST(has_field(head, there), there << " in " << head);
  u.send(agreed + "first");
  auto r = c.receive(true);
  BOOST_TEST(r.status == 101);
  BOOST_TEST(r.fields["Sec-WebSocket-Accept"] == "a");
  BOOST_TEST(r.fields["Upgrade"] == "websocket");
  BOOST_TEST(c.bytes(5) == "first");
  std::string large(3'000'000, 'x');
  std::thread sender([&] { c.send(large); });
  BOOST_TEST((u.bytes(large.size()) == large));
  sender.join();
  sender = std::thread([&] { u.send(large); });
  BOOST_TEST((c.bytes(large.size()) == large));
  sender.join();
}

BOOST_AUTO_TEST_CASE(what_a_client_sends_early_goes_through_the_tunnel) {
  start();
  auto c = connect();
  c.send("GET /live HTTP/1.1\r\nHost: x\r\n" + upgrade + "\r\nearly");
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send(agreed);
  BOOST_TEST(u.bytes(5) == "early");
  BOOST_TEST(c.receive(true).status == 101);
}

BOOST_AUTO_TEST_CASE(a_refused_upgrade_is_an_answer) {
  start();
  auto r = exchange_with("GET /live HTTP/1.1\r\nHost: x\r\n" + upgrade + "\r\n",
                         "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
  BOOST_TEST(r.status == 403);
  BOOST_TEST(r.body == "no");
}

BOOST_AUTO_TEST_CASE(either_side_ends_a_tunnel) {
  start();
  for (bool by_client : {true, false}) {
    auto c = connect();
    c.get("/live", upgrade);
    auto u = upstream.accept();
    u.until("\r\n\r\n");
    u.send(agreed);
    c.receive(true);
    auto& first = by_client ? c : u;
    auto& second = by_client ? u : c;
    first.send("bye");
    first.half_close();
    BOOST_TEST(second.rest() == "bye");
    second.send("bye too"); // the other half is open still
    second.close();
    BOOST_TEST(first.rest() == "bye too");
    wait_until_gone();
  }
  auto c = connect();
  c.get("/live", upgrade);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send(agreed);
  c.receive(true);
  c.reset();
  BOOST_TEST(u.closed());
  wait_until_gone();
}

BOOST_AUTO_TEST_CASE(a_silent_tunnel_is_cut) {
  limits.tunnel_timeout = 200ms;
  start();
  auto c = connect();
  c.get("/live", upgrade);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send(agreed);
  BOOST_TEST(c.receive(true).status == 101);
  BOOST_TEST(c.closed());
  BOOST_TEST(u.closed());
}

BOOST_AUTO_TEST_CASE(a_stop_does_not_wait_for_tunnels) {
  start();
  auto c = connect();
  c.get("/live", upgrade);
  auto u = upstream.accept();
  u.until("\r\n\r\n");
  u.send(agreed);
  BOOST_TEST(c.receive(true).status == 101);
  running->stop(3600s);
  BOOST_TEST(u.closed());
}

BOOST_AUTO_TEST_SUITE_END()
