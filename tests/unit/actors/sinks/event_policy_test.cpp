#include "support.hpp"

using namespace troupe;
using namespace troupe::test;

BOOST_AUTO_TEST_SUITE(event_policy_of_a_sink)

BOOST_AUTO_TEST_CASE(the_defaults_show_lengths_and_no_output) {
  auto policy = event_policies{}.effective(op::exec, {});
  BOOST_TEST(*policy.include_exec_output == false);
  BOOST_TEST(*policy.max_stdout_chars == 8000u);
  BOOST_TEST(*policy.max_stderr_chars == 8000u);
  BOOST_TEST(*policy.include_write_len == true);
  BOOST_TEST(*policy.redact_paths == false);
}

BOOST_AUTO_TEST_CASE(narrower_policies_override_only_what_they_set) {
  event_policies policies;
  policies.all.include_exec_output = true;
  policies.all.max_stdout_chars = 10;
  policies.by_op[op::exec].max_stdout_chars = 20;
  policies.by_op[op::exec].max_stderr_chars = 30;
  event_policy own;
  own.max_stderr_chars = 40;
  auto exec = policies.effective(op::exec, own);
  BOOST_TEST(*exec.include_exec_output == true);
  BOOST_TEST(*exec.max_stdout_chars == 20u);
  BOOST_TEST(*exec.max_stderr_chars == 40u);
  auto read = policies.effective(op::read, own);
  BOOST_TEST(*read.max_stdout_chars == 10u);
}

BOOST_AUTO_TEST_SUITE_END()
