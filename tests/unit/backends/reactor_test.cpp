#include "backends/reactor.hpp"

#include "messages/unique_fd.hpp"

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using troupe::unique_fd;
using troupe::backends::reactor;

namespace {

/// Runs `work` on the reactor thread and waits for it.
template <class Work>
void on(reactor& r, Work work) {
  std::promise<void> done;
  r.post([&] {
    work();
    done.set_value();
  });
  done.get_future().wait();
}

unique_fd ready_descriptor() {
  return unique_fd{::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)};
}

} // namespace

BOOST_AUTO_TEST_CASE(tasks_run_on_its_thread_in_the_order_they_were_posted) {
  reactor r;
  std::vector<int> order;
  bool there = false;
  for (int i = 0; i < 100; ++i)
    r.post([&, i] { order.push_back(i); });
  on(r, [&] { there = r.on_reactor_thread(); });
  BOOST_TEST(there);
  BOOST_TEST(!r.on_reactor_thread());
  BOOST_REQUIRE(order.size() == 100u);
  BOOST_TEST(std::is_sorted(order.begin(), order.end()));
}

BOOST_AUTO_TEST_CASE(no_task_is_lost_when_many_threads_post) {
  reactor r;
  int count = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i)
        r.post([&] { ++count; });
    });
  for (auto& t : threads)
    t.join();
  on(r, [] {});
  BOOST_TEST(count == 20000);
}

BOOST_AUTO_TEST_CASE(destruction_runs_what_was_posted) {
  int count = 0;
  {
    reactor r;
    for (int i = 0; i < 100; ++i)
      r.post([&] { ++count; });
  }
  BOOST_TEST(count == 100);
}

BOOST_AUTO_TEST_CASE(timers_fire_by_deadline_and_cancelled_ones_never) {
  reactor r;
  std::string order;
  std::promise<void> done;
  on(r, [&] {
    auto now = reactor::clock::now();
    r.at(now + 30ms, [&] {
      order += 'c';
      done.set_value();
    });
    r.at(now + 10ms, [&] { order += 'a'; });
    auto cancelled = r.at(now + 15ms, [&] { order += 'x'; });
    r.at(now + 20ms, [&] { order += 'b'; });
    r.cancel(cancelled);
    r.cancel(cancelled);
    r.cancel(0);
  });
  done.get_future().wait();
  BOOST_TEST(order == "abc");
}

BOOST_AUTO_TEST_CASE(a_cancelled_timer_lets_go_of_what_it_holds) {
  reactor r;
  auto held = std::make_shared<int>(0);
  std::weak_ptr<int> watched = held;
  on(r, [&] {
    auto id = r.at(reactor::clock::now() + 1h, [held] {});
    held.reset();
    r.cancel(id);
  });
  BOOST_TEST(watched.expired());
}

BOOST_AUTO_TEST_CASE(a_handler_may_unwatch_itself_and_go_on_using_its_captures) {
  reactor r;
  auto fd = ready_descriptor();
  int calls = 0;
  std::promise<std::string> seen;
  on(r, [&] {
    auto id = std::make_shared<reactor::watch_id>(0);
    std::string text = "still here after unwatch, and too long for any small buffer";
    *id = r.watch(fd.get(), EPOLLIN, [&, id, text](uint32_t) {
      ++calls;
      r.unwatch(*id);
      seen.set_value(text);
    });
  });
  BOOST_TEST(seen.get_future().get()
             == "still here after unwatch, and too long for any small buffer");
  on(r, [] {});
  BOOST_TEST(calls == 1);
}

BOOST_AUTO_TEST_CASE(an_unwatched_descriptor_is_silent_even_with_its_event_in_hand) {
  reactor r;
  auto a = ready_descriptor();
  auto b = ready_descriptor();
  reactor::watch_id watch_a = 0;
  reactor::watch_id watch_b = 0;
  int calls = 0;
  std::promise<void> called;
  // Both are ready when the next wait begins, so both events come in one batch.
  on(r, [&] {
    auto both = [&](uint32_t) {
      ++calls;
      r.unwatch(watch_a);
      r.unwatch(watch_b);
      called.set_value();
    };
    watch_a = r.watch(a.get(), EPOLLIN, both);
    watch_b = r.watch(b.get(), EPOLLIN, both);
  });
  called.get_future().wait();
  on(r, [] {});
  BOOST_TEST(calls == 1);
}

BOOST_AUTO_TEST_CASE(a_paused_watch_does_not_even_report_a_hang_up) {
  reactor r;
  int fds[2];
  BOOST_REQUIRE(::pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
  unique_fd in{fds[0]};
  unique_fd out{fds[1]};
  reactor::watch_id id = 0;
  int calls = 0;
  std::promise<void> called;
  on(r, [&] {
    id = r.watch(in.get(), EPOLLIN, [&](uint32_t) {
      if (++calls == 1) {
        r.modify(id, 0);
        called.set_value();
      }
    });
    r.modify(id, 0);
  });
  out.reset();
  for (int i = 0; i < 10; ++i)
    on(r, [&] { BOOST_TEST(calls == 0); });
  on(r, [&] { r.modify(id, EPOLLIN); });
  called.get_future().wait();
  on(r, [&] { r.unwatch(id); });
  BOOST_TEST(calls == 1);
}

BOOST_AUTO_TEST_CASE(the_thread_takes_no_signals) {
  reactor r;
  sigset_t mask;
  on(r, [&] { ::pthread_sigmask(SIG_SETMASK, nullptr, &mask); });
  BOOST_TEST(::sigismember(&mask, SIGTERM) == 1);
  BOOST_TEST(::sigismember(&mask, SIGPIPE) == 1);
}
