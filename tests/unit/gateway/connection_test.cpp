#include "gateway/http/answers.hpp"
#include "gateway/http/router.hpp"
#include "gateway/http/server.hpp"
#include "messages/ids.hpp"
#include "raw_client.hpp"

using namespace troupe;
using namespace troupe::gateway;
using namespace std::chrono_literals;
using exchange_ptr = std::shared_ptr<exchange>;
using chunk = body_source::chunk;

namespace {

void answer(const exchange_ptr& x, std::string body, int status = 200) {
  response r;
  r.status = status;
  r.body = std::move(body);
  x->respond(std::move(r));
}

/// Gives the pieces in turn, then the end; tells when it is destroyed.
class pieces_source : public body_source {
public:
  pieces_source(std::vector<std::string> pieces, mailbox<bool>* destroyed = nullptr)
    : pieces_(std::move(pieces)), destroyed_(destroyed) {}
  ~pieces_source() override {
    if (destroyed_)
      destroyed_->put(true);
  }
  void next(next_done done) override {
    if (at_ == pieces_.size())
      return done(std::nullopt);
    const auto& piece = pieces_[at_++];
    done(chunk(piece.begin(), piece.end()));
  }

private:
  std::vector<std::string> pieces_;
  mailbox<bool>* destroyed_;
  size_t at_ = 0;
};

/// Hands its `done` to the test, which answers when it likes.
class remote_source : public body_source {
public:
  remote_source(mailbox<next_done>& asked, mailbox<bool>& destroyed)
    : asked_(asked), destroyed_(destroyed) {}
  ~remote_source() override {
    destroyed_.put(true);
  }
  void next(next_done done) override {
    asked_.put(std::move(done));
  }

private:
  mailbox<next_done>& asked_;
  mailbox<bool>& destroyed_;
};

/// Counts what was pulled out of an endless supply.
class endless_source : public body_source {
public:
  endless_source(std::atomic<size_t>& pulls, mailbox<bool>& destroyed)
    : pulls_(pulls), destroyed_(destroyed) {}
  ~endless_source() override {
    destroyed_.put(true);
  }
  void next(next_done done) override {
    ++pulls_;
    done(chunk(body_reader::max_chunk, 'x'));
  }

private:
  std::atomic<size_t>& pulls_;
  mailbox<bool>& destroyed_;
};

response stream_of(std::unique_ptr<body_source> source, std::optional<uint64_t> length = {}) {
  response r;
  r.stream = std::move(source);
  r.stream_length = length;
  return r;
}

std::string outcome(const result<body_reader::chunk>& body) {
  return body ? std::string(body->begin(), body->end()) : std::string(to_string(body.error().code));
}

/// A server with routes that tests add before `port()` is first called.
struct fixture {
  fixture() {
    routes.add("GET", "/hello", [](exchange_ptr x) { answer(x, "hello"); });
    routes.add("POST", "/echo", [](exchange_ptr x) {
      x->body().read_all(1 << 20, [x](auto body) {
        body ? answer(x, outcome(body))
             : x->respond(error_response(body.error(), x->head().request_id));
      });
    });
    routes.add("POST", "/ignore", [](exchange_ptr x) { answer(x, "ignored"); });
    routes.add("GET", "/hold", [this](exchange_ptr x) { held.put(std::move(x)); });
    routes.add("POST", "/hold", [this](exchange_ptr x) { held.put(std::move(x)); });
  }

  uint16_t port() {
    if (!running)
      running = server::start(options, routes).value();
    return running->port();
  }

  raw_client connect() {
    return raw_client(port());
  }

  /// Sends raw bytes on a connection of their own and takes one answer.
  reply ask(const std::string& bytes) {
    auto c = connect();
    c.send(bytes);
    return c.receive();
  }

  /// What `GET /stream` answers with.
  void stream(std::function<response()> make) {
    routes.add("GET", "/stream", [make](exchange_ptr x) { x->respond(make()); });
  }

