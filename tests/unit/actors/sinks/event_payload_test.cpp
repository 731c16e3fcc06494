#include "actors/sinks/event_payload.hpp"
#include "support.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

event_policy full_policy() {
  return event_policies{}.effective(op::exec, {});
}

std::string shown(std::string_view out, uint32_t max) {
  auto policy = full_policy();
  policy.include_exec_output = true;
  policy.max_stdout_chars = max;
  return make_payload(exec_event(std::string{out}, ""), policy).stdout_text.value();
}

} // namespace

BOOST_AUTO_TEST_SUITE(event_payload_of_a_sink)

BOOST_AUTO_TEST_CASE(a_line_has_sorted_keys_no_blanks_and_only_ascii) {
  auto x = make_event(op::exec, event_phase::finish, 6,
                      R"({"user":null,"command":["echo ü"],"timeout_s":1.5,"exit_code":7})");
  x.ok = false;
  x.duration_us = 3520;
  BOOST_TEST(event_line(make_payload(x, full_policy()))
             == R"({"data":{"command":["echo \u00fc"],"exit_code":7,"timeout_s":1.5,"user":null},)"
                R"("duration_ms":3.52,"error_code":null,"error_message":null,)"
                R"("error_retryable":null,"error_type":null,)"
                R"("event_id":"5184b7ec-5952-4969-a894-2501f54bf199","ok":false,"op":"exec",)"
                R"("parent_span_id":null,"phase":"finish","seq":6,)"
                R"("session_id":"df3a6506-1343-46e5-a1bf-95f72fe36fa4",)"
                R"("span_id":"sandbox_op_8355c77ac7f94e3998b2369b2d6bef07","stderr":null,)"
                R"("stdout":null,"trace_id":null,"ts":"2026-11-22T19:02:02.394557Z","version":1})"
                "\n");
}

BOOST_AUTO_TEST_CASE(a_start_has_no_members_of_a_finish) {
  auto line = event_line(make_payload(make_event(op::start, event_phase::start), full_policy()));
  auto value = nlohmann::json::parse(line);
  BOOST_TEST(!value.contains("ok"));
  BOOST_TEST(!value.contains("stdout"));
}

BOOST_AUTO_TEST_CASE(output_is_shown_only_where_the_policy_says_so) {
  auto x = exec_event("out", "err");
  auto hidden = nlohmann::json::parse(event_line(make_payload(x, full_policy())));
  BOOST_TEST(hidden["stdout"].is_null());
  auto policy = full_policy();
  policy.include_exec_output = true;
  auto payload = make_payload(x, policy);
  auto seen = nlohmann::json::parse(event_line(payload));
  BOOST_TEST(seen["stdout"] == "out");
  BOOST_TEST(seen["stderr"] == "err");
  BOOST_TEST(!payload.what.output);
}

BOOST_AUTO_TEST_CASE(an_event_without_output_has_none_to_show) {
  auto policy = full_policy();
  policy.include_exec_output = true;
  auto payload = make_payload(make_event(op::read, event_phase::finish), policy);
  BOOST_TEST(!payload.stdout_text.has_value());
}

BOOST_AUTO_TEST_CASE(long_output_is_cut_after_whole_characters) {
  BOOST_TEST(shown("abc", 3) == "abc");
  BOOST_TEST(shown("abcd", 3) == "abc…");
  BOOST_TEST(shown("äöü😀", 4) == "äöü😀");
  BOOST_TEST(shown("😀😀😀😀😀", 2) == "😀😀…");
  BOOST_TEST(shown("x", 0) == "…");
  BOOST_TEST(shown("", 0) == "");
  // No more is decoded than needed, and what is cut off there does not show.
  BOOST_TEST(shown("a" + std::string(1000, '\xf0'), 1) == "a…");
}

BOOST_AUTO_TEST_CASE(output_that_is_not_utf8_is_replaced) {
  BOOST_TEST(shown("a\xff"
                   "b",
                   8)
             == "a\xEF\xBF\xBD"
                "b");
}

BOOST_AUTO_TEST_CASE(the_length_of_a_write_can_be_left_out) {
  auto policy = full_policy();
  auto x = make_event(op::write, event_phase::start, 1, R"({"path":"a","bytes":5})");
  BOOST_TEST(make_payload(x, policy).what.data == R"({"path":"a","bytes":5})");
  policy.include_write_len = false;
  BOOST_TEST(make_payload(x, policy).what.data == R"({"path":"a"})");
}

BOOST_AUTO_TEST_SUITE_END()
