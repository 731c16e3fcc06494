#include "actors/event_hub.hpp"
#include "fixture.hpp"
#include "shared_services.hpp"
#include "sinks/support.hpp"

using namespace troupe;
using namespace troupe::actors;
using namespace std::chrono_literals;

namespace {

/// Keeps the journal in memory.
struct journal_state {
  using handle_type = registry_actor;
  static constexpr const char* name = "journal";

  explicit journal_state(self_ptr<registry_actor>, std::vector<event>* to) : journal(to) {}

  registry_actor::behavior_type make_behavior() {
    auto refuse = [] { return to_caf(make_error(errc::not_implemented, op::request, "")); };
    return {
      [=](const put_record&) -> caf::result<void> { return refuse(); },
      [=](const put_live&) -> caf::result<void> { return refuse(); },
      [=](const drop_record&) -> caf::result<void> { return refuse(); },
      [=](const get_record&) -> caf::result<session_record> { return refuse(); },
      [=](const load_records&) -> caf::result<std::vector<session_record>> { return refuse(); },
      [=](const list_sessions&) -> caf::result<session_page> { return refuse(); },
      [this](const append_events& x) -> caf::result<void> {
        journal->insert(journal->end(), x.events.begin(), x.events.end());
        return caf::unit;
      },
      [this](const read_events& x) -> caf::result<std::vector<event>> {
        std::vector<event> out;
        for (const auto& e : *journal)
          if (e.id > x.after_id && e.tenant == x.tenant && out.size() < static_cast<size_t>(x.limit)
              && (x.session_id.empty() || e.session_id == x.session_id))
            out.push_back(e);
        return out;
      },
      [=](const put_snapshot&) -> caf::result<void> { return refuse(); },
      [=](const drop_snapshot_record&) -> caf::result<void> { return refuse(); },
      [=](const list_snapshots&) -> caf::result<snapshot_page> { return refuse(); },
    };
  }

  std::vector<event>* journal;
};

struct fixture : tests::deterministic_system {
  fixture() {
    journal = system.spawn<state_actor<journal_state>>(&written);
    shared.value.directory.set(registry_actor{journal});
    hub = system.spawn<state_actor<event_hub_state>>(std::ref(shared.value));
    run();
  }

  ~fixture() {
    kill(hub);
    kill(journal);
    shared.value.directory.clear();
  }

  void publish(const std::string& session, uint64_t seq) {
    publish_event x;
    x.event.session_id = session;
    x.event.tenant = "default";
    x.event.seq = seq;
    BOOST_TEST(call<void>(hub, std::move(x)).has_value());
  }

  poll_events query(const std::string& session = "") {
    poll_events x;
    x.tenant = "default";
    x.session_id = session;
    return x;
  }