  mailbox<exchange_ptr> held;
  mailbox<bool> destroyed;
  router routes;
  server_options options;
  std::unique_ptr<server> running; ///< last: its callbacks use the others
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(connection_suite, fixture)

// -- requests ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_connection_serves_one_request_after_the_other) {
  auto c = connect();
  for (int i = 0; i < 3; ++i) {
    c.get("/hello");
    auto r = c.receive();
    BOOST_TEST(r.status == 200);
    BOOST_TEST(r.body == "hello");
    BOOST_TEST(r.fields["Server"] == "troupe");
    BOOST_TEST(r.fields.count("Date") == 1);
    BOOST_TEST(r.fields.count("Connection") == 0);
  }
}

BOOST_AUTO_TEST_CASE(pipelined_requests_are_answered_in_order) {
  auto c = connect();
  std::string bytes;
  for (int i = 0; i < 200; ++i)
    bytes
      += "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n" + std::to_string(100 + i);
  c.send(bytes);
  for (int i = 0; i < 200; ++i)
    BOOST_REQUIRE_EQUAL(c.receive().body, std::to_string(100 + i));
}

BOOST_AUTO_TEST_CASE(a_pipelined_request_waits_for_the_answer_before_it) {
  auto c = connect();
  c.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  answer(held.take(), "first");
  BOOST_TEST(c.receive().body == "first");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(requests_may_come_byte_by_byte) {
  auto c = connect();
  for (char byte :
       std::string("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"))
    c.send({&byte, 1});
  BOOST_TEST(c.receive().body == "abcde");
  for (char byte :
       std::string("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "0\r\n\r\n"))
    c.send({&byte, 1});
  auto r = c.receive();
  BOOST_TEST(r.status == 200);
  BOOST_TEST(r.body == "");
}

BOOST_AUTO_TEST_CASE(the_head_is_taken_apart) {
  auto c = connect();
  c.get("/hold?path=a%20b&x", "Accept: text/event-stream\r\nX-Y:  z \r\n");
  auto x = held.take();
  BOOST_TEST(x->head().method == "GET");
  BOOST_TEST(x->head().target == "/hold?path=a%20b&x");
  BOOST_TEST(x->head().path == "/hold");
  BOOST_TEST(x->head().query.get("path").value() == "a b");
  BOOST_TEST(x->head().headers.get("x-y").value() == "z");
  BOOST_TEST(x->head().accepts("text/event-stream"));
  BOOST_TEST(!x->head().content_length);
}

BOOST_AUTO_TEST_CASE(an_absolute_target_is_its_path) {
  BOOST_TEST(ask("GET http://x:1/hello?a HTTP/1.1\r\nHost: x\r\n\r\n").body == "hello");
}

BOOST_AUTO_TEST_CASE(line_ends_between_requests_are_ignored) {
  BOOST_TEST(ask("\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n").body == "hello");
}

BOOST_AUTO_TEST_CASE(http_1_0_closes_unless_asked_to_stay) {
  auto c = connect();
  c.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  BOOST_TEST(c.receive().fields["Connection"] == "keep-alive");
  c.send("GET /hello HTTP/1.0\r\n\r\n");
  BOOST_TEST(c.receive().fields["Connection"] == "close");
  BOOST_TEST(c.closed());
}

BOOST_AUTO_TEST_CASE(connection_close_is_honoured) {
  auto c = connect();
  c.get("/hello", "Connection: close\r\n");
  BOOST_TEST(c.receive().fields["Connection"] == "close");
  BOOST_TEST(c.closed());
}

BOOST_AUTO_TEST_CASE(head_has_the_length_but_not_the_body) {
  auto c = connect();
  c.send("HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  auto r = c.receive(true);
  BOOST_TEST(r.status == 200);
  BOOST_TEST(r.fields["Content-Length"] == "5");
  c.get("/hello");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(malformed_requests_are_answered_with_400_and_cut) {
  const char* wrong[] = {
    "nonsense\r\n\r\n",
    "GET  /hello HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /hello HTTP/2.0\r\nHost: x\r\n\r\n",
    "GET /hello HTTP/1.1\r\nHost : x\r\n\r\n",
    "GET /hello HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "GET /hello HTTP/1.1\r\n\r\n",
    "GET /hello HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "GET hello HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
  };
  for (auto bytes : wrong) {
    auto c = connect();
    c.send(bytes);
    auto r = c.receive();
    BOOST_TEST(r.status == 400, bytes);
    BOOST_TEST(r.body.starts_with(R"({"error":{"code":"invalid_request")"), bytes);
    BOOST_TEST(is_uuid(r.fields["X-Request-Id"]), bytes);
    BOOST_TEST(c.closed(), bytes);
  }
}

BOOST_AUTO_TEST_CASE(a_header_beyond_the_limit_is_answered_with_431) {
  options.header_limit = 2000;
  const std::string wrong[] = {
    "GET /" + std::string(3000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /" + std::string(3000, 'a'),
    "GET /hello HTTP/1.1\r\nHost: x\r\nA: " + std::string(3000, 'a') + "\r\n\r\n",
    "GET /hello HTTP/1.1\r\nHost: x\r\nA: " + std::string(3000, 'a'),
    "GET /" + std::string(1500, 'a') + " HTTP/1.1\r\nHost: x\r\nA: " + std::string(1500, 'a')
      + "\r\n\r\n",
  };
  for (const auto& bytes : wrong) {
    auto c = connect();
    c.send(bytes);
    BOOST_TEST(c.receive().status == 431);
    BOOST_TEST(c.closed());
  }
  std::string many = "GET /hello HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 200; ++i)
    many += "A:\r\n";
  BOOST_TEST(ask(many + "\r\n").status == 431);
  BOOST_TEST(
    ask("GET /hello HTTP/1.1\r\nHost: x\r\nA: " + std::string(1900, 'a') + "\r\n\r\n").status
    == 200);
}

BOOST_AUTO_TEST_CASE(unknown_paths_and_methods_are_answered) {
  auto c = connect();
  c.get("/nothing");
  auto r = c.receive();
  BOOST_TEST(r.status == 404);
  BOOST_TEST(r.body.starts_with(R"({"error":{"code":"not_found")"));
  c.send("DELETE /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  r = c.receive();
  BOOST_TEST(r.status == 405);
  BOOST_TEST(r.fields["Allow"] == "GET, HEAD");
}

BOOST_AUTO_TEST_CASE(a_sane_request_id_is_echoed_and_any_other_replaced) {
  auto c = connect();
  auto id_for = [&](const std::string& id, const std::string& path) {
    c.get(path, "X-Request-Id: " + id + "\r\n");
    auto r = c.receive();
    if (r.status != 200)
      BOOST_TEST(r.body.find("\"request_id\":\"" + r.fields["X-Request-Id"] + "\"")
                 != std::string::npos);
    return r.fields["X-Request-Id"];
  };
  BOOST_TEST(id_for("my id-1", "/hello") == "my id-1");
  BOOST_TEST(id_for("my id-1", "/nothing") == "my id-1");
  BOOST_TEST(is_uuid(id_for(std::string(129, 'a'), "/hello")));
  BOOST_TEST(is_uuid(id_for("a\xC3\xA4", "/hello")));
  BOOST_TEST(is_uuid(id_for("", "/nothing")));
}

// -- bodies --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(bodies_arrive_whole_whatever_their_framing) {
  std::string body(700'000, 'x');
  for (size_t i = 0; i < body.size(); ++i)
    body[i] = static_cast<char>('a' + i % 23);
  auto c = connect();
  c.post("/echo", body);
  BOOST_TEST((c.receive().body == body));
  c.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (size_t at = 0; at < body.size(); at += 70'000)
    c.send("11170\r\n" + body.substr(at, 70'000) + "\r\n");
  c.send("0\r\n\r\n");
  BOOST_TEST((c.receive().body == body));
  c.post("/echo", "");
  BOOST_TEST(c.receive().body == "");
}

BOOST_AUTO_TEST_CASE(reads_give_at_most_what_was_asked_for_and_empty_at_the_end) {
  auto c = connect();
  c.post("/hold", "abcdef");
  auto x = held.take();
  mailbox<std::string> got;
  for (auto expected : {"abcd", "ef", "", ""}) {
    x->body().read(4, [&](auto piece) { got.put(outcome(piece)); });
    BOOST_TEST(got.take() == expected);
  }
  answer(x, "");
}

BOOST_AUTO_TEST_CASE(tiny_reads_of_a_large_body_do_not_pile_up_on_the_stack) {
  auto total = std::make_shared<size_t>(0);
  routes.add("POST", "/tiny", [total](exchange_ptr x) {
    auto step = std::make_shared<std::function<void()>>();
    *step = [x, total, step] {
      x->body().read(1, [x, total, step](auto piece) {
        if (piece && !piece->empty()) {
          ++*total;
          return (*step)();
        }
        answer(x, std::to_string(*total));
        x->post([step] { *step = nullptr; });
      });
    };
    (*step)();
  });
  auto c = connect();
  c.post("/tiny", std::string(100'000, 'x'));
  BOOST_TEST(c.receive().body == "100000");
}

BOOST_AUTO_TEST_CASE(only_one_read_may_be_under_way) {
  auto c = connect();
  c.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n");
  auto x = held.take();
  mailbox<std::string> first, second;
  x->body().read(10, [&](auto piece) { first.put(outcome(piece)); });
  x->body().read(10, [&](auto piece) { second.put(outcome(piece)); });
  BOOST_TEST(second.take() == "internal");
  c.send("abcde");
  BOOST_TEST(first.take() == "abcde");
}

BOOST_AUTO_TEST_CASE(a_client_that_expects_100_gets_it_when_the_handler_reads) {
  auto c = connect();
  c.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  auto x = held.take();
  x->body().read_all(10, [x](auto body) { answer(x, outcome(body)); });
  BOOST_TEST(c.receive().status == 100);
  c.send("abc");
  BOOST_TEST(c.receive().body == "abc");
  c.get("/hello");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(a_client_that_expects_100_may_be_refused_without_it) {
  auto c = connect();
  c.send("POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  auto r = c.receive();
  BOOST_TEST(r.status == 200);
  BOOST_TEST(r.fields["Connection"] == "close");
  auto d = connect();
  d.send(
    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n");
  BOOST_TEST(d.receive().status == 413);
}

BOOST_AUTO_TEST_CASE(a_body_over_the_limit_is_refused) {
  options.body_limit = 1000;
  routes.add("POST", "/default", [](exchange_ptr x) {
    x->body().read(2000, [x](auto piece) { answer(x, outcome(piece)); });
  });
  routes.add("POST", "/raised", [](exchange_ptr x) {
    x->set_body_limit(2000);
    x->body().read(2000, [x](auto piece) { answer(x, outcome(piece)); });
  });
  std::string body(1001, 'x');
  auto c = connect();
  c.post("/default", body);
  BOOST_TEST(c.receive().body == "payload_too_large");
  BOOST_TEST(c.closed());
  auto chunked = [&](const std::string& path) {
    return ask("POST " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
               + body + "\r\n0\r\n\r\n");
  };
  BOOST_TEST(chunked("/default").body == "payload_too_large");
  BOOST_TEST(chunked("/raised").body == body);
}

BOOST_AUTO_TEST_CASE(many_small_chunks_count_towards_the_limit) {
  std::string bytes = "POST /hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 11; ++i)
    bytes += "1\r\nx\r\n";
  auto c = connect();
  c.send(bytes + "0\r\n\r\n");
  auto x = held.take();
  x->body().read_all(10, [x](auto body) { answer(x, outcome(body)); });
  BOOST_TEST(c.receive().body == "payload_too_large");
}

BOOST_AUTO_TEST_CASE(an_endless_chunk_size_line_or_trailer_is_refused) {
  const std::string begin = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  BOOST_TEST(ask(begin + "1;" + std::string(20'000, 'a')).status == 400);
  BOOST_TEST(ask(begin + "0\r\nA: " + std::string(20'000, 'a')).status == 400);
}

BOOST_AUTO_TEST_CASE(a_body_that_ends_too_soon_is_cancelled) {
  auto c = connect();
  c.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  auto x = held.take();
  mailbox<std::string> got;
  x->body().read(10, [&](auto piece) { got.put(outcome(piece)); });
  BOOST_TEST(got.take() == "abc");
  x->body().read(10, [&](auto piece) { got.put(outcome(piece)); });
  c.close();
  BOOST_TEST(got.take() == "cancelled");
  x->body().read(10, [&](auto piece) { got.put(outcome(piece)); });
  BOOST_TEST(got.take() == "cancelled");
}

BOOST_AUTO_TEST_CASE(a_body_that_stalls_is_cancelled) {
  options.body_timeout = 50ms;
  auto c = connect();
  c.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
  auto x = held.take();
  mailbox<std::string> got;
  x->body().read(10, [&](auto piece) { got.put(outcome(piece)); });
  BOOST_TEST(got.take() == "cancelled");
  BOOST_TEST(c.receive().status == 408);
  x->respond({}); // too late
  BOOST_TEST(c.closed());
}

BOOST_AUTO_TEST_CASE(a_body_that_only_drips_is_cancelled) {
  options.body_timeout = 100ms;
  auto c = connect();
  c.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
  auto x = held.take();
  // Each byte comes in time, but is worth 16 ms.
  for (int i = 0; i < 1000; ++i) {
    mailbox<std::string> got;
    x->body().read(1, [&](auto piece) { got.put(outcome(piece)); });
    std::this_thread::sleep_for(30ms);
    c.send("x");
    auto piece = got.take();
    if (piece != "x") {
      BOOST_TEST(piece == "cancelled");
      BOOST_TEST(i > 1);
      BOOST_TEST(c.receive().status == 408);
      BOOST_TEST(c.closed());
      return;
    }
  }
  BOOST_ERROR("it goes on dripping");
}

BOOST_AUTO_TEST_CASE(a_body_that_comes_fast_outlives_the_time_that_a_read_may_wait) {
  options.body_timeout = 100ms;
  auto c = connect();
  c.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
  auto x = held.take();
  auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 10; ++i) {
    mailbox<std::string> got;
    x->body().read(100, [&](auto piece) { got.put(outcome(piece)); });
    std::this_thread::sleep_for(20ms);
    c.send(std::string(100, 'x'));
    BOOST_TEST(got.take() == std::string(100, 'x'));
  }
  BOOST_TEST((std::chrono::steady_clock::now() - began > 200ms));
}

BOOST_AUTO_TEST_CASE(a_small_body_that_nobody_reads_does_not_cost_the_connection) {
  auto c = connect();
  c.post("/ignore", std::string(200'000, 'x'));
  BOOST_TEST(c.receive().body == "ignored");
  c.send(
    "POST /ignore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
  BOOST_TEST(c.receive().body == "ignored");
  c.get("/hello");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(a_large_body_that_nobody_reads_ends_the_connection) {
  auto c = connect();
  c.send("POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n");
  c.send(std::string(1000, 'x'));
  auto r = c.receive();
  BOOST_TEST(r.body == "ignored");
  BOOST_TEST(r.fields["Connection"] == "close");
  BOOST_TEST(c.closed());
}

BOOST_AUTO_TEST_CASE(an_endless_body_that_nobody_reads_is_cut) {
  auto c = connect();
  c.send("POST /ignore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  BOOST_TEST(c.receive().body == "ignored");
  std::string piece = "10000\r\n" + std::string(65536, 'x') + "\r\n";
  size_t sent = 0;
  while (sent < (1u << 30) && c.send(piece))
    sent += piece.size();
  BOOST_TEST(sent < (1u << 30));
}

BOOST_AUTO_TEST_CASE(reads_after_the_answer_are_cancelled) {
  auto c = connect();
  c.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
  auto x = held.take();
  mailbox<std::string> got;
  x->body().read(10, [&](auto piece) { got.put(outcome(piece)); });
  answer(x, "early");
  BOOST_TEST(got.take() == "cancelled");
  x->body().read(10, [&](auto piece) { got.put(outcome(piece)); });
  BOOST_TEST(got.take() == "cancelled");
  BOOST_TEST(c.receive().body == "early");
}

// -- answers -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_dropped_exchange_answers_500) {
  auto c = connect();
  c.get("/hold");
  held.take();
  auto r = c.receive();
  BOOST_TEST(r.status == 500);
  BOOST_TEST(r.body.starts_with(R"({"error":{"code":"internal")"));
  c.get("/hello");
  BOOST_TEST(c.receive().status == 200);
}

BOOST_AUTO_TEST_CASE(a_handler_that_throws_answers_500) {
  routes.add("GET", "/throw", [](exchange_ptr) { throw std::runtime_error("oops"); });
  routes.add("POST", "/throw", [](exchange_ptr x) {
    x->body().read(1, [x](auto) { throw std::runtime_error("oops"); });
  });
  auto c = connect();
  c.get("/throw");
  BOOST_TEST(c.receive().status == 500);
  c.post("/throw", "x");
  BOOST_TEST(c.receive().status == 500);
}

BOOST_AUTO_TEST_CASE(only_the_first_answer_counts) {
  auto c = connect();
  c.get("/hold");
  auto x = held.take();
  answer(x, "one");
  answer(x, "two");
  BOOST_TEST(c.receive().body == "one");
  c.get("/hello");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(an_answer_without_content_has_no_length) {
  routes.add("DELETE", "/it", [](exchange_ptr x) { answer(x, "", 204); });
  auto c = connect();
  c.send("DELETE /it HTTP/1.1\r\nHost: x\r\n\r\n");
  auto r = c.receive();
  BOOST_TEST(r.status == 204);
  BOOST_TEST(r.fields.count("Content-Length") == 0);
  c.get("/hello");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(fields_of_a_handler_can_neither_split_nor_frame_the_answer) {
  routes.add("GET", "/evil", [](exchange_ptr x) {
    response r;
    r.headers.add("X-Name", std::string("a\r\nEvil: 1\0", 11));
    r.headers.add("content-length", "999");
    r.headers.add("Connection", "upgrade");
    r.body = "ok";
    x->respond(std::move(r));
  });
  auto c = connect();
  c.get("/evil");
  auto r = c.receive();
  BOOST_TEST(r.body == "ok");
  BOOST_TEST(r.fields["X-Name"] == "a  Evil: 1 ");
  BOOST_TEST(r.fields.count("Evil") == 0);
  BOOST_TEST(r.fields.count("content-length") == 0);
  BOOST_TEST(r.fields.count("Connection") == 0);
}

BOOST_AUTO_TEST_CASE(a_large_answer_arrives_whole) {
  std::string body(20'000'000, 'b');
  routes.add("GET", "/large", [&](exchange_ptr x) { answer(x, body); });
  auto c = connect();
  c.get("/large");
  auto r = c.receive();
  BOOST_TEST(r.whole);
  BOOST_TEST((r.body == body));
}

// -- streams -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_stream_of_unknown_length_is_chunked) {
  stream([&] {
    return stream_of(
      std::make_unique<pieces_source>(std::vector<std::string>{"ab", "", "cde"}, &destroyed));
  });
  auto c = connect();
  c.get("/stream");
  auto r = c.receive();
  BOOST_TEST(r.fields["Transfer-Encoding"] == "chunked");
  BOOST_TEST(r.whole);
  BOOST_TEST(r.body == "abcde");
  BOOST_TEST(destroyed.take());
  c.get("/hello");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(a_stream_of_known_length_says_it) {
  stream([&] {
    return stream_of(
      std::make_unique<pieces_source>(std::vector<std::string>{"ab", "cde"}, &destroyed), 5);
  });
  auto c = connect();
  c.get("/stream");
  auto r = c.receive();
  BOOST_TEST(r.fields["Content-Length"] == "5");
  BOOST_TEST(r.body == "abcde");
  BOOST_TEST(destroyed.take());
  c.send("HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  BOOST_TEST(c.receive(true).fields["Content-Length"] == "5");
  BOOST_TEST(destroyed.take());
  c.get("/hello");
  BOOST_TEST(c.receive().body == "hello");
}

BOOST_AUTO_TEST_CASE(an_empty_stream_is_an_empty_body) {
  routes.add("GET", "/known", [](exchange_ptr x) {
    x->respond(stream_of(std::make_unique<pieces_source>(std::vector<std::string>{}), 0));
  });
  stream([] { return stream_of(std::make_unique<pieces_source>(std::vector<std::string>{})); });
  auto c = connect();
  c.get("/known");
  BOOST_TEST(c.receive().whole);
  c.get("/stream");
  BOOST_TEST(c.receive().whole);
}

BOOST_AUTO_TEST_CASE(a_stream_to_http_1_0_ends_with_the_connection) {
  stream([] {
    return stream_of(std::make_unique<pieces_source>(std::vector<std::string>{"ab", "c"}));
  });
  auto r = ask("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  BOOST_TEST(r.fields["Connection"] == "close");
  BOOST_TEST(r.body == "abc");
}

BOOST_AUTO_TEST_CASE(a_stream_that_does_not_keep_its_length_is_cut) {
  routes.add("GET", "/short", [](exchange_ptr x) {
    x->respond(stream_of(std::make_unique<pieces_source>(std::vector<std::string>{"ab"}), 5));
  });
  routes.add("GET", "/long", [](exchange_ptr x) {
    x->respond(
      stream_of(std::make_unique<pieces_source>(std::vector<std::string>{"ab", "cdef"}), 5));
  });
  for (auto path : {"/short", "/long"}) {
    auto c = connect();
    c.get(path);
    auto r = c.receive();
    BOOST_TEST(!r.whole);
    BOOST_TEST(r.body == "ab");
    BOOST_TEST(c.closed());
  }
}

BOOST_AUTO_TEST_CASE(the_head_of_a_stream_does_not_wait_for_its_first_piece) {
  mailbox<body_source::next_done> asked;
  stream([&] { return stream_of(std::make_unique<remote_source>(asked, destroyed), 3); });
  auto c = connect();
  c.get("/stream", "Connection: close\r\n");
  BOOST_TEST(c.receive(true).status == 200);
  asked.take()(chunk{'a', 'b', 'c'});
  BOOST_TEST(c.rest() == "abc");
  BOOST_TEST(destroyed.take());
}

BOOST_AUTO_TEST_CASE(a_stream_that_fails_or_is_forgotten_is_cut_short) {
  mailbox<body_source::next_done> asked;
  stream([&] { return stream_of(std::make_unique<remote_source>(asked, destroyed)); });
  for (bool forget : {false, true}) {
    auto c = connect();
    c.get("/stream");
    asked.take()(chunk{'a'});
    auto done = asked.take();
    if (!forget)
      done(unexpected(make_error(errc::internal, op::read, "disk")));
    done = nullptr;
    auto r = c.receive();
    BOOST_TEST(r.body == "a");
    BOOST_TEST(!r.whole);
    BOOST_TEST(destroyed.take());
  }
}

BOOST_AUTO_TEST_CASE(a_source_is_destroyed_when_its_reader_leaves) {
  mailbox<body_source::next_done> asked;
  stream([&] { return stream_of(std::make_unique<remote_source>(asked, destroyed)); });
  for (bool politely : {true, false}) {
    auto c = connect();
    c.get("/stream");
    auto done = asked.take();
    politely ? c.close() : c.reset();
    BOOST_TEST(destroyed.take());
    done(chunk{'a'}); // into the void
  }
}

BOOST_AUTO_TEST_CASE(a_source_is_not_pulled_while_the_client_does_not_read) {
  options.write_timeout = 300ms;
  std::atomic<size_t> pulls{0};
  stream([&] { return stream_of(std::make_unique<endless_source>(pulls, destroyed)); });
  raw_client c(port(), 4096);
  c.get("/stream");
  BOOST_TEST(destroyed.take()); // it gave up on us
  // What the kernel takes for a client that does not read, and not the hours of data there are.
  BOOST_TEST(pulls * body_reader::max_chunk < 64u * 1024 * 1024);
}

// -- clients that leave --------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_handler_learns_that_its_client_left) {
  for (bool politely : {true, false}) {
    auto c = connect();
    c.post("/hold", "abc");
    auto x = held.take();
    mailbox<bool> left;
    x->on_disconnect([&] { left.put(true); });
    politely ? c.close() : c.reset();
    BOOST_TEST(left.take());
    answer(x, "too late");
  }
}

BOOST_AUTO_TEST_CASE(a_handler_that_asks_too_late_still_learns_it) {
  auto c = connect();
  c.get("/hold");
  auto x = held.take();
  mailbox<bool> left;
  x->on_disconnect([&] { left.put(true); });
  c.reset();
  left.take();
  x->on_disconnect([&] { left.put(true); });
  BOOST_TEST(left.take());
}

BOOST_AUTO_TEST_CASE(a_pipelined_request_does_not_hide_that_the_client_left) {
  auto c = connect();
  c.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  auto x = held.take();
  mailbox<bool> left;
  x->on_disconnect([&] { left.put(true); });
  c.close();
  BOOST_TEST(left.take());
}

BOOST_AUTO_TEST_CASE(nobody_is_told_of_a_client_that_leaves_after_its_answer) {
  std::atomic<int> told{0};
  auto c = connect();
  c.get("/hold");
  auto x = held.take();
  x->on_disconnect([&] { ++told; });
  answer(x, "done");
  BOOST_TEST(c.receive().body == "done");
  c.close();
  x.reset();
  running->stop(20s);
  BOOST_TEST(told == 0);
}

BOOST_AUTO_TEST_CASE(a_half_closed_client_still_gets_its_answer) {
  auto c = connect();
  c.get("/hold");
  c.half_close();
  auto x = held.take();
  mailbox<bool> left;
  x->on_disconnect([&] { left.put(true); });
  left.take();
  answer(x, "still");
  BOOST_TEST(c.receive().body == "still");
  BOOST_TEST(c.closed());
}

BOOST_AUTO_TEST_SUITE_END()
