#include "snapshot/tree_writer.hpp"

#include "support.hpp"

#include <boost/test/unit_test.hpp>

#include <sys/xattr.h>

using namespace troupe::snapshot;
using namespace troupe::snapshot::test;

BOOST_AUTO_TEST_SUITE(tree_writer_suite)

BOOST_AUTO_TEST_CASE(only_attributes_that_users_may_have_are_taken_from_a_snapshot) {
  temp_dir dir;
  auto fd = open_dir(dir.path);
  const std::vector<xattr> all{{"security.capability", std::string(20, '\1')},
                               {"trusted.overlay.redirect", "/elsewhere"},
                               {"user.overlay.opaque", "y"},
                               {"user.kept", "v"}};
  tree_writer out{fd.get()};
  BOOST_REQUIRE(!out.add_directory("d", "d", 0755, std::nullopt));
  BOOST_REQUIRE(!out.set_xattrs(all));
  BOOST_REQUIRE(!out.begin_file("d/f", "d/f"));
  BOOST_REQUIRE(!out.set_xattrs(all));
  BOOST_REQUIRE(!out.end_file(0, 0644, std::nullopt));
  BOOST_REQUIRE(!out.finish());
  for (const auto* path : {"d", "d/f"}) {
    char names[256];
    auto n = ::listxattr((dir / path).c_str(), names, sizeof names);
    BOOST_REQUIRE(n >= 0);
    std::string list{names, static_cast<size_t>(n)};
    for (const auto* name : {"security.capability", "trusted.", "user.overlay."})
      BOOST_TEST(list.find(name) == list.npos, path << " has " << name);
    BOOST_TEST((list.find("user.kept") != list.npos), path);
  }
}

BOOST_AUTO_TEST_SUITE_END()
