#include "workspace/archive_limits_json.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace {

std::string read_back(const std::string& text) {
  auto x = parse_archive_limits(parse_json(text).value());
  return x ? dump_json(dump_archive_limits(*x)) : x.error().message;
}

} // namespace

BOOST_AUTO_TEST_CASE(what_is_missing_has_its_default_and_null_is_no_limit) {
  BOOST_TEST(read_back("{}")
             == R"({"max_input_bytes":1073741824,"max_extracted_bytes":4294967296,)"
                R"("max_members":100000})");
  BOOST_TEST(read_back(R"({"max_members": null, "max_extracted_bytes": 1})")
             == R"({"max_input_bytes":1073741824,"max_extracted_bytes":1,"max_members":null})");
  BOOST_TEST(read_back("null")
             == R"({"max_input_bytes":null,"max_extracted_bytes":null,"max_members":null})");
}

BOOST_AUTO_TEST_CASE(what_was_written_reads_back_the_same) {
  for (std::string text : {R"({"max_input_bytes":1,"max_extracted_bytes":2,"max_members":3})",
                           R"({"max_input_bytes":null,"max_extracted_bytes":9223372036854775807,)"
                           R"("max_members":null})"})
    BOOST_TEST(read_back(text) == text);
}

BOOST_AUTO_TEST_CASE(anything_else_is_refused_by_name) {
  BOOST_TEST(read_back(R"({"max_members": 0})") == "archive_limits.max_members must be at least 1");
  BOOST_TEST(read_back(R"({"max_input_bytes": -1})")
             == "archive_limits.max_input_bytes must be at least 1");
  for (std::string wrong : {R"("5")", "1.5", "true", "[]", "{}"})
    BOOST_TEST(read_back("{\"max_members\": " + wrong + '}')
               == "`archive_limits.max_members` must be an integer");
  BOOST_TEST(read_back(R"({"max": 1})") == "unknown field `archive_limits.max`");
  BOOST_TEST(read_back("[]") == "`archive_limits` must be an object");
  BOOST_TEST(!parse_archive_limits(parse_json(R"({"max_members": 9223372036854775808})").value()));
}
