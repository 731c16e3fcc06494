#include "gateway/http/answers.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::gateway;

BOOST_AUTO_TEST_CASE(every_code_has_a_status_that_is_an_error) {
  for (int i = 0; i <= static_cast<int>(errc::internal); ++i) {
    auto status = http_status(static_cast<errc>(i));
    BOOST_TEST((status >= 400 && status < 600), to_string(static_cast<errc>(i)));
  }
}

BOOST_AUTO_TEST_CASE(codes_have_the_statuses_of_the_api) {
  const std::pair<errc, int> expected[] = {
    {errc::invalid_request, 400},
    {errc::invalid_manifest_path, 400},
    {errc::unauthenticated, 401},
    {errc::workspace_read_not_found, 404},
    {errc::conflict, 409},
    {errc::session_failed, 409},
    {errc::payload_too_large, 413},
    {errc::git_clone_error, 422},
    {errc::quota_exceeded, 429},
    {errc::cancelled, 499},
    {errc::exec_transport_error, 500},
    {errc::not_implemented, 501},
    {errc::interrupted, 503},
    {errc::exec_timeout, 504},
    {errc::no_space, 507},
    {errc::network_denied, 403},
    {errc::call_denied, 403},
  };
  for (auto [code, status] : expected)
    BOOST_TEST(http_status(code) == status, to_string(code));
}

BOOST_AUTO_TEST_CASE(an_error_answer_is_the_error_with_the_request_id) {
  auto x = error_response(
    make_error(errc::conflict, op::exec, "it is stopped").with("status", "stopped"), "r1");
  BOOST_TEST(x.status == 409);
  BOOST_TEST(x.headers.get("content-type").value() == "application/json");
  BOOST_TEST(
    x.body
    == R"({"error":{"code":"conflict","message":"it is stopped","op":"exec","retryable":false,)"
       R"("context":{"status":"stopped"},"request_id":"r1"}})");
}

BOOST_AUTO_TEST_CASE(answers_say_when_to_come_back_where_waiting_helps) {
  auto retry_after = [](errc code) {
    return error_response(make_error(code, op::request, ""), "").headers.get("retry-after");
  };
  for (auto code : {errc::overloaded, errc::quota_exceeded, errc::session_restarting})
    BOOST_TEST(retry_after(code).has_value(), to_string(code));
  for (auto code : {errc::internal, errc::conflict, errc::no_space})
    BOOST_TEST(!retry_after(code).has_value(), to_string(code));
}
