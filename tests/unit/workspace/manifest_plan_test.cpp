#include "workspace/manifest_json.hpp"
#include "workspace/manifest_plan.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace data = boost::unit_test::data;

namespace {

manifest make(const std::string& entries, const std::string& rest = "{}") {
  auto x = parse_json(rest).value();
  x["entries"] = parse_json(entries).value();
  return parse_manifest(x).value();
}

/// Directories under these keys, in this order.
manifest folders(const std::vector<std::string>& keys) {
  manifest x;
  for (const auto& key : keys) {
    named_entry folder{key, {}};
    folder.entry.kind = entry_kind::dir;
    x.entries.push_back(std::move(folder));
  }
  return x;
}

/// "a b | c": entries of a step, steps.
std::string shown(const std::vector<plan_step>& plan) {
  std::string out;
  for (const auto& step : plan) {
    out += out.empty() ? "" : " | ";
    for (size_t i = 0; i < step.size(); ++i)
      out.append(i > 0 ? " " : "").append(step[i].destination);
  }
  return out;
}

std::string failure(const result<void>& x) {
  if (x)
    return "ok";
  auto context = parse_json(x.error().context).value();
  auto reason = context.contains("reason") ? " " + context["reason"].get<std::string>() : "";
  return std::string{to_string(x.error().code)} + reason;
}

struct plan_case {
  std::vector<std::string> keys;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const plan_case& x) {
  return out << x.expected;
}

struct check_case {
  std::string manifest;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const check_case& x) {
  return out << x.manifest;
}

} // namespace

BOOST_DATA_TEST_CASE(an_entry_that_touches_a_pending_one_runs_alone_after_it,
                     data::make(std::vector<plan_case>{
                       {{}, ""},
                       {{"b", "a", "c/d"}, "b a c/d"},
                       {{"a", "a/b", "c"}, "a | a/b | c"},
                       {{"a/b", "c", "a", "d"}, "a/b c | a | d"},
                       {{"a", "./a/", "b"}, "a | a | b"},
                       {{"a", "ab", "a-b", "a.b"}, "a ab a-b a.b"},
                       {{"x/y/z", "x-y", "x/y", "x"}, "x/y/z x-y | x/y | x"},
                       {{"a/b", "a/c", "a/b/c", "a/c"}, "a/b a/c | a/b/c | a/c"},
                       {{".", "a"}, ". | a"},
                       {{"a", ".", "b"}, "a | . | b"},
                       {{"a\\b", "a/b/c"}, "a/b | a/b/c"},
                     })) {
  BOOST_TEST(shown(plan_manifest(folders(sample.keys), false)) == sample.expected);
}

BOOST_AUTO_TEST_CASE(a_plan_points_into_the_manifest) {
  auto x = folders({"a"});
  BOOST_TEST(plan_manifest(x, false)[0][0].entry == &x.entries[0].entry);
}

BOOST_AUTO_TEST_CASE(children_are_planned_below_their_directory) {
  auto x = folders({"p", "p/q", "r"});
  entry parent;
  parent.children = x.entries;
  BOOST_TEST(shown(plan_children(parent, "a/b")) == "a/b/p | a/b/p/q | a/b/r");
  BOOST_TEST(shown(plan_children(parent, ".")) == "p | p/q | r");
}

BOOST_AUTO_TEST_CASE(a_resume_puts_back_what_is_ephemeral) {
  auto x = make(R"({
    "keep": {"type": "file", "content": ""},
    "out": {"type": "dir", "ephemeral": true, "children": {"kept_below": {"type": "dir"}}},
    "src": {"type": "dir", "children": {
      "a": {"type": "dir"},
      "deep": {"type": "dir", "children": {"cache": {"type": "dir", "ephemeral": true}}}}},
    "src/deep": {"type": "dir", "ephemeral": true}})");
  BOOST_TEST(shown(plan_manifest(x, true)) == "out src/deep/cache | src/deep");
}

