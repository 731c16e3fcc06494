#include "gateway/http/server.hpp"
#include "raw_client.hpp"

#include <sys/resource.h>

#include <thread>

using namespace troupe;
using namespace troupe::gateway;
using namespace std::chrono_literals;
using exchange_ptr = std::shared_ptr<exchange>;

namespace {

/// Answers `/hold` when the test does and anything else at once.
struct fixture {
  server& start() {
    running = server::start(options, [this](exchange_ptr x) {
                x->set_route("/route", {});
                if (x->head().path == "/hold")
                  held.put(std::move(x));
                else
                  x->respond({});
              }).value();
    return *running;
  }

  /// Whether a new connection is served.
  bool serves() {
    raw_client c(running->port());
    c.get("/");
    return c.receive().status == 200;
  }

  mailbox<exchange_ptr> held;
  server_options options;
  std::unique_ptr<server> running;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(server_suite, fixture)

BOOST_AUTO_TEST_CASE(listening_tells_the_port_and_why_it_cannot) {
  options.port = start().port();
  BOOST_TEST(options.port != 0);
  auto taken = server::start(options, [](auto) {});
  BOOST_REQUIRE(!taken);
  BOOST_TEST((taken.error().code == errc::conflict));
  BOOST_TEST(taken.error().message
             == "cannot listen on 127.0.0.1:" + std::to_string(options.port)
                  + ": Address already in use");
  options.address = "256.0.0.1";
  auto wrong = server::start(options, [](auto) {});
  BOOST_REQUIRE(!wrong);
  BOOST_TEST((wrong.error().code == errc::invalid_request));
}

BOOST_AUTO_TEST_CASE(a_port_can_be_had_again_at_once) {
  options.port = start().port();
  BOOST_TEST(serves());
  running.reset();
  start();
  BOOST_TEST(serves());
}

BOOST_AUTO_TEST_CASE(connections_are_spread_over_threads) {
  options.threads = 3;
  std::mutex mutex;
  std::map<std::thread::id, int> seen;
  options.on_access = [&](const access_record&) {
    std::lock_guard guard{mutex};
    ++seen[std::this_thread::get_id()];
  };
  start();
  for (int i = 0; i < 6; ++i)
    BOOST_TEST(serves());
  running->stop(20s);
  BOOST_TEST(seen.size() == 3);
}

BOOST_AUTO_TEST_CASE(finished_requests_are_reported) {
  struct seen {
    std::string method, route;
    int status;
    bool took_time;
  };
  mailbox<seen> report;
  options.on_access = [&](const access_record& r) {
    report.put({std::string(r.method), std::string(r.route), r.status, r.duration.count() > 0});
  };
  start();
  raw_client c(running->port());
  c.get("/");
  auto r = report.take();
  BOOST_TEST(r.method == "GET");
  BOOST_TEST(r.route == "/route");
  BOOST_TEST(r.status == 200);
  BOOST_TEST(r.took_time);
  c.get("/hold");
  auto x = held.take();
  c.reset();
  BOOST_TEST(report.take().status == 499);
  raw_client d(running->port());
  d.send("nonsense\r\n\r\n");
  r = report.take();
  BOOST_TEST(r.route == "");
  BOOST_TEST(r.status == 400);
}

// -- time ----------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_header_that_comes_too_slowly_ends_the_connection) {
  options.header_timeout = 100ms;
  start();
  raw_client silent(running->port());
  raw_client slow(running->port());
  slow.send("GET / HTTP/1.1\r\nHos");
  raw_client second(running->port());
  second.get("/");
  BOOST_TEST(second.receive().status == 200);
  second.send("GET / HT");
  BOOST_TEST(silent.closed());
  for (auto* cut : {&slow, &second}) {
    auto answer = cut->receive();
    BOOST_TEST(answer.status == 408);
    BOOST_TEST(answer.body.find("\"timeout\"") != std::string::npos);
    BOOST_TEST(cut->closed());
  }
}

BOOST_AUTO_TEST_CASE(an_idle_connection_ends) {
  options.idle_timeout = 100ms;
  start();
  raw_client c(running->port());
  c.get("/");
  BOOST_TEST(c.receive().status == 200);
  BOOST_TEST(c.closed());
}

BOOST_AUTO_TEST_CASE(a_request_that_runs_has_no_deadline) {
  options.header_timeout = options.idle_timeout = options.body_timeout = options.write_timeout
    = 20ms;
  start();
  raw_client c(running->port());
  c.get("/hold");
  auto x = held.take();
  raw_client idle(running->port());
  BOOST_TEST(idle.closed()); // so that time passed
  x->respond({});
  BOOST_TEST(c.receive().status == 200);
}

// -- bounds --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_new_connection_takes_the_place_of_the_one_that_waits_longest) {
  options.max_connections = 3;
  start();
  raw_client running_one(running->port());
  running_one.get("/hold");
  auto x = held.take();
  raw_client oldest(running->port());
  oldest.send("GET / HT");
  raw_client older(running->port());
  BOOST_TEST(serves());
  BOOST_TEST(oldest.closed());
  older.get("/");
  BOOST_TEST(older.receive().status == 200);
  x->respond({});
  BOOST_TEST(running_one.receive().status == 200);
}

