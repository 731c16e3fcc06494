#include "gateway/http/query.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe::gateway;
using strings = std::vector<std::string>;

BOOST_AUTO_TEST_CASE(percent_decoding_resolves_escapes_in_both_cases) {
  BOOST_TEST(percent_decode("a%2Fb%2f%41").value() == "a/b/A");
  BOOST_TEST(percent_decode("%c3%A4").value() == "\xC3\xA4");
  BOOST_TEST(percent_decode("%61").value() == "a");
}

BOOST_AUTO_TEST_CASE(percent_decoding_refuses_broken_escapes_and_nul) {
  for (auto text : {"%", "%4", "a%", "%4g", "%g4", "%%41", "%00", "a%00b", "%-1"})
    BOOST_TEST(!percent_decode(text), text);
  BOOST_TEST(!percent_decode(std::string_view("a\0b", 3)));
}

BOOST_AUTO_TEST_CASE(plus_is_a_space_only_in_queries) {
  BOOST_TEST(percent_decode("a+b").value() == "a+b");
  BOOST_TEST(query_params::parse("k+1=a+b%2B")->get("k 1").value() == "a b+");
  BOOST_TEST(split_path("/a+b")->at(0) == "a+b");
}

BOOST_AUTO_TEST_CASE(a_query_keeps_order_repeats_and_empty_values) {
  auto q = query_params::parse("label=a:1&&flag&label=b%3D2=x&empty=").value();
  BOOST_TEST(q.items().size() == 4);
  BOOST_TEST(q.get("label").value() == "a:1");
  BOOST_TEST((q.all("label") == std::vector<std::string_view>{"a:1", "b=2=x"}));
  BOOST_TEST(q.get("flag").value() == "");
  BOOST_TEST(q.get("empty").value() == "");
  BOOST_TEST(!q.get("other"));
  BOOST_TEST(query_params::parse("")->items().empty());
}

BOOST_AUTO_TEST_CASE(a_malformed_query_is_an_invalid_request) {
  for (auto text : {"a=%", "%zz=1", "path=a%00b"})
    BOOST_TEST((query_params::parse(text).error().code == troupe::errc::invalid_request), text);
}

BOOST_AUTO_TEST_CASE(a_path_is_split_before_it_is_decoded) {
  BOOST_TEST((split_path("/").value() == strings{}));
  BOOST_TEST((split_path("/a/b").value() == strings{"a", "b"}));
  BOOST_TEST((split_path("/a/").value() == strings{"a", ""}));
  BOOST_TEST((split_path("//a").value() == strings{"", "a"}));
  BOOST_TEST((split_path("/a%2Fb/%2E%2e").value() == strings{"a/b", ".."}));
  BOOST_TEST((split_path("/a%00").error().code == troupe::errc::invalid_request));
}
