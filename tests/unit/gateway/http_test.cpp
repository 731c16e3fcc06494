#include "gateway/http/http.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe::gateway;

namespace {

bool accepts(const char* field, const char* mime) {
  request_head head;
  head.headers.add("ACCEPT", field);
  return head.accepts(mime);
}

} // namespace

BOOST_AUTO_TEST_CASE(fields_are_found_without_regard_to_case) {
  header_list x;
  x.add("Content-Type", "a");
  x.add("content-TYPE", "b");
  BOOST_TEST(x.get("CONTENT-type").value() == "a");
  BOOST_TEST(x.count("content-type") == 2);
  BOOST_TEST(!x.get("content-typ"));
  BOOST_TEST(!x.get("content-types"));
}

BOOST_AUTO_TEST_CASE(accept_counts_only_types_that_are_named) {
  BOOST_TEST(accepts("text/event-stream", "text/event-stream"));
  BOOST_TEST(accepts("application/json, Text/Event-Stream;q=0.5", "text/event-stream"));
  BOOST_TEST(!accepts("*/*", "text/event-stream"));
  BOOST_TEST(!accepts("text/*", "text/event-stream"));
  BOOST_TEST(!accepts("text/event-stream-2", "text/event-stream"));
  BOOST_TEST(!accepts("", "text/event-stream"));
  BOOST_TEST(!request_head{}.accepts("text/event-stream"));
}

BOOST_AUTO_TEST_CASE(accept_honours_a_quality_of_zero) {
  BOOST_TEST(!accepts("text/event-stream; q=0", "text/event-stream"));
  BOOST_TEST(!accepts("text/event-stream;charset=x ;Q=0.000", "text/event-stream"));
  BOOST_TEST(accepts("text/event-stream;q=0.001", "text/event-stream"));
}

BOOST_AUTO_TEST_CASE(a_parameter_that_the_route_does_not_have_is_empty) {
  request_head head;
  head.params = {{"id", "7"}};
  BOOST_TEST(head.param("id") == "7");
  BOOST_TEST(head.param("other") == "");
}
