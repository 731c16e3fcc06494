#include "backends/cgroups.hpp"

#include "support.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <future>

using namespace troupe;
using namespace troupe::backends;

namespace {

boost::test_tools::assertion_result has_cgroups(boost::unit_test::test_unit_id) {
  cgroup_tree tree{test::unique_instance()};
  boost::test_tools::assertion_result out{tree.available()};
  out.message() << tree.reason();
  return out;
}

/// A process that sits in `group`.
spawned sleeper(spawner& s, const cgroup& group) {
  spawn_request r;
  r.argv = {"/bin/sleep", "1000"};
  r.cwd = "/";
  r.cgroup_fd = group.directory()->get();
  std::promise<result<spawned>> started;
  s.submit(std::move(r), [&](result<spawned> x) { started.set_value(std::move(x)); });
  auto out = started.get_future().get();
  BOOST_REQUIRE(out);
  return std::move(*out);
}

int32_t await_exit(spawner& s, const spawned& process) {
  pollfd p{process.pidfd.get(), POLLIN, 0};
  BOOST_REQUIRE(::poll(&p, 1, 60'000) == 1);
  return s.reap(process).value();
}

} // namespace

BOOST_AUTO_TEST_CASE(a_tree_that_is_turned_off_says_so) {
  cgroup_tree tree;
  BOOST_TEST(!tree.available());
  BOOST_TEST(tree.reason() == "turned off");
  BOOST_TEST(!tree.make("a"));
}

BOOST_AUTO_TEST_SUITE(with_cgroups, *boost::unit_test::precondition(has_cgroups))

BOOST_AUTO_TEST_CASE(processes_are_born_counted_and_killed_in_their_group) {
  cgroup_tree tree{test::unique_instance()};
  spawner s;
  auto group = tree.make("a");
  BOOST_REQUIRE(group);
  BOOST_TEST(group->empty());
  auto process = sleeper(s, *group);
  BOOST_TEST(!group->empty());
  BOOST_TEST(group->usage().pids == 1);
  BOOST_TEST(!group->remove());
  group->kill();
  BOOST_TEST(await_exit(s, process) == -9);
  BOOST_TEST(test::eventually([&] { return group->empty() && group->remove(); }));
}

BOOST_AUTO_TEST_CASE(names_that_lead_elsewhere_are_refused) {
  cgroup_tree tree{test::unique_instance()};
  for (auto name : {"", ".", "..", "a/b", "../a"})
    BOOST_TEST(!tree.make(name));
  auto first = tree.make("a");
  BOOST_TEST(first.has_value());
  BOOST_TEST(!tree.make("a"));
}

BOOST_AUTO_TEST_CASE(a_new_tree_sweeps_what_an_earlier_one_of_its_name_left) {
  auto instance = test::unique_instance();
  cgroup_tree crashed{instance};
  spawner s;
  auto group = crashed.make("a");
  BOOST_REQUIRE(group);
  auto process = sleeper(s, *group);
  cgroup_tree next{instance};
  BOOST_TEST(await_exit(s, process) == -9);
  BOOST_TEST(next.make("a").has_value());
}

BOOST_AUTO_TEST_CASE(destroying_waits_for_the_last_process_and_removes_groups_made_below) {
  cgroup_tree tree{test::unique_instance()};
  spawner s;
  reactor events;
  auto group = std::make_shared<cgroup>(tree.make("a").value());
  BOOST_REQUIRE(::mkdirat(group->directory()->get(), "below", 0755) == 0);
  auto process = sleeper(s, *group);
  std::promise<bool> destroyed;
  events.post(
    [&] { destroy(events, group, [&] { destroyed.set_value(!test::is_alive(process.pid)); }); });
  BOOST_TEST(destroyed.get_future().get());
  BOOST_TEST(await_exit(s, process) == -9);
  BOOST_TEST(tree.make("a").has_value()); // the name is free again
}

BOOST_AUTO_TEST_SUITE_END()
