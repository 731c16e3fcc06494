#include "backends/unix_local/argv.hpp"

#include <boost/test/unit_test.hpp>

#include <string>
#include <vector>

using namespace troupe::backends;
using troupe::exec_request;
using troupe::shell_mode;
using words = std::vector<std::string>;

namespace {

const std::string root = "/srv/box/workspace";

exec_request request(words command, shell_mode shell = shell_mode::on, words prefix = {}) {
  exec_request out;
  out.command = std::move(command);
  out.shell = shell;
  out.shell_prefix = std::move(prefix);
  return out;
}

void check(const words& actual, const words& expected) {
  BOOST_TEST(actual == expected, boost::test_tools::per_element());
}

} // namespace

BOOST_AUTO_TEST_CASE(one_part_is_a_script_and_several_are_words) {
  check(prepare_argv(request({"echo hi && ls"}), "-c"), {"sh", "-c", "echo hi && ls"});
  check(prepare_argv(request({"echo", "hi && ls"}), "-c"), {"sh", "-c", "echo 'hi && ls'"});
  check(prepare_argv(request({"echo", "it's", ""}), "-lc"), {"sh", "-lc", "echo 'it'\"'\"'s' ''"});
}

BOOST_AUTO_TEST_CASE(without_a_shell_the_parts_are_the_vector) {
  check(prepare_argv(request({"echo", "a;b"}, shell_mode::off), "-c"), {"echo", "a;b"});
  check(prepare_argv(request({"echo", "a;b"}, shell_mode::prefix), "-c"), {"echo", "a;b"});
}

BOOST_AUTO_TEST_CASE(a_prefix_takes_the_joined_command) {
  check(prepare_argv(request({"ls", "~"}, shell_mode::prefix, {"bash", "-lc"}), "-c"),
        {"bash", "-lc", "ls '~'"});
}

BOOST_AUTO_TEST_CASE(a_user_comes_by_sudo) {
  auto x = request({"true"});
  x.user = "bob";
  check(prepare_argv(x, "-lc"), {"sudo", "-u", "bob", "--", "sh", "-lc", "true"});
  x.user = "";
  check(prepare_argv(x, "-lc"), {"sh", "-lc", "true"});
}

BOOST_AUTO_TEST_CASE(sh_c_goes_to_the_root_by_itself) {
  auto x = place_argv({"sh", "-c", "echo \"$1\"", "sh", root + "/a"}, root, root);
  BOOST_TEST(x.cwd == "/");
  check(x.argv, {"sh", "-c", "cd " + root + " && echo \"$1\"", "sh", "a"});
  auto quoted = place_argv({"sh", "-c", "ls"}, "/a b", "/a b");
  check(quoted.argv, {"sh", "-c", "cd '/a b' && ls"});
}

BOOST_AUTO_TEST_CASE(absolute_arguments_below_the_root_become_relative) {
  auto x = place_argv({root + "/tool", root, root + "//a/./b", root + "2/a", "/etc/hosts",
                       "--out=" + root + "/a", "rel"},
                      root, root);
  BOOST_TEST(x.cwd == root);
  check(x.argv,
        {root + "/tool", ".", "a/b", root + "2/a", "/etc/hosts", "--out=" + root + "/a", "rel"});
}

BOOST_AUTO_TEST_CASE(arguments_with_two_leading_slashes_stay) {
  auto x = place_argv({"cat", "/" + root + "/a", "//" + root + "/a"}, root, root);
  check(x.argv, {"cat", "/" + root + "/a", "a"});
}

BOOST_AUTO_TEST_CASE(in_another_directory_arguments_stay_absolute) {
  auto x = place_argv({"cat", root + "/a"}, root, root + "/sub");
  BOOST_TEST(x.cwd == root + "/sub");
  check(x.argv, {"cat", root + "/a"});
}

BOOST_AUTO_TEST_CASE(the_allow_list_knows_names_and_beginnings) {
  words patterns{"PATH", "LC_*"};
  BOOST_TEST(is_allowed("PATH", patterns));
  BOOST_TEST(!is_allowed("PATHS", patterns));
  BOOST_TEST(!is_allowed("PAT", patterns));
  BOOST_TEST(is_allowed("LC_ALL", patterns));
  BOOST_TEST(is_allowed("LC_", patterns));
  BOOST_TEST(!is_allowed("LC", patterns));
  BOOST_TEST(!is_allowed("SECRET", patterns));
}
