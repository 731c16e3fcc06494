#include "actors/sinks/workspace_jsonl_sink.hpp"

#include "actors/sinks/append.hpp"
#include "support.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// A session's folder, and whether it runs.
struct fixture : test_folder {
  bool running = true;
  std::optional<error> refusal;
  std::string file = in_root("logs/events-df3a6506-1343-46e5-a1bf-95f72fe36fa4.jsonl");
  sink_context context = plain_context();

  workspace_append append() {
    return
      [this](const std::string&, const std::string& to, std::string_view text) -> result<bool> {
        if (refusal)
          return unexpected(*refusal);
        if (running)
          if (auto done = append_beneath(fd.get(), to, text); !done)
            return unexpected(std::move(done.error()));
        return running;
      };
  }

  std::unique_ptr<workspace_jsonl_sink> sink(workspace_jsonl_options options = {}) {
    return std::make_unique<workspace_jsonl_sink>(sink_settings{}, std::move(options), append());
  }
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(workspace_jsonl, fixture)

BOOST_AUTO_TEST_CASE(every_event_is_appended_to_the_sessions_own_file) {
  auto s = sink();
  (void) s->deliver(make_event(op::read, event_phase::start, 1), context);
  // What the agent does to the file meanwhile is kept.
  BOOST_TEST(append_beneath(fd.get(), file.substr(root.size() + 1), "{\"seq\":0}\n").has_value());
  (void) s->deliver(make_event(op::read, event_phase::finish, 2), context);
  BOOST_TEST(seqs_of(file) == (std::vector<uint64_t>{1, 0, 2}));
}

BOOST_AUTO_TEST_CASE(the_id_has_a_form_without_dashes) {
  auto s = sink({.path = "{session_id_hex}.log"});
  (void) s->deliver(make_event(op::read, event_phase::start, 1), context);
  BOOST_TEST(exists(in_root("df3a6506134346e5a1bf95f72fe36fa4.log")));
}

BOOST_AUTO_TEST_CASE(lines_are_kept_until_there_are_enough) {
  auto s = sink({.flush_every = 3});
  for (uint64_t i = 1; i <= 2; ++i)
    (void) s->deliver(make_event(op::read, event_phase::start, i), context);
  BOOST_TEST(!exists(file));
  (void) s->deliver(make_event(op::read, event_phase::finish, 3), context);
  BOOST_TEST(seqs_of(file) == (std::vector<uint64_t>{1, 2, 3}));
}

BOOST_AUTO_TEST_CASE(a_stop_a_shutdown_and_a_persist_flush) {
  auto s = sink({.flush_every = 1000});
  uint64_t seq = 0;
  auto flushes = [&](op operation, event_phase phase) {
    (void) s->deliver(make_event(op::read, event_phase::start, ++seq), context);
    (void) s->deliver(make_event(operation, phase, ++seq), context);
    return exists(file) && seqs_of(file).back() == seq;
  };
  BOOST_TEST(flushes(op::persist_workspace, event_phase::start));
  BOOST_TEST(!flushes(op::persist_workspace, event_phase::finish));
  BOOST_TEST(flushes(op::stop, event_phase::start));
  BOOST_TEST(flushes(op::stop, event_phase::finish));
  BOOST_TEST(flushes(op::shutdown, event_phase::start));
  BOOST_TEST(!flushes(op::shutdown, event_phase::finish));
}

BOOST_AUTO_TEST_CASE(what_comes_while_the_session_is_down_is_written_when_it_is_up) {
  auto s = sink();
  running = false;
  BOOST_TEST(s->deliver(make_event(op::start, event_phase::start, 1), context).has_value());
  BOOST_TEST(!exists(file));
  running = true;
  (void) s->deliver(make_event(op::start, event_phase::finish, 2), context);
  BOOST_TEST(seqs_of(file) == (std::vector<uint64_t>{1, 2}));
}

BOOST_AUTO_TEST_CASE(lines_outlive_a_failure_to_write_them) {
  auto s = sink();
  refusal = make_error(errc::no_space, op::write, "full");
  BOOST_TEST(!s->deliver(make_event(op::read, event_phase::start, 1), context));
  refusal.reset();
  BOOST_TEST(s->deliver(make_event(op::read, event_phase::finish, 2), context).has_value());
  BOOST_TEST(seqs_of(file) == (std::vector<uint64_t>{1, 2}));
}

BOOST_AUTO_TEST_CASE(a_session_that_never_runs_keeps_a_bounded_number_of_lines) {
  auto s = sink();
  running = false;
  auto large = "{\"command\":[\"" + std::string(100 * 1024, 'x') + "\"]}";
  int refused = 0;
  for (uint64_t i = 1; i <= 10; ++i)
    refused += !s->deliver(make_event(op::exec, event_phase::start, i, large), context);
  BOOST_TEST(refused == 3); // each third is over 256 KiB and empties the buffer
  running = true;
  (void) s->deliver(make_event(op::exec, event_phase::start, 11), context);
  BOOST_TEST(seqs_of(file) == (std::vector<uint64_t>{10, 11}));
}

BOOST_AUTO_TEST_CASE(of_many_sessions_that_never_run_the_oldest_lose_their_lines) {
  auto s = sink({.path = "{session_id}"});
  running = false;
  auto large = "{\"command\":[\"" + std::string(200 * 1024, 'x') + "\"]}";
  auto of_session = [&](int i, const std::string& data) {
    auto x = make_event(op::exec, event_phase::start, 1, data);
    x.session_id = "s" + std::to_string(i);
    return x;
  };
  constexpr int sessions = 50; // 10 MiB
  for (int i = 0; i < sessions; ++i)
    (void) s->deliver(of_session(i, large), context);
  running = true;
  (void) s->deliver(of_session(0, "{}"), context);
  (void) s->deliver(of_session(sessions - 1, "{}"), context);
  BOOST_TEST(lines_of(in_root("s0")).size() == 1u);
  BOOST_TEST(lines_of(in_root("s49")).size() == 2u);
}

BOOST_AUTO_TEST_SUITE_END()
