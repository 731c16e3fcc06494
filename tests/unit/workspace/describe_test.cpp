#include "workspace/manifest_json.hpp"
#include "workspace/manifest_plan.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>

using namespace troupe;
using namespace troupe::workspace;

namespace {

std::string shown(const std::string& entries, std::optional<int> depth,
                  const std::string& root = "/workspace") {
  json x{{"root", root}, {"entries", parse_json(entries).value()}};
  return describe(parse_manifest(x).value(), depth).value();
}

auto characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

/// A file that is described with so many characters.
std::string file_with_description(const std::string& text) {
  return dump_json(json{{"a", {{"type", "file"}, {"content", "x"}, {"description", text}}}});
}

} // namespace

BOOST_AUTO_TEST_CASE(a_tree_is_drawn_with_aligned_comments) {
  BOOST_TEST(shown(R"({
      "notes.txt": {"type": "file", "content": ""},
      "data/config.json": {"type": "file", "content": "", "description": "config"},
      "zdir": {"type": "dir", "description": "z", "children": {
        "b": {"type": "dir"}, "a.txt": {"type": "local_file", "src": "x"}}}})",
                   2)
             == "/workspace\n"
                "├── data/            # /workspace/data\n"
                "│   └── config.json  # /workspace/data/config.json — config\n"
                "├── notes.txt        # /workspace/notes.txt\n"
                "└── zdir/            # /workspace/zdir — z\n"
                "    ├── a.txt        # /workspace/zdir/a.txt\n"
                "    └── b/           # /workspace/zdir/b\n");
}

BOOST_AUTO_TEST_CASE(what_is_below_the_depth_only_marks_a_directory) {
  const std::string entries = R"({"d": {"type": "dir", "children": {"e": {"type": "dir", "children":
    {"f": {"type": "file", "content": ""}}}}}, "x/y": {"type": "file", "content": "",
    "description": "y"}})";
  BOOST_TEST(shown(entries, 1) == "/workspace\n├── d/  # /workspace/d\n└── x/  # /workspace/x\n");
  BOOST_TEST(shown(entries, std::nullopt)
             == "/workspace\n"
                "├── d/         # /workspace/d\n"
                "│   └── e/     # /workspace/d/e\n"
                "│       └── f  # /workspace/d/e/f\n"
                "└── x/         # /workspace/x\n"
                "    └── y      # /workspace/x/y — y\n");
}

BOOST_AUTO_TEST_CASE(entries_of_one_path_share_a_node_and_the_first_description) {
  BOOST_TEST(shown(R"({"a/y": {"type": "file", "content": ""},
                       "a": {"type": "file", "content": "", "description": "A"},
                       "./a/": {"type": "dir", "description": "B"}})",
                   1)
             == "/workspace\n└── a/  # /workspace/a — A\n");
}

BOOST_AUTO_TEST_CASE(names_are_sorted_by_code_point_and_aligned_by_it) {
  BOOST_TEST(shown(
               R"({"é": {"type": "dir"}, "日本語": {"type": "dir"}, "b": {"type": "dir"},
             "C": {"type": "dir"}})",
               1)
             == "/workspace\n"
                "├── C/    # /workspace/C\n"
                "├── b/    # /workspace/b\n"
                "├── é/    # /workspace/é\n"
                "└── 日本語/  # /workspace/日本語\n");
}

BOOST_AUTO_TEST_CASE(the_root_loses_its_trailing_slashes) {
  BOOST_TEST(shown("{}", 1, "/srv/ws//") == "/srv/ws\n");
  BOOST_TEST(shown(R"({"a": {"type": "dir"}})", 1, "/") == "/\n└── a/  # /a\n");
}

BOOST_AUTO_TEST_CASE(a_text_of_just_the_limit_is_whole) {
  const auto frame = characters(shown(file_with_description("."), 1)) - 1;
  const std::string fits(static_cast<size_t>(5000 - frame), 'd');
  BOOST_TEST(characters(shown(file_with_description(fits), 1)) == 5000);
  BOOST_TEST(shown(file_with_description(fits), 1).ends_with("d\n"));
  BOOST_TEST(shown(file_with_description(fits + "d"), 1).find("(truncated 146 chars)")
             != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_long_text_is_cut_by_characters_and_says_how_much_is_missing) {
  std::string text;
  for (int i = 0; i < 6000; ++i)
    text += "é";
  auto out = shown(file_with_description(text), 1);
  BOOST_TEST(characters(out) == 5000);
  // 11 + 24 + 6000 + 1 characters; the marker and the hint take 146.
  BOOST_TEST(out.find("\n... (truncated 1182 chars)\n\nThe filesystem layout above was truncated.")
             != std::string::npos);
  BOOST_TEST(out.ends_with("before relying on omitted paths.\n"));
}

BOOST_AUTO_TEST_CASE(blanks_before_the_cut_are_trimmed) {
  auto out = shown(file_with_description(std::string(6000, ' ')), 1);
  BOOST_TEST(out.starts_with("/workspace\n└── a  # /workspace/a —\n... (truncated 1182 chars)"));
}

BOOST_AUTO_TEST_CASE(the_missing_characters_are_counted_over_the_whole_tree) {
  json entries;
  std::string whole = "/workspace\n";
  for (int i = 1000; i < 2000; ++i) {
    auto name = "f" + std::to_string(i);
    entries[name] = {{"type", "file"}, {"content", ""}};
    whole += (i < 1999 ? "├── " : "└── ") + name + "  # /workspace/" + name + "\n";
  }
  auto out = shown(dump_json(entries), std::nullopt);
  BOOST_TEST(characters(out) <= 5000);
  auto at = out.find("\n... (truncated ");
  BOOST_REQUIRE(at != std::string::npos);
  BOOST_TEST(whole.starts_with(out.substr(0, at)));
  const auto missing = std::stol(out.substr(at + 16));
  BOOST_TEST(missing == characters(whole) - (5000 - characters(out.substr(at))));
}

BOOST_AUTO_TEST_CASE(a_depth_below_one_is_refused) {
  for (int depth : {0, -1})
    BOOST_TEST((describe(manifest{}, depth).error().code == errc::invalid_request));
}

BOOST_AUTO_TEST_CASE(paths_that_leave_the_root_are_refused) {
  manifest x;
  x.entries.push_back({"../a", {}});
  BOOST_TEST((describe(x, 1).error().code == errc::invalid_manifest_path));
}
