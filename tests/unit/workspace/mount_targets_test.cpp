#include "workspace/manifest_json.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/materialize.hpp"
#include "workspace/mount_targets.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace data = boost::unit_test::data;

namespace {

named_entry mount_at(const std::string& key, std::optional<std::string> mount_path = std::nullopt) {
  named_entry x{key, {}};
  x.entry.kind = entry_kind::dir;
  x.entry.permissions.directory = true;
  x.entry.mount.emplace_back();
  x.entry.mount[0].mount_path = std::move(mount_path);
  return x;
}

named_entry folder(const std::string& key, std::vector<named_entry> children) {
  named_entry x{key, {}};
  x.entry.kind = entry_kind::dir;
  x.entry.permissions.directory = true;
  x.entry.children = std::move(children);
  return x;
}

std::string failure(const error& x) {
  auto context = parse_json(x.context).value();
  auto reason = context.contains("reason") ? " " + context["reason"].get<std::string>() : "";
  return std::string{to_string(x.code)} + reason;
}

/// "path[=inside] ..." or the error.
std::string shown(const manifest& x) {
  auto targets = mount_targets(x);
  if (!targets)
    return failure(targets.error());
  std::string out;
  for (const auto& y : *targets)
    out.append(out.empty() ? "" : " ")
      .append(y.path)
      .append(y.inside.empty() ? "" : "=" + y.inside);
  return out;
}

struct target_case {
  std::string root;
  std::optional<std::string> mount_path;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const target_case& x) {
  return out << x.root << " " << x.mount_path.value_or("-");
}

struct skip_case {
  std::string path;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const skip_case& x) {
  return out << x.path;
}

} // namespace

BOOST_DATA_TEST_CASE(a_mount_goes_to_its_path_or_to_its_entry,
                     data::make(std::vector<target_case>{
                       {"/workspace", std::nullopt, "/workspace/d/m=d/m"},
                       {"/workspace/", "data", "/workspace/data=data"},
                       {"/workspace", "a//./b/../c/", "/workspace/a/c=a/c"},
                       {"/workspace", "", "/workspace=."},
                       {"/workspace", "/workspace/x", "/workspace/x=x"},
                       {"/workspace", "/workspacex", "/workspacex"},
                       {"/workspace", "/mnt//data/", "/mnt/data"},
                       {"/workspace", "/mnt/../data", "/mnt/../data"},
                       {"/workspace", "/mnt/../workspace/x", "/workspace/x=x"},
                       {"/", "m", "/m=m"},
                       {"/a/../b", "m", "/b/m=m"},
                       {"/workspace", "..", "invalid_manifest_path escape_root"},
                       {"/workspace", "a/../../b", "invalid_manifest_path escape_root"},
                       {"/workspace", "../workspace/b", "invalid_manifest_path escape_root"},
                       {"/workspace", "/workspace/../etc", "invalid_manifest_path escape_root"},
                       {"/workspace", "C:\\data", "invalid_manifest_path absolute"},
                       {"/workspace", "C:/data", "invalid_manifest_path absolute"},
                       {"/workspace", "\\\\host\\share", "invalid_manifest_path absolute"},
                       {"/workspace", "a\nb", "invalid_manifest_path newline"},
                       {"/workspace", std::string{"a\0b", 3}, "invalid_manifest_path nul"},
                       {"/workspace", std::string(5000, 'a'), "invalid_manifest_path too_long"},
                     })) {
  manifest x;
  x.root = sample.root;
  auto key = sample.mount_path ? "m" : "m/";
  x.entries = {folder("d", {mount_at(key, sample.mount_path)})};
  BOOST_TEST(shown(x) == sample.expected);
  auto checked = check_manifest(x, false);
  BOOST_TEST(checked.has_value() == mount_targets(x).has_value());
}

BOOST_AUTO_TEST_CASE(the_deepest_mounts_come_first_and_equals_keep_their_order) {
  manifest x;
  x.entries = {mount_at("a"), mount_at("b/c"), folder("d", {mount_at("e")}),
               mount_at("f", "/x/y/z"), mount_at("g", "/h")};
  BOOST_TEST(shown(x) == "/workspace/b/c=b/c /workspace/d/e=d/e /x/y/z /workspace/a=a /h");
}

