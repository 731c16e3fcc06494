#include "actors/sinks/http_sink.hpp"

#include "http_server.hpp"
#include "support.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

struct fixture : test_folder {
  http_server server;
  sink_context context = plain_context();

  std::unique_ptr<event_sink> sink(http_options options) {
    if (options.endpoint.empty())
      options.endpoint = server.url();
    auto made = http_sink::make({}, std::move(options));
    BOOST_REQUIRE(made.has_value());
    return std::move(*made);
  }
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(http_sink_to_a_server, fixture)

BOOST_AUTO_TEST_CASE(an_event_is_posted_as_json) {
  auto s = sink({});
  auto sent = s->deliver(make_event(op::read, event_phase::start, 7), context);
  BOOST_TEST(sent.has_value());
  auto got = server.requests();
  BOOST_REQUIRE(got.size() == 1u);
  BOOST_TEST(got[0].head.starts_with("POST /events HTTP/1.1\r\n"));
  BOOST_TEST(got[0].head.find("\r\ncontent-type: application/json\r\n") != std::string::npos);
  BOOST_TEST(nlohmann::json::parse(got[0].body)["seq"] == 7);
}

BOOST_AUTO_TEST_CASE(events_share_a_connection) {
  auto s = sink({});
  for (uint64_t i = 1; i <= 3; ++i)
    BOOST_TEST(s->deliver(make_event(op::read, event_phase::start, i), context).has_value());
  BOOST_TEST(server.requests().size() == 3u);
  BOOST_TEST(server.connections == 1);
}

BOOST_AUTO_TEST_CASE(own_headers_win) {
  auto s = sink({.headers = {{"Content-Type", "text/x"}, {"authorization", "Bearer s"}}});
  (void) s->deliver(make_event(op::read, event_phase::start), context);
  auto head = server.requests().at(0).head;
  BOOST_TEST(head.find("Content-Type: text/x\r\n") != std::string::npos);
  BOOST_TEST(head.find("application/json") == std::string::npos);
  BOOST_TEST(head.find("authorization: Bearer s\r\n") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(an_event_of_megabytes_arrives) {
  auto data = "{\"command\":[\"" + std::string(2'000'000, 'x') + "\"]}";
  auto s = sink({});
  BOOST_TEST(s->deliver(make_event(op::exec, event_phase::start, 1, data), context).has_value());
  BOOST_TEST(server.requests().at(0).body.size() > data.size());
}

BOOST_AUTO_TEST_CASE(what_was_not_taken_is_spooled_and_an_error) {
  auto spool = outside + "/spool.jsonl";
  auto s = sink({.spool_path = spool});
  for (int status : {500, 302, 404}) {
    server.status = status;
    auto refused = s->deliver(make_event(op::read, event_phase::start), context);
    BOOST_REQUIRE(!refused);
    BOOST_TEST(refused.error().message.find(std::to_string(status)) != std::string::npos);
  }
  BOOST_TEST(server.requests().size() == 3u); // the redirect was not followed
  BOOST_TEST(lines_of(spool).size() == 3u);
  server.status = 204;
  BOOST_TEST(s->deliver(make_event(op::read, event_phase::finish), context).has_value());
  BOOST_TEST(lines_of(spool).size() == 3u);
}

BOOST_AUTO_TEST_CASE(a_server_that_does_not_answer_costs_the_timeout) {
  server.mute = true;
  auto spool = outside + "/spool.jsonl";
  auto s = sink({.timeout = std::chrono::milliseconds{100}, .spool_path = spool});
  auto refused = s->deliver(make_event(op::read, event_phase::start), context);
  BOOST_REQUIRE(!refused);
  BOOST_TEST((refused.error().code == errc::timeout));
  BOOST_TEST(lines_of(spool).size() == 1u);
}

BOOST_AUTO_TEST_CASE(errors_do_not_show_the_endpoint) {
  auto s = sink({.endpoint = "http://user:hunter2@127.0.0.1:1/"});
  auto refused = s->deliver(make_event(op::read, event_phase::start), context);
  BOOST_REQUIRE(!refused);
  BOOST_TEST((refused.error().message + refused.error().context).find("hunter2")
             == std::string::npos);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_a_request_is_refused_at_once) {
  auto made = [](http_options options) { return http_sink::make({}, options).has_value(); };
  BOOST_TEST(made({.endpoint = "https://host/x"}));
  BOOST_TEST(!made({.endpoint = "file:///etc/passwd"}));
  BOOST_TEST(!made({.endpoint = "host/x"}));
  BOOST_TEST(!made({.endpoint = "http://"}));
  BOOST_TEST(!made({.endpoint = "http://host", .headers = {{"a", "b\r\nc: d"}}}));
  BOOST_TEST(!made({.endpoint = "http://host", .headers = {{"a b", "c"}}}));
  BOOST_TEST(!made({.endpoint = "http://host", .headers = {{"", "c"}}}));
}

BOOST_AUTO_TEST_SUITE_END()