BOOST_AUTO_TEST_CASE(without_a_connection_that_waits_a_new_one_is_closed) {
  options.max_connections = 1;
  start();
  raw_client first(running->port());
  first.get("/hold");
  auto x = held.take();
  BOOST_TEST(raw_client(running->port()).closed());
  x->respond({});
  BOOST_TEST(first.receive().status == 200);
  first.close();
  BOOST_TEST(serves());
}

BOOST_AUTO_TEST_CASE(serving_goes_on_after_descriptors_ran_out) {
  start();
  raw_client c(running->port());
  c.get("/");
  BOOST_TEST(c.receive().status == 200);
  raw_client held_up(running->port());
  BOOST_TEST(serves()); // `held_up` was accepted before it
  unique_fd next(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  rlimit none{static_cast<rlim_t>(next.get()), before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(running->port());
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  BOOST_TEST(::connect(next.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
  BOOST_TEST(c.closed()); // makes room, longest waiting first
  ::setrlimit(RLIMIT_NOFILE, &before);
  BOOST_TEST(serves());
}

BOOST_AUTO_TEST_CASE(many_silent_connections_do_not_keep_others_out) {
  options.max_connections = 200;
  start();
  std::vector<std::unique_ptr<raw_client>> silent;
  for (int i = 0; i < 400; ++i)
    silent.push_back(std::make_unique<raw_client>(running->port()));
  BOOST_TEST(serves());
  BOOST_TEST(running->connections() <= 200);
}

// -- stopping ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(stopping_lets_running_requests_finish) {
  start();
  raw_client idle(running->port());
  raw_client c(running->port());
  c.get("/hold");
  auto x = held.take();
  std::thread stopper([&] { running->stop(20s); });
  BOOST_TEST(idle.closed()); // it has begun
  x->respond({});
  auto r = c.receive();
  BOOST_TEST(r.status == 200);
  BOOST_TEST(r.fields["Connection"] == "close");
  BOOST_TEST(c.closed());
  stopper.join();
  BOOST_TEST(running->connections() == 0);
}

BOOST_AUTO_TEST_CASE(stopping_cuts_what_does_not_finish) {
  start();
  raw_client c(running->port());
  c.get("/hold");
  auto x = held.take();
  mailbox<bool> left;
  x->on_disconnect([&] { left.put(true); });
  running->stop(10ms);
  BOOST_TEST(left.take());
  BOOST_TEST(c.closed());
}

BOOST_AUTO_TEST_CASE(an_exchange_may_outlive_the_server) {
  start();
  raw_client c(running->port());
  c.get("/hold");
  auto x = held.take();
  running.reset();
  x->on_disconnect([] {});
  x->post([] {});
  x->body().read(1, [](auto) {});
  x->respond({});
  BOOST_TEST(x.use_count() == 1);
}

BOOST_AUTO_TEST_CASE(answers_may_race_with_the_stop) {
  for (int i = 0; i < 20; ++i) {
    start();
    raw_client c(running->port());
    c.get("/hold");
    auto x = held.take();
    std::thread answerer([x = std::move(x)]() mutable {
      x->body().read(1, [](auto) {});
      x->respond({});
      x.reset();
    });
    running->stop(0ms);
    answerer.join();
  }
  BOOST_TEST(running->connections() == 0);
}

BOOST_AUTO_TEST_SUITE_END()
