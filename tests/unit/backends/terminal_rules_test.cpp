#include "backends/terminal_rules.hpp"

#include <boost/test/unit_test.hpp>

#include <set>

using namespace std::chrono_literals;
using namespace troupe::backends;

namespace {

using time_point = std::chrono::steady_clock::time_point;

/// Used one after the other.
std::vector<terminal_use> used_in_order(size_t count) {
  std::vector<terminal_use> out;
  for (size_t i = 0; i < count; ++i)
    out.push_back({time_point{} + std::chrono::seconds{i}, false});
  return out;
}

} // namespace

BOOST_AUTO_TEST_CASE(yields_lie_between_a_quarter_and_thirty_seconds) {
  BOOST_TEST((clamp_yield(0ms, false) == 250ms));
  BOOST_TEST((clamp_yield(-5ms, false) == 250ms));
  BOOST_TEST((clamp_yield(250ms, false) == 250ms));
  BOOST_TEST((clamp_yield(1234ms, false) == 1234ms));
  BOOST_TEST((clamp_yield(30'000ms, false) == 30'000ms));
  BOOST_TEST((clamp_yield(std::chrono::milliseconds::max(), false) == 30'000ms));
}

BOOST_AUTO_TEST_CASE(a_poll_waits_five_seconds_at_least) {
  BOOST_TEST((clamp_yield(0ms, true) == 5'000ms));
  BOOST_TEST((clamp_yield(default_write_yield, true) == 5'000ms));
  BOOST_TEST((clamp_yield(6'000ms, true) == 6'000ms));
  BOOST_TEST((clamp_yield(40'000ms, true) == 30'000ms));
}

BOOST_AUTO_TEST_CASE(the_eight_used_last_are_never_given_up) {
  BOOST_TEST(!choose_victim({}).has_value());
  auto eight = used_in_order(8);
  for (auto& x : eight)
    x.exited = true;
  BOOST_TEST(!choose_victim(eight).has_value());
  auto many = used_in_order(max_terminals);
  for (size_t i = many.size() - 8; i < many.size(); ++i)
    many[i].exited = true;
  BOOST_TEST(choose_victim(many).value() == 0u);
}

BOOST_AUTO_TEST_CASE(the_one_used_least_recently_goes) {
  auto x = used_in_order(9);
  BOOST_TEST(choose_victim(x).value() == 0u);
  std::swap(x[0].last_used, x[5].last_used);
  BOOST_TEST(choose_victim(x).value() == 5u);
}

BOOST_AUTO_TEST_CASE(one_that_has_exited_goes_before_those_that_run) {
  auto x = used_in_order(20);
  x[7].exited = true;
  x[4].exited = true;
  BOOST_TEST(choose_victim(x).value() == 4u);
}

BOOST_AUTO_TEST_CASE(ids_are_in_range_and_unique) {
  std::set<int32_t> used;
  auto taken = [&](int32_t id) { return used.count(id) > 0; };
  for (uint64_t random : {0UL, 0UL, 98'999UL, 98'999UL, 99'000UL, ~0UL}) {
    auto id = choose_terminal_id(random, taken);
    BOOST_TEST(id >= 1'000);
    BOOST_TEST(id < 100'000);
    BOOST_TEST(used.insert(id).second);
  }
}

BOOST_AUTO_TEST_CASE(the_last_free_id_is_found) {
  auto taken = [](int32_t id) { return id != 31'337; };
  BOOST_TEST(choose_terminal_id(0, taken) == 31'337);
  BOOST_TEST(choose_terminal_id(98'999, taken) == 31'337);
}