BOOST_AUTO_TEST_CASE(ephemeral_paths_are_found_at_any_depth_and_sorted) {
  auto x = make(R"({
    "z": {"type": "dir", "ephemeral": true, "children": {"y": {"type": "dir", "ephemeral": true}}},
    "./z": {"type": "dir", "ephemeral": true},
    "a": {"type": "dir", "children": {"c/d": {"type": "file", "content": "", "ephemeral": true}}},
    ".": {"type": "dir", "ephemeral": true},
    "b": {"type": "dir"}})");
  BOOST_TEST(ephemeral_paths(x) == (std::vector<std::string>{"a/c/d", "z", "z/y"}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_hundred_thousand_entries_make_one_step) {
  std::vector<std::string> keys;
  for (int i = 0; i < 100'000; ++i)
    keys.push_back("d" + std::to_string(i % 100) + "/f" + std::to_string(i));
  auto x = folders(keys);
  BOOST_TEST(failure(check_manifest(x, false)) == "ok");
  auto plan = plan_manifest(x, false);
  BOOST_REQUIRE(plan.size() == 1u);
  BOOST_TEST(plan[0].size() == keys.size());
}

BOOST_DATA_TEST_CASE(
  manifests_are_checked,
  data::make(std::vector<check_case>{
    {R"({"root": "ws"})", "sandbox_config_invalid"},
    {R"({"root": ""})", "sandbox_config_invalid"},
    {R"({"root": "/srv/ws/"})", "ok"},
    {R"({"users": [{"name": "bob"}]})", "sandbox_config_invalid"},
    {R"({"groups": [{"name": "dev", "users": []}]})", "sandbox_config_invalid"},
    {R"({"extra_path_grants": [{"path": "/data"}]})", "ok"},
    {R"({"extra_path_grants": [{"path": "/data", "host_path": "/srv/data"}]})",
     "sandbox_config_invalid"},
    {R"({"entries": {".": {"type": "dir"}, "..a": {"type": "dir"}, "a": {"type": "dir"}}})", "ok"},
    {R"({"entries": {"../a": {"type": "dir"}}})", "invalid_manifest_path escape_root"},
    {R"({"entries": {"d": {"type": "dir", "children": {"/a": {"type": "dir"}}}}})",
     "invalid_manifest_path absolute"},
    {R"({"entries": {"d": {"type": "dir", "children": {"..": {"type": "dir"}}}}})",
     "invalid_manifest_path escape_root"},
    {R"({"entries": {"a\u0000b": {"type": "dir"}}})", "invalid_manifest_path nul"},
    {R"({"entries": {"a\nb": {"type": "dir"}}})", "invalid_manifest_path newline"},
    {R"({"entries": {"a": {"type": "dir", "permissions": {"group": 8}}}})", "invalid_manifest"},
    {R"({"entries": {"a": {"type": "dir", "permissions": {"owner": -1}}}})", "invalid_manifest"},
    {R"({"entries": {"a": {"type": "dir", "group": {"name": ""}}}})", "invalid_manifest"},
    {R"({"entries": {"a": {"type": "dir", "group": {"name": "-R"}}}})", "invalid_manifest"},
    {R"({"entries": {"a": {"type": "local_dir", "src": "a\u0000"}}})", "invalid_manifest"},
    {R"({"entries": {"a": {"type": "git_repo", "repo": "o\n", "ref": "r"}}})", "invalid_manifest"},
    {R"({"environment": {"value": {"": "x"}}})", "invalid_manifest"},
    {R"({"environment": {"value": {"A=B": "x"}}})", "invalid_manifest"},
    {R"({"environment": {"value": {"A\u0000": "x"}}})", "invalid_manifest"},
    {R"({"environment": {"value": {"A": "\u0000"}}})", "invalid_manifest"},
    {R"({"environment": {"value": {"É": "日\n"}}})", "ok"},
  })) {
  auto x = parse_manifest(parse_json(sample.manifest).value());
  BOOST_TEST(failure(check_manifest(x.value(), false)) == sample.expected);
}

BOOST_AUTO_TEST_CASE(accounts_are_checked_where_they_are_allowed) {
  auto with_user = [](const std::string& name) {
    manifest x;
    x.groups.push_back({"dev", {{name}}});
    return failure(check_manifest(x, true));
  };
  BOOST_TEST(with_user("bob") == "ok");
  BOOST_TEST(with_user("") == "invalid_manifest");
  BOOST_TEST(with_user("-o") == "invalid_manifest");
  BOOST_TEST(with_user("a\nb") == "invalid_manifest");
}

BOOST_AUTO_TEST_CASE(a_path_error_names_the_whole_path) {
  auto x = make(R"({"d": {"type": "dir", "children": {"x/../y": {"type": "dir"}}}})");
  auto e = check_manifest(x, false).error();
  BOOST_TEST(e.message == "manifest path must not escape root: d/x/../y");
  BOOST_TEST(e.context == R"({"rel":"d/x/../y","reason":"escape_root"})");
}

BOOST_AUTO_TEST_CASE(directories_nest_only_so_deep) {
  auto nested = [](size_t depth) {
    auto x = folders({"d"});
    auto* at = &x.entries[0].entry;
    for (size_t i = 1; i < depth; ++i) {
      at->children = folders({"d"}).entries;
      at = &at->children[0].entry;
    }
    return failure(check_manifest(x, false));
  };
  BOOST_TEST(nested(max_entry_depth) == "ok");
  BOOST_TEST(nested(max_entry_depth + 1) == "invalid_manifest_path too_long");
}

BOOST_AUTO_TEST_CASE(paths_that_no_kernel_takes_are_refused) {
  std::string path = "a";
  while (path.size() < 4095)
    path += "/a";
  BOOST_TEST(failure(check_manifest(folders({path}), false)) == "ok");
  BOOST_TEST(failure(check_manifest(folders({path + "a"}), false))
             == "invalid_manifest_path too_long");
}

BOOST_AUTO_TEST_CASE(a_long_key_over_many_children_is_refused_before_it_costs_memory) {
  std::vector<std::string> keys;
  for (int i = 0; i < 100'000; ++i)
    keys.push_back(std::to_string(i));
  auto x = folders({std::string(4000, 'a')});
  x.entries[0].entry.children = folders(keys).entries;
  BOOST_TEST(failure(check_manifest(x, false)) == "invalid_manifest_path too_long");
}
