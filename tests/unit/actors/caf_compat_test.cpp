#include "fixture.hpp"

using namespace troupe;
using troupe::tests::deterministic_system;

namespace {

/// Keeps its promises until it is told to drop them, or dies.
struct keeper_state {
  using handle_type = with_actions<node_actor>;
  static constexpr const char* name = "keeper";

  explicit keeper_state(self_ptr<handle_type> ptr) : self(ptr) {}

  handle_type::behavior_type make_behavior() {
    return {
      [this](const get_node&) -> caf::result<node_info> {
        reply_to<node_info> reply{self};
        kept.push_back(reply);
        return reply;
      },
      [this](const shutdown_node&) -> caf::result<shutdown_report> {
        kept.clear();
        return to_caf(make_error(errc::conflict, op::stop, "dropped").with("n", 1));
      },
      [](action& work) { work(); },
    };
  }

  self_ptr<handle_type> self;
  std::vector<reply_to<node_info>> kept;
};

struct watching_state {
  using handle_type = actor_handle<caf::result<bool>(get_node)>;
  static constexpr const char* name = "watching";

  watching_state(self_ptr<handle_type> ptr, node_actor watched) : watch(ptr) {
    watch.watch(watched, [this](const caf::error&) { down = true; });
  }

  handle_type::behavior_type make_behavior() {
    return {[this](const get_node&) -> caf::result<bool> { return down; }};
  }

  watcher<std::remove_pointer_t<self_ptr<handle_type>>> watch;
  bool down = false;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(caf_compat, deterministic_system)

BOOST_AUTO_TEST_CASE(a_dropped_promise_answers_interrupted) {
  node_actor keeper = system.spawn<state_actor<keeper_state>>();
  auto pending = self->request(keeper, caf::infinite, get_node{});
  run();
  BOOST_TEST(self->mailbox().empty());
  auto dropped = call<shutdown_report>(keeper, shutdown_node{});
  BOOST_REQUIRE(dropped.has_value());
  std::optional<error> failure;
  pending.receive([](node_info&) {}, [&](caf::error& e) { failure = from_caf(e); });
  BOOST_REQUIRE(failure.has_value());
  BOOST_TEST((failure->code == errc::interrupted));
  BOOST_TEST(failure->retryable.value_or(false));
  kill(keeper);
}

BOOST_AUTO_TEST_CASE(an_actor_that_dies_answers_what_it_kept) {
  node_actor keeper = system.spawn<state_actor<keeper_state>>();
  auto pending = self->request(keeper, caf::infinite, get_node{});
  run();
  kill(keeper);
  std::optional<error> failure;
  pending.receive([](node_info&) {}, [&](caf::error& e) { failure = from_caf(e); });
  BOOST_REQUIRE(failure.has_value());
  BOOST_TEST((failure->code == errc::interrupted));
}

BOOST_AUTO_TEST_CASE(an_error_keeps_its_code_text_and_context) {
  node_actor keeper = system.spawn<state_actor<keeper_state>>();
  auto answer = call<shutdown_report>(keeper, shutdown_node{});
  BOOST_REQUIRE(answer.has_value());
  BOOST_REQUIRE(!answer->has_value());
  BOOST_TEST((answer->error().code == errc::conflict));
  BOOST_TEST(answer->error().message == "dropped");
  BOOST_TEST(answer->error().context == R"({"n":1})");
  kill(keeper);
}

BOOST_AUTO_TEST_CASE(a_request_to_a_dead_actor_is_interrupted) {
  node_actor keeper = system.spawn<state_actor<keeper_state>>();
  kill(keeper);
  auto answer = call<node_info>(keeper, get_node{});
  BOOST_REQUIRE(answer.has_value());
  BOOST_REQUIRE(!answer->has_value());
  BOOST_TEST((answer->error().code == errc::interrupted));
}

BOOST_AUTO_TEST_CASE(a_watcher_is_told_of_the_end) {
  node_actor keeper = system.spawn<state_actor<keeper_state>>();
  auto watching = system.spawn<state_actor<watching_state>>(keeper);
  BOOST_TEST(call<bool>(watching, get_node{})->value() == false);
  kill(keeper);
  BOOST_TEST(call<bool>(watching, get_node{})->value() == true);
  kill(watching);
}

BOOST_AUTO_TEST_SUITE_END()
