#include "workspace/path_policy.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace data = boost::unit_test::data;

namespace {

path_policy make_policy(std::string root = "/workspace") {
  path_grant tools{"/opt/x", true, {}, {}};
  path_grant writable{"/opt/./x/w/", false, {}, {}};
  path_grant inside{"/workspace/granted", true, {}, {}};
  return path_policy::make(std::move(root), {tools, writable, inside}).value();
}

std::string outcome(const result<resolved_path>& x) {
  return x ? x->absolute : std::string{to_string(x.error().code)} + x.error().context;
}

std::string refused(std::string_view reason, std::string_view path) {
  return std::string{"invalid_manifest_path{\"rel\":"}.append(json_quote(path)) + ",\"reason\":\""
         + std::string{reason} + "\"}";
}

struct path_case {
  std::string path;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const path_case& x) {
  return out << json_quote(x.path);
}

const path_case read_cases[] = {
  {"a", "/workspace/a"},
  {"./a//b/", "/workspace/a/b"},
  {"a\\b", "/workspace/a/b"},
  {"", "/workspace"},
  {"../workspace/b", "/workspace/b"},
  {"..a/b", "/workspace/..a/b"},
  {" ", "/workspace/ "},
  {"C:", "/workspace/C:"},
  {"1:/x", "/workspace/1:/x"},
  {"///workspace/a", "/workspace/a"},
  {"/x/../workspace/a", "/workspace/a"},
  {"\\workspace\\a", "/workspace/a"},
  {"/workspace/../etc", refused("absolute", "/workspace/../etc")},
  {"/workspace2/a", refused("absolute", "/workspace2/a")},
  {"../opt/x/y", refused("escape_root", "../opt/x/y")},
  {"a/../..", refused("escape_root", "a/../..")},
  {"/opt/x/y", "/opt/x/y"},
  {"/opt/x", "/opt/x"},
  {"/opt/x/../y", refused("absolute", "/opt/x/../y")},
  {"/opt/x-not/f", refused("absolute", "/opt/x-not/f")},
  {"//etc", refused("absolute", "//etc")},
  {"//workspace/a", refused("absolute", "//workspace/a")},
  {"C:\\x", refused("absolute", "C:/x")},
  {"c:/x", refused("absolute", "c:/x")},
  {"\\\\host\\share\\f", refused("absolute", "//host/share/f")},
  {std::string{"a\0b", 3}, refused("nul", std::string{"a\0b", 3})},
};

} // namespace

BOOST_DATA_TEST_CASE(reads_follow_the_lexical_rules, data::make(read_cases)) {
  BOOST_TEST(outcome(make_policy().resolve(sample.path, false)) == sample.expected);
}

BOOST_AUTO_TEST_CASE(a_backslash_is_an_ordinary_character_in_local_paths) {
  auto policy = make_policy();
  BOOST_TEST(outcome(policy.resolve_local("a\\b", false)) == "/workspace/a\\b");
  BOOST_TEST(outcome(policy.resolve_local("..\\b", false)) == "/workspace/..\\b");
  BOOST_TEST(outcome(policy.resolve_local("C:\\b", false)) == refused("absolute", "C:/b"));
}

BOOST_AUTO_TEST_CASE(two_leading_slashes_are_one_in_local_paths) {
  auto policy = make_policy();
  BOOST_TEST(outcome(policy.resolve_local("//workspace/a", false)) == "/workspace/a");
  BOOST_TEST(!policy.resolve_local("//etc", false));
  auto doubled = path_policy::make("//ws", {}).value();
  BOOST_TEST(outcome(doubled.resolve_local("//ws/a", false)) == "//ws/a");
}

BOOST_AUTO_TEST_CASE(a_resolved_path_splits_into_base_and_rest) {
  auto policy = make_policy();
  auto inside = policy.resolve("a/./b", true).value();
  BOOST_TEST(inside.base == "/workspace");
  BOOST_TEST(inside.relative == "a/b");
  BOOST_TEST(inside.grant == -1);
  BOOST_TEST(policy.resolve("/workspace/", true)->relative == ".");
  auto granted = policy.resolve("/opt/x/w/z", true).value();
  BOOST_TEST(granted.base == "/opt/x/w");
  BOOST_TEST(granted.relative == "z");
  BOOST_TEST(granted.grant == 1);
}

BOOST_AUTO_TEST_CASE(the_longest_grant_decides_about_writing) {
  auto policy = make_policy();
  BOOST_TEST(outcome(policy.resolve("/opt/x/w/z", true)) == "/opt/x/w/z");
  auto denied = policy.resolve("/opt/x/y", true);
  BOOST_REQUIRE(!denied);
  BOOST_TEST((denied.error().code == errc::workspace_archive_write_error));
  BOOST_TEST(
    denied.error().context
    == R"({"path":"/opt/x/y","reason":"read_only_extra_path_grant","grant_path":"/opt/x"})");
}

BOOST_AUTO_TEST_CASE(a_path_under_the_root_never_asks_a_grant) {
  BOOST_TEST(outcome(make_policy().resolve("granted/f", true)) == "/workspace/granted/f");
}

BOOST_AUTO_TEST_CASE(the_root_of_the_file_system_may_be_a_workspace) {
  auto policy = path_policy::make("/", {}).value();
  BOOST_TEST(outcome(policy.resolve("a.txt", false)) == "/a.txt");
  BOOST_TEST(policy.resolve("/a/b", false)->relative == "a/b");
  BOOST_TEST(outcome(policy.resolve("//a", false)) == refused("absolute", "//a"));
}

