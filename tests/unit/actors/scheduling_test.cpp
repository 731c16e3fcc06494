#include "actors/scheduling.hpp"

#include "messages/interfaces.hpp"

#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <vector>

using namespace troupe;

namespace {

constexpr auto patience = std::chrono::seconds{60};

struct config : caf::actor_system_config {
  explicit config(size_t workers) {
    add_message_types<caf::id_block::troupe>();
    load<caf::scheduler::coordinator<actors::near_first>>();
    set("scheduler.max-threads", workers);
    set("scheduler.max-throughput", size_t{100});
    set("logger.verbosity", caf::atom("quiet"));
  }
};

using runner_actor = actor_handle<caf::result<void>(action)>;

/// The actor whose turn it is on this thread: what it sends may stay with its worker.
thread_local self_ptr<runner_actor> current = nullptr;

struct runner_state {
  using handle_type = runner_actor;
  static constexpr const char* name = "runner";

  explicit runner_state(self_ptr<runner_actor> ptr) : self(ptr) {}

  runner_actor::behavior_type make_behavior() {
    return {[this](action& work) {
      current = self;
      work();
    }};
  }

  self_ptr<runner_actor> self;
};

/// Two actors that keep each other busy for as long as `go_on`.
void bounce(const runner_actor& from, const runner_actor& to, std::atomic<bool>& go_on) {
  if (go_on)
    tell(current, to, action{[from, to, &go_on] { bounce(to, from, go_on); }});
}

runner_actor make_runner(caf::actor_system& system) {
  return system.spawn<state_actor<runner_state>>();
}

} // namespace

BOOST_AUTO_TEST_SUITE(scheduling)

BOOST_AUTO_TEST_CASE(actors_that_keep_each_other_busy_starve_nobody) {
  std::atomic<bool> go_on{true};
  config settings{1};
  caf::actor_system system{settings};
  auto a = make_runner(system);
  auto b = make_runner(system);
  anon_tell(a, action{[&] { bounce(a, b, go_on); }});
  auto other = make_runner(system);
  std::promise<void> reached;
  anon_tell(other, action{[&] { reached.set_value(); }});
  bool came = reached.get_future().wait_for(patience) == std::future_status::ready;
  go_on = false;
  BOOST_TEST(came);
}

BOOST_AUTO_TEST_CASE(what_one_actor_sends_to_many_is_shared_among_workers) {
  config settings{2};
  caf::actor_system system{settings};
  std::vector<runner_actor> all;
  for (int i = 0; i < 8; ++i)
    all.push_back(make_runner(system));
  // Two of them can only go on together.
  std::promise<void> one;
  std::promise<void> two;
  std::promise<bool> one_met;
  std::promise<bool> two_met;
  auto meet = [](std::promise<void>& mine, std::promise<void>& other, std::promise<bool>& met) {
    mine.set_value();
    met.set_value(other.get_future().wait_for(patience) == std::future_status::ready);
  };
  anon_tell(all[0], action{[&] {
              tell(current, all[1], action{[&] { meet(one, two, one_met); }});
              for (size_t i = 3; i < all.size(); ++i)
                tell(current, all[i], action{[] {}});
              tell(current, all[2], action{[&] { meet(two, one, two_met); }});
            }});
  BOOST_TEST(one_met.get_future().get());
  BOOST_TEST(two_met.get_future().get());
}

BOOST_AUTO_TEST_CASE(every_message_of_many_senders_arrives) {
  config settings{2};
  std::atomic<int> arrived{0};
  constexpr int senders = 50;
  constexpr int rounds = 200;
  {
    caf::actor_system system{settings};
    std::vector<runner_actor> all;
    for (int i = 0; i < senders; ++i)
      all.push_back(make_runner(system));
    std::function<void(int, int)> pass = [&](int at, int left) {
      ++arrived;
      if (left > 1)
        tell(current, all[static_cast<size_t>((at * 7 + 1) % senders)],
             action{[&, at, left] { pass((at * 7 + 1) % senders, left - 1); }});
    };
    for (int i = 0; i < senders; ++i)
      anon_tell(all[static_cast<size_t>(i)], action{[&, i] { pass(i, rounds); }});
    auto deadline = std::chrono::steady_clock::now() + patience;
    std::promise<void> done;
    std::function<void()> look = [&] {
      if (arrived == senders * rounds || std::chrono::steady_clock::now() > deadline)
        done.set_value();
      else
        tell(current, all[0], action{look});
    };
    anon_tell(all[0], action{look});
    done.get_future().wait();
  }
  BOOST_TEST(arrived == senders * rounds);
}

BOOST_AUTO_TEST_SUITE_END()
