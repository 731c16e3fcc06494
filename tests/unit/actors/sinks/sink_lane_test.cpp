#include "actors/sinks/sink_lane.hpp"

#include "support.hpp"

#include <thread>

using namespace troupe;
using namespace troupe::test;

namespace {

struct fixture {
  std::vector<uint64_t> got;
  bool breaks = false;
  manual_executor pool;

  std::shared_ptr<sink_lane> lane(sink_settings settings = {}) {
    auto callback = [this](const event_payload& x) {
      got.push_back(x.what.seq);
      return breaks ? broken(x) : result<void>{};
    };
    return std::make_shared<sink_lane>(std::make_unique<callback_sink>(settings, callback),
                                       std::make_shared<const sink_context>(plain_context()),
                                       pool.executor());
  }

  static event_ptr numbered(uint64_t seq) {
    return share(make_event(op::read, event_phase::start, seq));
  }
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(lane_of_a_sink, fixture)

BOOST_AUTO_TEST_CASE(events_come_in_order_from_one_job_at_a_time) {
  auto l = lane();
  std::vector<uint64_t> expected;
  for (uint64_t i = 1; i <= 100; ++i) {
    l->push(numbered(i), {});
    expected.push_back(i);
  }
  BOOST_TEST(got.empty());
  while (!pool.jobs.empty()) {
    BOOST_TEST(pool.jobs.size() == 1u);
    pool.run_one();
  }
  BOOST_TEST(got == expected);
  BOOST_TEST(l->stats().delivered == 100u);
}

BOOST_AUTO_TEST_CASE(a_long_queue_lets_others_at_the_pool) {
  auto l = lane();
  for (uint64_t i = 1; i <= 100; ++i)
    l->push(numbered(i), {});
  pool.run_one();
  BOOST_TEST(got.size() < 100u);
  pool.run_all();
  BOOST_TEST(got.size() == 100u);
}

BOOST_AUTO_TEST_CASE(a_full_queue_drops_what_comes_and_counts_it) {
  auto l = lane({.queue_limit = 2});
  for (uint64_t i = 1; i <= 5; ++i)
    l->push(numbered(i), {});
  BOOST_TEST(l->stats().queued == 2u);
  BOOST_TEST(l->stats().dropped == 3u);
  pool.run_all();
  BOOST_TEST(got == (std::vector<uint64_t>{1, 2}));
}

BOOST_AUTO_TEST_CASE(a_queue_of_large_events_is_bounded_by_their_size) {
  auto l = lane();
  auto large = "\"" + std::string(6 * 1024 * 1024, 'x') + "\"";
  for (uint64_t i = 1; i <= 4; ++i)
    l->push(share(make_event(op::exec, event_phase::start, i, large)), {});
  BOOST_TEST(l->stats().dropped == 2u);
  pool.run_all();
  l->push(share(make_event(op::exec, event_phase::start, 5, large)), {});
  pool.run_all();
  BOOST_TEST(got == (std::vector<uint64_t>{1, 2, 5}));
}

BOOST_AUTO_TEST_CASE(who_waits_hears_of_a_drop_only_where_failures_raise) {
  std::optional<result<void>> heard;
  auto listen = [&](result<void> x) { heard = std::move(x); };
  auto raising = lane({.queue_limit = 0});
  raising->push(numbered(1), listen);
  BOOST_REQUIRE((heard && !*heard));
  BOOST_TEST((heard->error().code == errc::overloaded));
  heard.reset();
  auto logging = lane({.on_error = sink_on_error::log, .queue_limit = 0});
  logging->push(numbered(1), listen);
  BOOST_TEST((heard && *heard));
}

BOOST_AUTO_TEST_CASE(a_pool_without_room_drops_the_event_and_the_next_one_goes_on) {
  auto l = lane();
  pool.full = true;
  l->push(numbered(1), {});
  BOOST_TEST(l->stats().dropped == 1u);
  pool.full = false;
  l->push(numbered(2), {});
  pool.run_all();
  BOOST_TEST(got == std::vector<uint64_t>{2});
}

BOOST_AUTO_TEST_CASE(a_pool_that_fills_up_meanwhile_does_not_stop_the_job) {
  auto l = lane();
  for (uint64_t i = 1; i <= 100; ++i)
    l->push(numbered(i), {});
  pool.full = true;
  pool.run_one();
  BOOST_TEST(got.size() == 100u);
}

BOOST_AUTO_TEST_CASE(failures_and_exceptions_reach_who_waits) {
  breaks = true;
  std::vector<std::string> heard;
  auto listen = [&](const result<void>& x) { heard.push_back(x ? "ok" : x.error().message); };
  auto l = lane();
  l->push(numbered(1), listen);
  auto throwing = std::make_shared<sink_lane>(
    std::make_unique<callback_sink>(
      sink_settings{},
      [](const event_payload&) -> result<void> { throw std::runtime_error("thrown"); }),
    std::make_shared<const sink_context>(plain_context()), pool.executor());
  throwing->push(numbered(2), listen);
  pool.run_all();
  BOOST_REQUIRE(heard.size() == 2u);
  BOOST_TEST(heard[0].ends_with(": no"));
  BOOST_TEST(heard[1].ends_with(": thrown"));
}

BOOST_AUTO_TEST_CASE(a_closed_lane_drops_everything) {
  auto l = lane();
  l->push(numbered(1), {});
  l->close();
  l->push(numbered(2), {});
  pool.run_all();
  BOOST_TEST(got.empty());
  BOOST_TEST(l->stats().dropped == 2u);
  BOOST_TEST(l->wait_idle(std::chrono::steady_clock::now()));
}

BOOST_AUTO_TEST_CASE(waiting_ends_when_the_last_event_is_handled) {
  auto l = lane();
  l->push(numbered(1), {});
  BOOST_TEST(!l->wait_idle(std::chrono::steady_clock::now()));
  std::thread worker{[this] { pool.run_all(); }};
  BOOST_TEST(l->wait_idle(std::chrono::steady_clock::now() + std::chrono::minutes{1}));
  BOOST_TEST(got.size() == 1u);
  worker.join();
}

BOOST_AUTO_TEST_CASE(many_threads_may_push) {
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::deque<std::function<void()>> jobs;
  auto l = std::make_shared<sink_lane>(
    std::make_unique<callback_sink>(sink_settings{.queue_limit = 10'000},
                                    [this](const event_payload& x) {
                                      got.push_back(x.what.seq);
                                      return result<void>{};
                                    }),
    std::make_shared<const sink_context>(plain_context()), [&](std::function<void()> job) {
      std::lock_guard lock{mutex};
      jobs.push_back(std::move(job));
      return true;
    });
  std::vector<std::thread> workers;
  for (int i = 0; i < 2; ++i)
    workers.emplace_back([&] {
      while (!stop) {
        std::function<void()> job;
        {
          std::lock_guard lock{mutex};
          if (!jobs.empty()) {
            job = std::move(jobs.front());
            jobs.pop_front();
          }
        }
        if (job)
          job();
        else
          std::this_thread::yield();
      }
    });
  std::vector<std::thread> writers;
  for (int i = 0; i < 3; ++i)
    writers.emplace_back([&] {
      for (uint64_t n = 0; n < 200; ++n)
        l->push(numbered(n), {});
    });
  for (auto& writer : writers)
    writer.join();
  BOOST_TEST(l->wait_idle(std::chrono::steady_clock::now() + std::chrono::minutes{1}));
  stop = true;
  for (auto& worker : workers)
    worker.join();
  BOOST_TEST(got.size() == 600u);
}

BOOST_AUTO_TEST_SUITE_END()