BOOST_AUTO_TEST_CASE(roots_and_grants_must_be_absolute) {
  for (std::string root : {"", "ws", "./ws", "C:/ws"})
    BOOST_TEST((path_policy::make(root, {}).error().code == errc::sandbox_config_invalid));
  for (std::string path : {"", "data", "/", "//", "/a/..", "C:\\data"})
    BOOST_TEST((path_policy::make("/ws", {path_grant{path, false, {}, {}}}).error().code
                == errc::sandbox_config_invalid));
  BOOST_TEST(path_policy::make("/srv/./x/../ws", {})->root() == "/srv/ws");
}

BOOST_AUTO_TEST_CASE(absolute_paths_normalise_as_posix_says) {
  BOOST_TEST(normalize_absolute("/a/../../b/./c//") == "/b/c");
  BOOST_TEST(normalize_absolute("/..") == "/");
  BOOST_TEST(normalize_absolute("//a/..") == "//");
  BOOST_TEST(normalize_absolute("///a") == "/a");
}

BOOST_AUTO_TEST_CASE(clean_paths_keep_parents) {
  BOOST_TEST(clean_path("") == ".");
  BOOST_TEST(clean_path("./a//../b/.") == "a/../b");
  BOOST_TEST(clean_path("//h//s/") == "//h/s");
  BOOST_TEST(join_path(".", "a") == "a");
  BOOST_TEST(join_path("a", ".") == "a");
  BOOST_TEST(join_path("a", "b/c") == "a/b/c");
}

BOOST_AUTO_TEST_CASE(entry_keys_normalise) {
  BOOST_TEST(normalize_entry_path("a\\b//c/.").value() == "a/b/c");
  BOOST_TEST(normalize_entry_path("").value() == ".");
  BOOST_TEST(normalize_entry_path("...").value() == "...");
  BOOST_TEST(normalize_entry_path("C:x").value() == "C:x");
}

BOOST_DATA_TEST_CASE(entry_keys_that_leave_the_root_are_refused,
                     data::make(std::vector<path_case>{
                       {"/a", refused("absolute", "/a")},
                       {"\\\\host\\share\\x", refused("absolute", "//host/share/x")},
                       {"C:\\x", refused("absolute", "C:/x")},
                       {"./C:/x", refused("absolute", "C:/x")},
                       {"C:/", refused("absolute", "C:")},
                       {"..", refused("escape_root", "..")},
                       {"a/../b", refused("escape_root", "a/../b")},
                       {"..\\b", refused("escape_root", "../b")},
                     })) {
  auto x = normalize_entry_path(sample.path);
  BOOST_REQUIRE(!x);
  BOOST_TEST(std::string{to_string(x.error().code)} + x.error().context == sample.expected);
}

BOOST_AUTO_TEST_CASE(a_skip_path_must_be_concrete) {
  BOOST_TEST(normalize_skip_path("./cache\\x/").value() == "cache/x");
  BOOST_TEST((normalize_skip_path("./").error().code == errc::invalid_request));
  BOOST_TEST((normalize_skip_path("/a").error().code == errc::invalid_manifest_path));
  BOOST_TEST((normalize_skip_path("a/../..").error().code == errc::invalid_manifest_path));
}

BOOST_AUTO_TEST_CASE(skip_paths_cover_whole_components_only) {
  const std::vector<std::string> skip = {"a/b", "data", "data-x", "z"};
  BOOST_TEST(covered_by("data", skip));
  BOOST_TEST(covered_by("data/deep/er", skip));
  BOOST_TEST(covered_by("a/b/c", skip));
  BOOST_TEST(!covered_by("a", skip));
  BOOST_TEST(!covered_by("a/bc", skip));
  BOOST_TEST(!covered_by("database", skip));
  BOOST_TEST(!covered_by("src/data", skip));
  BOOST_TEST(!covered_by("data", {}));
}

BOOST_AUTO_TEST_CASE(words_are_quoted_for_a_shell) {
  BOOST_TEST(shell_quote("") == "''");
  BOOST_TEST(shell_quote("a_Z9@%+=:,./-") == "a_Z9@%+=:,./-");
  BOOST_TEST(shell_quote("a b") == "'a b'");
  BOOST_TEST(shell_quote("it's") == "'it'\"'\"'s'");
  BOOST_TEST(shell_quote("~") == "'~'");
  BOOST_TEST(shell_quote("\xC3\xA9") == "'\xC3\xA9'");
}

BOOST_AUTO_TEST_CASE(the_folder_of_a_run_is_relative_and_plain) {
  BOOST_TEST(run_folder("src/./lib/").value() == "src/lib");
  for (const char* cwd : {"", "  ", "/workspace/src", "../x", "src/..", "src\\lib"}) {
    auto refused = run_folder(cwd);
    BOOST_REQUIRE(!refused);
    BOOST_TEST((refused.error().code == errc::invalid_request));
  }
}

BOOST_AUTO_TEST_CASE(the_folder_of_a_run_anchors_relative_paths) {
  BOOST_TEST(anchored_path("", "../a") == "../a");
  BOOST_TEST(anchored_path("src", "./x/../y") == "src/x/../y");
  BOOST_TEST(anchored_path("src", ".") == "src");
  for (const char* absolute : {"/workspace/a", "C:/a"})
    BOOST_TEST(anchored_path("src", absolute) == absolute);
}

BOOST_AUTO_TEST_CASE(paths_are_shown_from_the_folder_of_a_run) {
  BOOST_TEST(shown_path("", "src/a") == "src/a");
  BOOST_TEST(shown_path("src", "src/a") == "a");
  BOOST_TEST(shown_path("src/lib", "src/a") == "../a");
  BOOST_TEST(shown_path("src/lib", "src") == "..");
  BOOST_TEST(shown_path("src/lib", "src/lib") == ".");
  BOOST_TEST(shown_path("src/lib", ".") == "../..");
}
