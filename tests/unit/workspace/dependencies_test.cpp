#include "workspace/dependencies.hpp"

#include <boost/test/unit_test.hpp>

#include <future>
#include <thread>

using namespace troupe;
using workspace::dependencies;

namespace {

int as_int(const result<std::optional<std::any>>& x) {
  BOOST_REQUIRE(x.has_value());
  BOOST_REQUIRE(x->has_value());
  return std::any_cast<int>(**x);
}

} // namespace

BOOST_AUTO_TEST_CASE(values_and_factories_resolve_and_unknown_keys_are_nothing) {
  dependencies d;
  BOOST_TEST(d.bind_value("a", 1).has_value());
  BOOST_TEST(d.bind_factory(
                "b", [](dependencies& in) -> result<std::any> { return as_int(in.get("a")) + 1; })
               .has_value());
  BOOST_TEST(as_int(d.get("b")) == 2);
  BOOST_TEST(!d.get("c")->has_value());
  auto missing = d.require("c", "the snapshot");
  BOOST_REQUIRE(!missing);
  BOOST_TEST(missing.error().message == "Missing dependency `c` for the snapshot");
}

BOOST_AUTO_TEST_CASE(a_key_is_bound_once_unless_it_is_overwritten) {
  dependencies d;
  BOOST_TEST(d.bind_value("", 1).error().message == "Dependency key must be non-empty");
  BOOST_TEST(d.bind_value("a", 1).has_value());
  BOOST_TEST(d.bind_value("a", 2).error().message == "Dependency `a` is already bound");
  BOOST_TEST(d.bind_value("a", 2, true).has_value());
  BOOST_TEST(as_int(d.get("a")) == 2);
}

BOOST_AUTO_TEST_CASE(callers_at_once_share_one_run_of_a_factory) {
  dependencies d;
  std::atomic<int> runs{0};
  std::promise<void> go;
  auto gate = go.get_future().share();
  BOOST_REQUIRE(d.bind_factory("x",
                               [&](dependencies&) -> result<std::any> {
                                 gate.wait();
                                 return ++runs;
                               })
                  .has_value());
  auto get = [&] { return d.get("x"); };
  std::vector<decltype(std::async(get))> all;
  for (int i = 0; i < 4; ++i)
    all.push_back(std::async(std::launch::async, get));
  go.set_value();
  for (auto& x : all)
    BOOST_TEST(as_int(x.get()) == 1); // here, as Boost.Test is for one thread
  BOOST_TEST(runs == 1);
}

BOOST_AUTO_TEST_CASE(one_that_gives_up_leaves_the_run_to_the_others) {
  dependencies d;
  std::promise<void> started;
  std::promise<void> go;
  BOOST_REQUIRE(d.bind_factory("x",
                               [&](dependencies&) -> result<std::any> {
                                 started.set_value();
                                 go.get_future().wait();
                                 return 7;
                               })
                  .has_value());
  auto first = std::async(std::launch::async, [&] { return d.get("x"); });
  started.get_future().wait();
  std::stop_source stop;
  stop.request_stop();
  BOOST_TEST((d.get("x", stop.get_token()).error().code == errc::cancelled));
  go.set_value();
  BOOST_TEST(as_int(first.get()) == 7);
}

BOOST_AUTO_TEST_CASE(a_failed_run_is_not_kept) {
  dependencies d;
  int runs = 0;
  BOOST_REQUIRE(d.bind_factory("x",
                               [&](dependencies&) -> result<std::any> {
                                 if (++runs == 1)
                                   throw std::runtime_error{"not yet"};
                                 return runs;
                               })
                  .has_value());
  BOOST_TEST(d.get("x").error().message == "not yet");
  BOOST_TEST(as_int(d.get("x")) == 2);
  BOOST_TEST(as_int(d.get("x")) == 2);
}

BOOST_AUTO_TEST_CASE(closing_closes_what_it_owns_the_newest_first_and_keeps_values) {
  dependencies d;
  std::vector<int> closed;
  dependencies::factory_options owned;
  owned.close_result = [&](std::any& x) { closed.push_back(std::any_cast<int>(x)); };
  BOOST_REQUIRE(d.bind_value("v", 9).has_value());
  for (int i : {1, 2, 3})
    BOOST_REQUIRE(d.bind_factory(
                     std::to_string(i), [i](dependencies&) -> result<std::any> { return i; }, owned)
                    .has_value());
  for (auto key : {"2", "1", "3"})
    BOOST_TEST(as_int(d.get(key)) == std::stoi(key));
  d.close();
  d.close();
  BOOST_TEST((closed == std::vector<int>{3, 1, 2}));
  BOOST_TEST(as_int(d.get("v")) == 9);
  BOOST_TEST(d.get("1").error().message == "Dependencies container is closed; cannot resolve `1`");
}

BOOST_AUTO_TEST_CASE(a_clone_has_the_bindings_but_nothing_that_was_made) {
  dependencies d;
  int runs = 0;
  BOOST_REQUIRE(
    d.bind_factory("x", [&](dependencies&) -> result<std::any> { return ++runs; }).has_value());
  BOOST_TEST(as_int(d.get("x")) == 1);
  auto copy = d.clone();
  BOOST_TEST(as_int(copy->get("x")) == 2);
  BOOST_TEST(as_int(d.get("x")) == 1);
}
