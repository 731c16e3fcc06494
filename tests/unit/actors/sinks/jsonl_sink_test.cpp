#include "actors/sinks/jsonl_sink.hpp"

#include "support.hpp"

using namespace troupe;
using namespace troupe::test;

BOOST_FIXTURE_TEST_SUITE(jsonl_sink_on_the_host, test_folder)

BOOST_AUTO_TEST_CASE(every_event_is_a_line_under_the_policy) {
  auto file = outside + "/logs/events.jsonl";
  sink_settings settings;
  settings.policy.include_exec_output = true;
  jsonl_sink sink{settings, file};
  auto context = plain_context();
  BOOST_TEST(sink.deliver(make_event(op::exec, event_phase::start, 1), context).has_value());
  BOOST_TEST(sink.deliver(exec_event("hi", ""), context).has_value());
  auto lines = lines_of(file);
  BOOST_REQUIRE(lines.size() == 2u);
  BOOST_TEST(lines[0]["phase"] == "start");
  BOOST_TEST(lines[1]["stdout"] == "hi");
  BOOST_TEST(sink.delivered() == 2u);
}

BOOST_AUTO_TEST_CASE(a_file_that_was_moved_away_is_made_again) {
  auto file = outside + "/events.jsonl";
  jsonl_sink sink{{}, file};
  auto context = plain_context();
  (void) sink.deliver(make_event(op::read, event_phase::start, 1), context);
  BOOST_REQUIRE(::rename(file.c_str(), (file + ".1").c_str()) == 0);
  (void) sink.deliver(make_event(op::read, event_phase::finish, 2), context);
  BOOST_TEST(seqs_of(file) == std::vector<uint64_t>{2});
}

BOOST_AUTO_TEST_CASE(a_failure_names_the_sink_and_the_event) {
  jsonl_sink sink{{}, outside}; // a directory
  auto x = make_event(op::read, event_phase::start);
  auto refused = sink.deliver(x, plain_context());
  BOOST_REQUIRE(!refused);
  BOOST_TEST(refused.error().message.find("jsonl") != std::string::npos);
  BOOST_TEST(refused.error().message.find(x.event_id) != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_sink_that_only_logs_tells_the_first_of_failures_in_a_row) {
  sink_settings settings;
  settings.on_error = sink_on_error::log;
  auto file = outside + "/events.jsonl";
  jsonl_sink sink{settings, file};
  log_book book;
  sink_context context{{}, book.writer()};
  auto x = make_event(op::read, event_phase::start);
  ::mkdir(file.c_str(), 0700);
  for (int i = 0; i < 3; ++i)
    BOOST_TEST(sink.deliver(x, context).has_value());
  BOOST_TEST(book.lines.size() == 1u);
  BOOST_TEST(sink.failed() == 3u);
  ::rmdir(file.c_str());
  (void) sink.deliver(x, context);
  ::unlink(file.c_str());
  ::mkdir(file.c_str(), 0700);
  (void) sink.deliver(x, context);
  BOOST_TEST(book.lines.size() == 2u);
}

BOOST_AUTO_TEST_SUITE_END()
