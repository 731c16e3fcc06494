#include "actors/sinks/sink_set.hpp"

#include "support.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

struct fixture : test_folder {
  manual_executor pool;
  log_book book;
  std::vector<std::string> calls;
  std::optional<result<void>> heard;

  result<std::unique_ptr<sink_set>> make(std::vector<sink_config> sinks,
                                         event_policies policies = {}) {
    return sink_set::make(std::move(sinks), std::move(policies),
                          {pool.executor(), [](auto&&...) { return true; }, book.writer()});
  }
  std::unique_ptr<sink_set> set_of(std::vector<sink_config> sinks, event_policies policies = {}) {
    auto made = make(std::move(sinks), std::move(policies));
    BOOST_REQUIRE(made.has_value());
    return std::move(*made);
  }
  sink_config note(std::string name, std::optional<sink_mode> mode = {}) {
    auto config = calling([this, name](const event_payload&) {
      calls.push_back(name);
      return result<void>{};
    });
    config.mode = mode;
    return config;
  }
  static sink_config failing(sink_mode mode, sink_on_error on_error) {
    auto config = calling(broken);
    config.mode = mode;
    config.on_error = on_error;
    return config;
  }
  event_done listen() {
    return [this](result<void> x) { heard = std::move(x); };
  }
  /// What an operation hears that waits for its event; everything has run then.
  result<void> deliver(sink_set& set) {
    heard.reset();
    set.publish(share(make_event(op::read, event_phase::start)), listen());
    pool.run_all();
    BOOST_REQUIRE(heard.has_value());
    return *heard;
  }
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(set_of_sinks, fixture)

BOOST_AUTO_TEST_CASE(awaited_sinks_are_served_in_their_order_before_who_waits_goes_on) {
  auto set = set_of({note("a"), note("b"), note("c")});
  BOOST_TEST(set->awaited());
  set->publish(share(make_event(op::read, event_phase::start)), listen());
  for (int i = 0; i < 3; ++i) {
    BOOST_TEST(!heard.has_value());
    pool.run_one();
  }
  BOOST_TEST((heard && *heard));
  BOOST_TEST(calls == (std::vector<std::string>{"a", "b", "c"}));
}

BOOST_AUTO_TEST_CASE(nobody_waits_for_background_sinks) {
  auto set
    = set_of({note("a", sink_mode::best_effort), failing(sink_mode::async, sink_on_error::log)});
  BOOST_TEST(!set->awaited());
  set->publish(share(make_event(op::read, event_phase::start)), listen());
  BOOST_TEST((heard && *heard));
  BOOST_TEST(calls.empty());
  pool.run_all();
  BOOST_TEST(calls.size() == 1u);
}

BOOST_AUTO_TEST_CASE(an_operation_hears_of_failures_that_are_to_be_raised) {
  using enum sink_on_error;
  BOOST_TEST(!deliver(*set_of({failing(sink_mode::sync, raise)})));
  BOOST_TEST(!deliver(*set_of({failing(sink_mode::async, raise)})));
  BOOST_TEST(deliver(*set_of({failing(sink_mode::best_effort, raise)})).has_value());
  BOOST_TEST(book.lines.size() == 3u);
  BOOST_TEST(deliver(*set_of({failing(sink_mode::sync, log)})).has_value());
  BOOST_TEST(book.lines.size() == 4u);
  BOOST_TEST(deliver(*set_of({failing(sink_mode::sync, ignore)})).has_value());
  BOOST_TEST(book.lines.size() == 4u);
}

BOOST_AUTO_TEST_CASE(a_failing_sink_keeps_the_event_from_no_other) {
  auto set = set_of(
    {failing(sink_mode::sync, sink_on_error::raise), note("a"), note("b", sink_mode::best_effort)});
  BOOST_TEST(!deliver(*set));
  BOOST_TEST(calls.size() == 2u);
}

BOOST_AUTO_TEST_CASE(sinks_get_events_that_nobody_waits_for_whatever_their_mode) {
  auto set = set_of({note("a"), note("b", sink_mode::async)});
  set->publish(share(make_event(op::read, event_phase::start)));
  pool.run_all();
  BOOST_TEST(calls.size() == 2u);
}

BOOST_AUTO_TEST_CASE(progress_is_not_for_sinks) {
  auto set = set_of({note("a")});
  set->publish(share(make_event(op::materialize, event_phase::progress)), listen());
  BOOST_TEST((heard && *heard));
  pool.run_all();
  BOOST_TEST(calls.empty());
}

BOOST_AUTO_TEST_CASE(a_chain_serves_its_sinks_in_order_up_to_one_that_raises) {
  sink_config chain;
  chain.kind = chained_options{{note("a", sink_mode::best_effort),
                                failing(sink_mode::sync, sink_on_error::log), note("b"),
                                failing(sink_mode::sync, sink_on_error::raise), note("c")}};
  auto set = set_of({chain});
  BOOST_TEST(set->awaited());
  auto failed = deliver(*set);
  BOOST_REQUIRE(!failed);
  BOOST_TEST(failed.error().message.starts_with("event sink chained failed"));
  BOOST_TEST(calls == (std::vector<std::string>{"a", "b"}));
}

BOOST_AUTO_TEST_CASE(each_sink_sees_what_its_own_policy_shows) {
  std::vector<std::optional<std::string>> seen;
  auto see = calling([&](const event_payload& x) {
    seen.push_back(x.stdout_text);
    return result<void>{};
  });
  auto hide = see;
  hide.policy.include_exec_output = false;
  sink_config chain;
  chain.kind = chained_options{{see, hide}};
  event_policies policies;
  policies.by_op[op::exec].include_exec_output = true;
  auto set = set_of({chain}, policies);
  set->publish(share(exec_event("hi", "")), listen());
  pool.run_all();
  BOOST_REQUIRE(seen.size() == 2u);
  BOOST_TEST((seen[0] == "hi"));
  BOOST_TEST(!seen[1].has_value());
}

BOOST_AUTO_TEST_CASE(no_more_of_an_output_is_kept_than_some_sink_may_show) {
  BOOST_TEST(!set_of({note("a")})->capture("out", "err"));
  auto config = note("a");
  config.policy.include_exec_output = true;
  config.policy.max_stdout_chars = 10;
  config.policy.max_stderr_chars = 20;
  sink_config chain;
  chain.kind = chained_options{{config}};
  auto kept = set_of({chain})->capture(std::string(1000, 'x'), "err");
  BOOST_REQUIRE(kept);
  BOOST_TEST(kept->stdout_data.size() == 84u);
  BOOST_TEST(kept->stderr_data == "err");
}

BOOST_AUTO_TEST_CASE(ephemeral_files_are_told_by_session) {
  sink_config logs;
  logs.kind = workspace_jsonl_options{.ephemeral = true};
  sink_config kept;
  kept.kind = workspace_jsonl_options{.path = "kept.jsonl"};
  sink_config chain;
  chain.kind = chained_options{{logs}};
  auto set = set_of({chain, kept});
  BOOST_TEST(set->ephemeral_paths("s-1") == std::vector<std::string>{"logs/events-s-1.jsonl"});
}

BOOST_AUTO_TEST_CASE(a_sink_that_cannot_work_is_refused_at_the_start) {
  auto refused = [this](auto options) {
    sink_config config;
    config.kind = std::move(options);
    return !make({config}).has_value();
  };
  BOOST_TEST(refused(jsonl_options{outside}));
  BOOST_TEST(refused(http_options{.endpoint = "nowhere"}));
  BOOST_TEST(refused(http_options{.endpoint = "http://host", .spool_path = outside}));
  BOOST_TEST(refused(workspace_jsonl_options{.path = "../x"}));
  BOOST_TEST(refused(workspace_jsonl_options{.path = "/x"}));
  BOOST_TEST(!refused(jsonl_options{outside + "/new/events.jsonl"}));
}

BOOST_AUTO_TEST_CASE(a_flush_waits_and_a_closed_set_answers_at_once) {
  auto set = set_of({note("a"), note("b")});
  set->publish(share(make_event(op::read, event_phase::start)), listen());
  BOOST_TEST(!set->flush(std::chrono::milliseconds{0}));
  set->close();
  BOOST_TEST((heard && !*heard));
  pool.run_all();
  BOOST_TEST(set->flush(std::chrono::milliseconds{0}));
  BOOST_TEST(calls.empty());
  heard.reset();
  set->publish(share(make_event(op::read, event_phase::start)), listen());
  BOOST_TEST((heard && !*heard));
}

BOOST_AUTO_TEST_SUITE_END()
