#include "actors/coroutine.hpp"
#include "fixture.hpp"

#include <stdexcept>

using namespace troupe;
using namespace troupe::actors;
using troupe::tests::deterministic_system;

namespace {

/// Answers when it is told to.
struct gate_state {
  using handle_type = actor_handle<caf::result<bool>(session_running), caf::result<void>(get_node)>;
  static constexpr const char* name = "gate";

  explicit gate_state(self_ptr<handle_type> ptr) : self(ptr) {}

  handle_type::behavior_type make_behavior() {
    return {
      [this](const session_running&) -> caf::result<bool> {
        reply_to<bool> reply{self};
        waiting.push_back(reply);
        return reply;
      },
      [this](const get_node&) -> caf::result<void> {
        for (auto& x : waiting)
          x.finish(true);
        waiting.clear();
        return caf::unit;
      },
    };
  }

  self_ptr<handle_type> self;
  std::vector<reply_to<bool>> waiting;
};

using gate_actor = gate_state::handle_type;

enum class mode { plain, throwing, limited, ahead };

/// Runs one protocol per request.
struct runner_state {
  using handle_type = actor_handle<caf::result<bool>(session_running)>;
  static constexpr const char* name = "runner";

  runner_state(self_ptr<handle_type> ptr, gate_actor g, mode m, int* c)
    : self(ptr), gate(std::move(g)), how(m), concurrent(c) {}

  co<result<bool>> step() {
    auto answer = co_await ask<bool>(self, gate, session_running{});
    co_return answer;
  }

  co<result<bool>> work() {
    if (how == mode::limited) {
      auto turn = co_await one.acquire();
      ++*concurrent;
      BOOST_TEST(*concurrent == 1);
      auto answer = co_await step();
      --*concurrent;
      co_return answer;
    }
    if (how == mode::ahead) {
      auto early = ask_ahead<bool>(self, gate, session_running{});
      auto late = ask_ahead<bool>(self, gate, session_running{});
      auto between = co_await step(); // the gate answers all three
      if (!between)
        co_return between;
      auto second = co_await late;
      auto first = co_await early;
      co_return *first&&* second;
    }
    auto answer = co_await step();
    if (how == mode::throwing)
      throw std::runtime_error("unlucky");
    co_return answer;
  }

  handle_type::behavior_type make_behavior() {
    return {[this](const session_running&) { return respond(self, scope, work()); }};
  }

  self_ptr<handle_type> self;
  gate_actor gate;
  mode how;
  int* concurrent;
  async_semaphore one{scope, 1};
  task_scope scope;
};

struct fixture : deterministic_system {
  gate_actor gate = system.spawn<state_actor<gate_state>>();
  int concurrent = 0;

  runner_state::handle_type runner(mode how) {
    return system.spawn<state_actor<runner_state>>(gate, how, &concurrent);
  }

  ~fixture() {
    kill(gate);
  }
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(coroutine, fixture)

BOOST_AUTO_TEST_CASE(a_protocol_goes_on_when_its_answer_comes) {
  auto r = runner(mode::plain);
  auto pending = self->request(r, caf::infinite, session_running{});
  run();
  BOOST_TEST(self->mailbox().empty());
  BOOST_TEST(call<void>(gate, get_node{}).has_value());
  bool got = false;
  pending.receive([&](bool x) { got = x; }, [](caf::error&) { BOOST_ERROR("failed"); });
  BOOST_TEST(got);
  kill(r);
}

BOOST_AUTO_TEST_CASE(an_answer_may_come_before_it_is_awaited) {
  auto r = runner(mode::ahead);
  auto pending = self->request(r, caf::infinite, session_running{});
  run();
  BOOST_TEST(call<void>(gate, get_node{}).has_value());
  bool got = false;
  pending.receive([&](bool x) { got = x; }, [](caf::error&) { BOOST_ERROR("failed"); });
  BOOST_TEST(got);
  kill(r);
}

BOOST_AUTO_TEST_CASE(an_exception_becomes_an_error_and_the_actor_lives_on) {
  auto r = runner(mode::throwing);
  for (int i = 0; i < 2; ++i) {
    auto pending = self->request(r, caf::infinite, session_running{});
    run();
    BOOST_TEST(call<void>(gate, get_node{}).has_value());
    std::optional<error> failure;
    pending.receive([](bool) {}, [&](caf::error& e) { failure = from_caf(e); });
    BOOST_REQUIRE(failure.has_value());
    BOOST_TEST((failure->code == errc::internal));
    BOOST_TEST(failure->message == "unlucky");
  }
  kill(r);
}

BOOST_AUTO_TEST_CASE(an_actor_that_dies_answers_for_its_suspended_protocols) {
  auto r = runner(mode::plain);
  auto pending = self->request(r, caf::infinite, session_running{});
  run();
  kill(r);
  std::optional<error> failure;
  pending.receive([](bool) {}, [&](caf::error& e) { failure = from_caf(e); });
  BOOST_REQUIRE(failure.has_value());
  BOOST_TEST((failure->code == errc::interrupted));
}

BOOST_AUTO_TEST_CASE(a_semaphore_lets_one_through_at_a_time_and_all_in_the_end) {
  auto r = runner(mode::limited);
  std::vector<decltype(self->request(r, caf::infinite, session_running{}))> pending;
  for (int i = 0; i < 5; ++i)
    pending.push_back(self->request(r, caf::infinite, session_running{}));
  run();
  for (int i = 0; i < 5; ++i)
    BOOST_TEST(call<void>(gate, get_node{}).has_value());
  int answered = 0;
  for (auto& x : pending)
    x.receive([&](bool) { ++answered; }, [](caf::error&) { BOOST_ERROR("failed"); });
  BOOST_TEST(answered == 5);
  kill(r);
}

BOOST_AUTO_TEST_CASE(protocols_that_wait_for_a_semaphore_die_with_their_actor) {
  auto r = runner(mode::limited);
  auto first = self->request(r, caf::infinite, session_running{});
  auto second = self->request(r, caf::infinite, session_running{});
  run();
  kill(r);
  int failed = 0;
  first.receive([](bool) {}, [&](caf::error&) { ++failed; });
  second.receive([](bool) {}, [&](caf::error&) { ++failed; });
  BOOST_TEST(failed == 2);
}

BOOST_AUTO_TEST_SUITE_END()
