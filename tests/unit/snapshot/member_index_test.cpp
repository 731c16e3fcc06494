#include "snapshot/member_index.hpp"

#include <boost/test/unit_test.hpp>

using troupe::snapshot::member_index;

namespace {

std::string first_descent(const member_index& x) {
  return x.first_descent() ? x.first_descent()->member + " below " + x.first_descent()->parent
                           : "none";
}

} // namespace

BOOST_AUTO_TEST_CASE(only_directories_may_come_twice) {
  member_index x;
  BOOST_TEST(x.add("a/b", "a/b", true));
  BOOST_TEST(x.add("a/b", "a/b", true));
  BOOST_TEST(x.add("a", "a", true));
  BOOST_TEST(!x.add("a/b", "a/b", false));
  BOOST_TEST(x.add("f", "f", false));
  BOOST_TEST(!x.add("f", "f", false));
  BOOST_TEST(!x.add("f", "f", true));
  BOOST_TEST(first_descent(x) == "none");
}

BOOST_AUTO_TEST_CASE(the_first_member_below_a_file_is_found_in_any_order) {
  member_index x;
  x.add("k/l/m", "./k/l/m", false);
  x.add("f", "f", false);
  x.add("f/g", "f/g", false);
  BOOST_TEST(first_descent(x) == "f/g below f");
  x.add("k", "k", false);
  BOOST_TEST(first_descent(x) == "./k/l/m below k");
  x.add("k/l", "k/l", false);
  BOOST_TEST(first_descent(x) == "./k/l/m below k/l");
  x.add("k/l/m/n", "late", false);
  BOOST_TEST(first_descent(x) == "./k/l/m below k/l");
}

BOOST_AUTO_TEST_CASE(the_nearest_file_above_is_named) {
  member_index x;
  x.add("a", "a", false);
  x.add("b/c", "b/c", true);
  x.add("a/b", "a/b", true);
  x.add("a/b/c", "a/b/c", false);
  BOOST_TEST(first_descent(x) == "a/b below a");

  member_index y;
  y.add("a", "a", false);
  y.add("a/b/c/d", "deep", false);
  y.add("a/b", "a/b", false);
  BOOST_TEST(first_descent(y) == "deep below a/b");
}

BOOST_AUTO_TEST_CASE(deep_paths_cost_what_they_are_long) {
  std::string path;
  for (int i = 0; i < 2000; ++i)
    path += "d/";
  member_index x;
  x.add(path + "f", "f", false);
  BOOST_TEST(x.memory() < 300'000u);
}