  std::vector<event> written;
  tests::shared_services shared;
  registry_actor journal;
  event_hub_actor hub;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(event_hub, fixture)

BOOST_AUTO_TEST_CASE(a_reader_gets_what_it_has_not_seen_in_order) {
  for (uint64_t i = 1; i <= 3; ++i)
    publish("s", i);
  auto page = call<event_page>(hub, query());
  BOOST_REQUIRE(page && *page);
  BOOST_TEST((*page)->items.size() == 3u);
  auto after = query();
  after.after_id = (*page)->items[1].id;
  auto rest = call<event_page>(hub, after);
  BOOST_REQUIRE((*rest)->items.size() == 1u);
  BOOST_TEST((*rest)->items[0].seq == 3u);
}

BOOST_AUTO_TEST_CASE(a_reader_that_has_seen_all_waits_for_the_next) {
  publish("s", 1);
  auto q = query("s");
  q.from_now = true;
  auto pending = self->request(hub, caf::infinite, q);
  run();
  BOOST_TEST(self->mailbox().empty());
  publish("other", 1); // not for this reader
  publish("s", 2);
  size_t got = 0;
  pending.receive(
    [&](event_page& page) {
      got = page.items.size();
      BOOST_TEST(page.items.at(0).seq == 2u);
    },
    [](caf::error&) { BOOST_ERROR("failed"); });
  BOOST_TEST(got == 1u);
}

BOOST_AUTO_TEST_CASE(other_tenants_see_nothing) {
  publish("s", 1);
  auto q = query();
  q.tenant = "else";
  q.wait_ms = 0;
  auto pending = self->request(hub, caf::infinite, q);
  advance(100ms);
  pending.receive([](event_page& page) { BOOST_TEST(page.items.empty()); },
                  [](caf::error&) { BOOST_ERROR("failed"); });
}

BOOST_AUTO_TEST_CASE(everything_reaches_the_journal) {
  for (uint64_t i = 1; i <= 10; ++i)
    publish("s", i);
  for (int i = 0; i < 5; ++i)
    advance(20ms);
  BOOST_TEST(written.size() == 10u);
  BOOST_TEST(std::is_sorted(written.begin(), written.end(),
                            [](const event& a, const event& b) { return a.id < b.id; }));
}

BOOST_AUTO_TEST_CASE(a_reader_that_fell_behind_reads_the_journal_and_misses_nothing) {
  publish("s", 1);
  auto first = call<event_page>(hub, query("s"));
  auto seen = (*first)->next_after;
  constexpr uint64_t many = 6000; // more than is kept in memory
  for (uint64_t i = 2; i <= many; ++i)
    publish("s", i);
  for (int i = 0; i < 5; ++i)
    advance(20ms);
  uint64_t next_seq = 2;
  while (next_seq <= many) {
    auto q = query("s");
    q.after_id = seen;
    auto page = call<event_page>(hub, q);
    BOOST_REQUIRE(page && *page && !(*page)->items.empty());
    for (const auto& e : (*page)->items)
      BOOST_REQUIRE_EQUAL(e.seq, next_seq++);
    seen = (*page)->next_after;
  }
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

struct sink_fixture : fixture {
  ~sink_fixture() {
    kill(hub);      // before the sinks
    pool.run_all(); // they wait for their jobs
  }

  void give_sinks(std::vector<sink_config> sinks) {
    auto made = sink_set::make(std::move(sinks), {}, {pool.executor(), {}, book.writer()});
    BOOST_REQUIRE(made.has_value());
    shared.value.sinks = std::move(*made);
  }

  /// A sink that notes what it gets.
  sink_config noting(sink_mode mode) {
    auto sink = test::calling([this](const event_payload& x) {
      got.push_back(x);
      return result<void>{};
    });
    sink.mode = mode;
    sink.policy.include_exec_output = true;
    return sink;
  }

  static deliver_event delivery() {
    deliver_event x{test::exec_event("out", "err")};
    x.event.tenant = "default";
    return x;
  }

  /// The answer once the sinks have run; nullopt before.
  std::optional<result<void>> deliver_through_sinks() {
    auto pending = self->request(hub, caf::infinite, delivery());
    run();
    BOOST_TEST(self->mailbox().empty()); // it waits
    pool.run_all();
    run();
    std::optional<result<void>> out;
    pending.receive([&] { out.emplace(); }, [&](caf::error& e) { out = unexpected(from_caf(e)); });
    return out;
  }

  test::manual_executor pool;
  test::log_book book;
  std::vector<event_payload> got;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(event_hub_with_sinks, sink_fixture)

BOOST_AUTO_TEST_CASE(sinks_get_what_is_published) {
  give_sinks({noting(sink_mode::best_effort)});
  for (uint64_t i = 1; i <= 3; ++i)
    publish("s", i);
  pool.run_all();
  BOOST_REQUIRE(got.size() == 3u);
  BOOST_TEST(got[2].what.seq == 3u);
  BOOST_TEST(got[2].what.id > got[1].what.id);
}

BOOST_AUTO_TEST_CASE(output_is_for_sinks_and_never_for_readers_or_the_journal) {
  give_sinks({noting(sink_mode::best_effort)});
  BOOST_TEST(call<void>(hub, delivery()).has_value());
  pool.run_all();
  BOOST_REQUIRE(got.size() == 1u);
  BOOST_TEST((got[0].stdout_text == "out"));
  auto page = call<event_page>(hub, query());
  BOOST_TEST(!(*page)->items.at(0).output);
  BOOST_TEST(call<void>(hub, flush_events{}).has_value());
  BOOST_TEST(!written.at(0).output);
}

BOOST_AUTO_TEST_CASE(a_delivery_is_published_and_answered_at_once_without_sinks_to_wait_for) {
  auto done = call<void>(hub, delivery());
  BOOST_TEST((done && *done));
  auto nobody_waits = noting(sink_mode::async);
  nobody_waits.on_error = sink_on_error::log;
  give_sinks({nobody_waits});
  shared.value.sinks->publish(test::share(event{}));
  done = call<void>(hub, delivery());
  BOOST_TEST((done && *done));
  auto page = call<event_page>(hub, query());
  BOOST_TEST((*page)->items.size() == 2u);
}

BOOST_AUTO_TEST_CASE(a_delivery_is_answered_when_the_sinks_have_it) {
  give_sinks({noting(sink_mode::sync), noting(sink_mode::sync)});
  auto done = deliver_through_sinks();
  BOOST_TEST((done && *done));
  BOOST_TEST(got.size() == 2u);
}

BOOST_AUTO_TEST_CASE(a_delivery_is_answered_with_the_error_of_a_sink_that_raises) {
  give_sinks({test::calling(test::broken)});
  auto done = deliver_through_sinks();
  BOOST_REQUIRE((done && !*done));
  BOOST_TEST(done->error().message.starts_with("event sink callback failed"));
}

BOOST_AUTO_TEST_CASE(who_waits_hears_of_a_hub_that_dies) {
  give_sinks({noting(sink_mode::sync)});
  auto pending = self->request(hub, caf::infinite, delivery());
  run();
  kill(hub);
  pool.run_all();
  run();
  bool failed = false;
  pending.receive([] {}, [&](caf::error&) { failed = true; });
  BOOST_TEST(failed);
}

BOOST_AUTO_TEST_CASE(a_flush_answers_when_the_journal_has_everything) {
  for (uint64_t i = 1; i <= 10; ++i)
    publish("s", i);
  BOOST_TEST(written.empty());
  auto done = call<void>(hub, flush_events{});
  BOOST_TEST((done && *done));
  BOOST_TEST(written.size() == 10u);
  BOOST_TEST(call<void>(hub, flush_events{}).has_value());
}

BOOST_AUTO_TEST_SUITE_END()
