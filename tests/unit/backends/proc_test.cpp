#include "backends/proc.hpp"

#include "backends/process_tree.hpp"

#include <boost/test/unit_test.hpp>

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <string>

using namespace troupe::backends;

BOOST_AUTO_TEST_CASE(a_process_is_read_whatever_its_name_holds) {
  ::prctl(PR_SET_NAME, "a) Z 1 (", 0, 0, 0);
  auto self = read_process(::getpid());
  BOOST_REQUIRE(self);
  BOOST_TEST(self->parent == ::getppid());
  BOOST_TEST(self->session == ::getsid(0));
  BOOST_TEST(!self->dead);
}

BOOST_AUTO_TEST_CASE(a_process_that_is_not_there_is_not_read) {
  BOOST_TEST(!read_process(0).has_value());
  BOOST_TEST(!started_with(0, "A=1"));
}

BOOST_AUTO_TEST_CASE(all_processes_include_this_one) {
  auto all = all_processes();
  BOOST_TEST(
    std::count_if(all.begin(), all.end(), [](const process_info& x) { return x.pid == ::getpid(); })
    == 1);
}

BOOST_AUTO_TEST_CASE(only_whole_environment_entries_count) {
  auto path = std::string{"PATH="} + ::getenv("PATH");
  BOOST_TEST(started_with(::getpid(), path));
  BOOST_TEST(!started_with(::getpid(), path.substr(0, path.size() - 1)));
  BOOST_TEST(!started_with(::getpid(), path.substr(1)));
}

BOOST_AUTO_TEST_CASE(a_session_id_belongs_to_who_made_it_last) {
  session_ledger ledger;
  ledger.started(100, "a");
  ledger.started(101, "a");
  ledger.started(101, "b");
  BOOST_TEST(ledger.sessions_of("a") == std::vector<pid_t>{100}, boost::test_tools::per_element());
  BOOST_TEST(ledger.sessions_of("b") == std::vector<pid_t>{101}, boost::test_tools::per_element());
  ledger.forget("b");
  BOOST_TEST(ledger.sessions_of("b").empty());
}
