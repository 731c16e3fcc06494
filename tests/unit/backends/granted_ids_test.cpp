#define BOOST_TEST_MODULE granted_ids
#include "backends/granted_ids.hpp"

#include <boost/test/unit_test.hpp>

#include <string>

using namespace troupe::backends;

namespace {

std::optional<id_range> find(const std::string& text) {
  return find_id_range(text, "alice", 1000, 65'536);
}

} // namespace

BOOST_AUTO_TEST_CASE(a_range_is_found_by_the_name_or_the_number_of_its_user) {
  const std::string text = "bob:100000:65536\nalice:165536:65536\n1001:300000:65536\n";
  BOOST_TEST((find(text) == id_range{165'536, 65'536}));
  BOOST_TEST((find("1000:231072:131072") == id_range{231'072, 131'072}));
  BOOST_TEST((find_id_range(text, "", 1001, 65'536) == id_range{300'000, 65'536}));
  BOOST_TEST(!find("bob:100000:65536\n"));
  BOOST_TEST(!find(""));
}

BOOST_AUTO_TEST_CASE(the_first_that_is_large_enough_is_taken) {
  BOOST_TEST((find("alice:100000:65535\nalice:300000:65536\nalice:400000:655360\n")
              == id_range{300'000, 65'536}));
}

BOOST_AUTO_TEST_CASE(lines_that_are_none_grant_nothing) {
  for (auto text : {"alice", "alice:", "alice:1", "alice:x:65536", "alice:100000:65536x",
                    "alice:-1:65536", "alice:100000:99999999999", ":100000:65536", "alice:0:65536",
                    "alice:4294900000:67295", "alice:100000:65536:7", "# alice:100000:65536"})
    BOOST_TEST(!find(text), text);
  BOOST_TEST(!find_id_range(":100000:65536", "", 1000, 65'536));
}