BOOST_AUTO_TEST_CASE(a_long_root_under_many_mounts_costs_no_more_than_one) {
  manifest x;
  x.root = "/" + std::string(size_t{1} << 20, 'r');
  for (int i = 0; i < 10'000; ++i)
    x.entries.push_back(mount_at(std::to_string(i)));
  BOOST_TEST(shown(x) == "invalid_manifest_path too_long");
}

BOOST_AUTO_TEST_CASE(a_mount_counts_as_ephemeral_whatever_the_manifest_says) {
  manifest x;
  x.entries = {mount_at("m", "data/x"), folder("d", {mount_at("n", "/mnt/n")}), mount_at("o", ".")};
  for (auto& entry : x.entries)
    entry.entry.ephemeral = false;
  BOOST_TEST(ephemeral_paths(x) == (std::vector<std::string>{"d/n", "data/x", "m", "o"}),
             boost::test_tools::per_element());
  auto plan = plan_manifest(x, true);
  BOOST_REQUIRE(plan.size() == 3u);
  BOOST_TEST(plan[1][0].destination == "d/n");
}

BOOST_AUTO_TEST_CASE(a_mount_runs_alone) {
  manifest x;
  x.entries = {folder("a", {}), mount_at("b"), folder("c", {}), folder("d", {})};
  auto plan = plan_manifest(x, false);
  BOOST_REQUIRE(plan.size() == 3u);
  BOOST_TEST(plan[1].size() == 1u);
  BOOST_TEST(plan[1][0].destination == "b");
  BOOST_TEST(plan[2].size() == 2u);
}

BOOST_AUTO_TEST_CASE(no_empty_directory_stands_in_for_a_mount) {
  auto x = mount_at("m");
  auto made = make_entry_directory(-1, "m", x.entry);
  BOOST_TEST(failure(made.error()) == "mount_config_invalid");
}

BOOST_DATA_TEST_CASE(a_skip_path_keeps_clear_of_mounts, data::make(std::vector<skip_case>{
                                                          {"logs", "ok"},
                                                          {"data", "data/lake"},
                                                          {"data/lake", "data/lake"},
                                                          {"data/lake/tmp", "data/lake"},
                                                          {"data/lakes", "ok"},
                                                          {"q/r", "q"},
                                                          {"q", "q"},
                                                          {"mnt", "ok"},
                                                          {"m", "ok"},
                                                        })) {
  manifest x;
  x.entries = {mount_at("m", "data/lake"), mount_at("q/r/s", "q/r"), mount_at("t", "q"),
               mount_at("u", "/mnt/u")};
  auto checked = check_skip_path(x, sample.path);
  if (checked) {
    BOOST_TEST(sample.expected == "ok");
    return;
  }
  auto context = parse_json(checked.error().context).value();
  BOOST_TEST(failure(checked.error()) == "mount_config_invalid");
  BOOST_TEST(context.at("skip_path") == sample.path);
  BOOST_TEST(context.at("mount_path") == sample.expected);
}

BOOST_AUTO_TEST_CASE(nothing_can_be_skipped_below_a_mount_at_the_root) {
  manifest x;
  x.entries = {mount_at("m", ".")};
  auto context = parse_json(check_skip_path(x, "logs").error().context).value();
  BOOST_TEST(context.at("mount_path") == ".");
}

BOOST_AUTO_TEST_CASE(a_mount_is_described_where_it_goes) {
  manifest x;
  x.entries = {mount_at("a", "/mnt/s3"), mount_at("b/c", "data"),
               folder("d", {mount_at("e", "/f")}), mount_at("g")};
  x.entries[0].entry.description = "lake";
  BOOST_TEST(describe(x, std::nullopt).value()
             == "/workspace\n"
                "├── a/      # /mnt/s3 — lake\n"
                "├── b/      # /workspace/b\n"
                "│   └── c/  # /workspace/data\n"
                "├── d/      # /workspace/d\n"
                "│   └── e/  # /workspace/d/e\n"
                "└── g/      # /workspace/g\n");
  BOOST_TEST(describe(x, 1).value()
             == "/workspace\n"
                "├── a/  # /mnt/s3 — lake\n"
                "├── b/  # /workspace/b\n"
                "├── d/  # /workspace/d\n"
                "└── g/  # /workspace/g\n");
}

BOOST_AUTO_TEST_CASE(a_mount_path_is_described_below_any_root) {
  manifest x;
  x.root = "/";
  x.entries = {mount_at("a", "b/c"), mount_at("d", ".")};
  BOOST_TEST(describe(x, 1).value() == "/\n├── a/  # /b/c\n└── d/  # /\n");
  x.root = "//w/";
  BOOST_TEST(describe(x, 1).value() == "//w\n├── a/  # //w/b/c\n└── d/  # //w\n");
}

BOOST_AUTO_TEST_CASE(a_cut_description_counts_the_mount_paths) {
  manifest x;
  for (int i = 100; i < 200; ++i)
    x.entries.push_back(mount_at("m" + std::to_string(i), std::string(70, 'p')));
  auto text = describe(x, 1).value();
  auto marker = text.find("\n... (truncated ");
  BOOST_REQUIRE(marker != std::string::npos);
  // "/workspace\n", then lines of "├── m100/", "  # ", the path and a line break.
  const size_t characters = 11 + 100 * (9 + 4 + 81 + 1);
  const size_t kept = 5000 - (text.size() - marker);
  BOOST_TEST(std::stoul(text.substr(marker + 16)) == characters - kept);
}
