#include "backends/thread_pool.hpp"

#include <boost/test/unit_test.hpp>

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <vector>

using troupe::backends::thread_pool;

namespace {

/// A pool of one thread that is busy until `open`.
struct held_pool {
  explicit held_pool(size_t capacity = 100)
    : pool({.name = "held", .threads = 1, .capacity = capacity}) {
    std::promise<void> busy;
    pool.try_submit("gate", [&busy, gate = gate_.get_future().share()] {
      busy.set_value();
      gate.wait();
    });
    busy.get_future().wait();
  }

  void open() {
    gate_.set_value();
  }

  thread_pool pool;

private:
  std::promise<void> gate_;
};

} // namespace

BOOST_AUTO_TEST_CASE(tenants_take_turns_whatever_one_of_them_queues) {
  held_pool held;
  std::vector<std::string> order;
  for (auto name : {"a1", "a2", "a3"})
    held.pool.try_submit("a", [&order, name] { order.emplace_back(name); });
  for (auto name : {"b1", "b2"})
    held.pool.try_submit("b", [&order, name] { order.emplace_back(name); });
  held.open();
  held.pool.stop();
  std::vector<std::string> expected{"a1", "b1", "a2", "b2", "a3"};
  BOOST_TEST(order == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(more_jobs_than_the_capacity_are_refused) {
  held_pool held{2};
  BOOST_TEST(held.pool.try_submit("a", [] {}));
  BOOST_TEST(held.pool.try_submit("b", [] {}));
  BOOST_TEST(!held.pool.try_submit("c", [] {}));
  BOOST_TEST(held.pool.queued() == 2u);
  held.open();
}

BOOST_AUTO_TEST_CASE(stop_runs_what_is_queued_and_refuses_the_rest) {
  held_pool held;
  int ran = 0;
  held.pool.try_submit("a", [&] { ++ran; });
  held.open();
  held.pool.stop();
  held.pool.stop();
  BOOST_TEST(ran == 1);
  BOOST_TEST(!held.pool.try_submit("a", [] {}));
}

BOOST_AUTO_TEST_CASE(work_that_never_comes_back_holds_up_only_its_own_tenant) {
  using std::chrono::milliseconds;
  thread_pool pool{{.name = "held", .threads = 2, .most_threads = 5, .patience = milliseconds{1}}};
  std::promise<void> gate;
  auto opened = gate.get_future().share();
  std::atomic<int> held{0};
  for (int i = 0; i < 10; ++i)
    pool.try_submit("a", [&] {
      ++held;
      opened.wait();
    });
  for (auto name : {"b", "c", "b"}) {
    std::promise<void> ran;
    BOOST_REQUIRE(pool.try_submit(name, [&] { ran.set_value(); }));
    ran.get_future().wait();
  }
  BOOST_TEST(held == 2);
  BOOST_TEST(pool.queued() == 8u);
  gate.set_value();
  pool.stop();
  BOOST_TEST(held == 10);
}

BOOST_AUTO_TEST_CASE(threads_added_end_when_nothing_is_held_any_more) {
  thread_pool pool{
    {.name = "held", .threads = 1, .most_threads = 4, .patience = std::chrono::milliseconds{1}}};
  std::promise<void> gate;
  auto opened = gate.get_future().share();
  std::vector<std::promise<void>> begun(4);
  for (size_t i = 0; i < begun.size(); ++i)
    pool.try_submit(std::string(1, static_cast<char>('a' + i)), [&begun, opened, i] {
      begun[i].set_value();
      opened.wait();
    });
  for (auto& x : begun)
    x.get_future().wait();
  BOOST_TEST(pool.threads() == 4u);
  gate.set_value();
  while (pool.threads() > 1)
    std::this_thread::yield();
  std::promise<void> ran;
  pool.try_submit("a", [&] { ran.set_value(); });
  ran.get_future().wait();
}

BOOST_AUTO_TEST_CASE(threads_have_the_name_and_niceness_asked_for) {
  auto base = ::getpriority(PRIO_PROCESS, 0);
  thread_pool pool{{.name = "worker", .threads = 1, .nice = 5}};
  std::promise<std::pair<std::string, int>> seen;
  pool.try_submit("a", [&] {
    char name[16];
    ::pthread_getname_np(::pthread_self(), name, sizeof name);
    seen.set_value({name, ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()))});
  });
  auto [name, nice] = seen.get_future().get();
  BOOST_TEST(name == "worker");
  BOOST_TEST(nice == base + 5);
  BOOST_TEST(::getpriority(PRIO_PROCESS, 0) == base);
}
