#include "workspace/apply_patch.hpp"

#include "test_folder.hpp"

#include <boost/test/unit_test.hpp>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

using namespace troupe;
using namespace troupe::test;
using namespace troupe::workspace;

namespace {

patch_operation creating(const std::string& path, const std::string& diff) {
  return {patch_kind::create_file, path, diff, std::nullopt};
}

patch_operation updating(const std::string& path, const std::string& diff,
                         std::optional<std::string> move_to = std::nullopt) {
  return {patch_kind::update_file, path, diff, std::move(move_to)};
}

patch_operation deleting(const std::string& path) {
  return {patch_kind::delete_file, path, std::nullopt, std::nullopt};
}

const std::string two = "@@\n-two\n+2\n";

struct fixture : test_folder {
  path_policy policy;
  patch_options options;

  fixture() : policy(path_policy::make(root, {{outside, false, {}, {}}}).value()) {
    write_file(in_root("a.txt"), "one\ntwo\nthree\n");
    ::mkdir(in_root("src").c_str(), 0755);
    write_file(in_root("src/app.py"), "pass\n");
  }

  result<patch_outcome> run(const std::vector<patch_operation>& operations) {
    return apply_patch(fd.get(), policy, operations, options);
  }

  /// The text for the model, or "code: message" of the error.
  std::string apply(const std::vector<patch_operation>& operations) {
    auto x = run(operations);
    if (x)
      return x->text;
    return std::string{to_string(x.error().code)} + ": " + x.error().message;
  }

  std::string text(const std::string& name) {
    return exists(in_root(name)) ? read_file(in_root(name)) : "(none)";
  }

  /// All that is below the root, in order.
  std::string listing() {
    std::string out;
    BOOST_REQUIRE(walk(fd.get(), [&](const tree_item& item) {
      out.append(item.path).append(" ");
      return walk_next::enter;
    }));
    return out;
  }

  void link(const std::string& target, const std::string& name) {
    BOOST_REQUIRE(::symlink(target.c_str(), in_root(name).c_str()) == 0);
  }
};

} // namespace

BOOST_FIXTURE_TEST_CASE(operations_change_files_and_say_so, fixture) {
  auto x = run({creating("new/deep/f", "+x\n+y\n"), updating("a.txt", two),
                updating("src/app.py", "@@\n-pass\n+go\n", "src/main.py")});
  BOOST_REQUIRE(x);
  BOOST_TEST(x->text
             == "Created new/deep/f\nUpdated a.txt\n"
                "Updated src/app.py\nMoved src/app.py to src/main.py");
  BOOST_TEST(text("new/deep/f") == "x\ny");
  BOOST_TEST(text("a.txt") == "one\n2\nthree\n");
  BOOST_TEST(text("src/main.py") == "go\n");
  BOOST_TEST(listing() == "a.txt new new/deep new/deep/f src src/main.py ");
  BOOST_REQUIRE(x->files.size() == 3);
  BOOST_TEST(x->files[0].path == "new/deep/f");
  BOOST_TEST(to_string(x->files[0].change) == "created");
  BOOST_TEST(to_string(x->files[1].change) == "updated");
  BOOST_TEST(!x->files[1].moved_to);
  BOOST_TEST(x->files[2].path == "src/app.py");
  BOOST_TEST(x->files[2].moved_to.value_or("") == "src/main.py");
  BOOST_TEST(apply({deleting("a.txt")}) == "Deleted a.txt");
  BOOST_TEST(text("a.txt") == "(none)");
  BOOST_TEST(apply({}) == "");
}

BOOST_FIXTURE_TEST_CASE(what_is_there_is_replaced, fixture) {
  BOOST_TEST(apply({creating("a.txt", "+x\n")}) == "Created a.txt");
  BOOST_TEST(text("a.txt") == "x");
  BOOST_TEST(apply({updating("a.txt", "@@\n-x\n+y\n", "src/app.py")})
             == "Updated a.txt\nMoved a.txt to src/app.py");
  BOOST_TEST(text("src/app.py") == "y");
  BOOST_TEST(listing() == "src src/app.py ");
}

BOOST_FIXTURE_TEST_CASE(operations_see_what_those_before_them_did, fixture) {
  BOOST_TEST(apply({creating("n", "+a\n+b\n"), updating("n", "@@\n-b\n+c\n", "m"),
                    updating("./m", "@@\n-a\n+A\n")})
             == "Created n\nUpdated n\nMoved n to m\nUpdated m");
  BOOST_TEST(text("m") == "A\nc");
  BOOST_TEST(text("n") == "(none)");
  apply({updating("a.txt", "@@\n-one\n+1\n"), updating("src/../a.txt", two)});
  BOOST_TEST(text("a.txt") == "1\n2\nthree\n");
  apply({deleting("a.txt"), creating("a.txt", "+again\n")});
  BOOST_TEST(text("a.txt") == "again");
  apply({creating("t", "+x\n"), deleting("t")});
  BOOST_TEST(listing() == "a.txt m src src/app.py ");
  for (const auto& again : {deleting("a.txt"), updating("a.txt", "")})
    BOOST_TEST(apply({deleting("a.txt"), again})
               == "apply_patch_file_not_found: apply_patch missing file: a.txt");
  BOOST_TEST(text("a.txt") == "again");
}

BOOST_FIXTURE_TEST_CASE(a_file_is_one_whichever_way_leads_to_it, fixture) {
  link("a.txt", "l");
  link("src", "s");
  apply({updating("l", "@@\n-one\n+1\n"), updating("a.txt", two), updating("s/app.py", "@@\n+x\n"),
         updating("src/app.py", "@@\n+y\n")});
  BOOST_TEST(text("a.txt") == "1\n2\nthree\n");
  BOOST_TEST(text("src/app.py") == "y\nx\npass\n");
  BOOST_TEST(apply({updating("l", "@@\n-1\n+one\n", "a.txt")}) == "Updated l\nMoved l to a.txt");
  BOOST_TEST(text("a.txt") == "one\n2\nthree\n");
  BOOST_TEST(listing() == "a.txt l s src src/app.py ");
}

BOOST_FIXTURE_TEST_CASE(a_link_is_removed_and_not_what_it_leads_to, fixture) {
  link("a.txt", "l");
  BOOST_TEST(apply({deleting("l"), creating("l", "+own\n")}) == "Deleted l\nCreated l");
  BOOST_TEST(text("a.txt") == "one\ntwo\nthree\n");
  BOOST_TEST(text("l") == "own");
  link("a.txt", "k");
  BOOST_TEST(apply({deleting("k"), deleting("a.txt")}) == "Deleted k\nDeleted a.txt");
  BOOST_TEST(listing() == "l src src/app.py ");
}

BOOST_FIXTURE_TEST_CASE(a_dangling_link_leads_to_the_new_file, fixture) {
  link("src/gone.txt", "l");
  apply({creating("l", "+x\n"), updating("src/gone.txt", "@@\n-x\n+y\n")});
  BOOST_TEST(text("src/gone.txt") == "y");
  BOOST_TEST(apply({deleting("l")}) == "Deleted l");
}

BOOST_FIXTURE_TEST_CASE(all_or_nothing_leaves_everything_as_it_was, fixture) {
  const auto before = listing();
  for (const auto& bad :
       {updating("src/app.py", "@@\n-zz\n"), creating("x", "zz"), deleting("gone"),
        creating("src", "+x\n"), creating("a.txt/below", "+x\n"),
        creating("n/" + std::string(300, 'n'), "+x\n")})
    BOOST_TEST(!run({updating("a.txt", two), creating("new/f", "+x\n"), deleting("src/app.py"),
                     creating("src/app.py", "+x\n"), bad}),
               bad.path);
  BOOST_TEST(listing() == before);
  BOOST_TEST(text("a.txt") == "one\ntwo\nthree\n");
  BOOST_TEST(text("src/app.py") == "pass\n");
}

BOOST_FIXTURE_TEST_CASE(one_by_one_the_operations_before_a_failure_stay, fixture) {
  options.all_or_nothing = false;
  BOOST_TEST(apply({updating("a.txt", two), updating("a.txt", two), deleting("src/app.py")})
             == "apply_patch_invalid_diff: Invalid Context 0:\ntwo");
  BOOST_TEST(text("a.txt") == "one\n2\nthree\n");
  BOOST_TEST(text("src/app.py") == "pass\n");
  BOOST_TEST(apply({deleting("a.txt"), creating("a.txt/below", "+x\n")})
             == "Deleted a.txt\nCreated a.txt/below");
}

BOOST_FIXTURE_TEST_CASE(bad_paths_are_found_before_anything_happens_unless_told_otherwise,
                        fixture) {
  options.all_or_nothing = false;
  const std::string refused
    = "apply_patch_invalid_path: apply_patch path must not escape root: ../x";
  BOOST_TEST(apply({deleting("a.txt"), creating("../x", "+y\n")}) == refused);
  BOOST_TEST(apply({deleting("a.txt"), updating("src/app.py", "", "../x")}) == refused);
  BOOST_TEST(text("a.txt") != "(none)");
  options.paths_first = false;
  BOOST_TEST(apply({deleting("a.txt"), creating("../x", "+y\n")}) == refused);
  BOOST_TEST(text("a.txt") == "(none)");
  BOOST_TEST(apply({patch_operation{patch_kind::create_file, "n", "+y", "../x"}}) == "Created n");
}

BOOST_FIXTURE_TEST_CASE(paths_stay_in_the_workspace, fixture) {
  for (const std::string name : {"", "  ", "\u3000"}) {
    auto x = run({deleting(name)});
    BOOST_TEST(outcome(x) == "apply_patch_invalid_path: empty");
    BOOST_TEST(x.error().message == "apply_patch path must be non-empty");
    BOOST_TEST(context_of(x.error(), "path") == name);
  }
  for (const auto& name :
       {std::string{"../out"}, std::string{"..\\out"}, outside + "/granted", std::string{"/etc/x"},
        std::string{"\\\\host\\share"}, std::string{"C:\\x"}, std::string{"a\0b", 3}}) {
    auto x = run({creating(name, "+x\n")});
    BOOST_TEST(outcome(x) == "apply_patch_invalid_path: escape_root");
    BOOST_TEST(context_of(x.error(), "path") == name);
  }
  BOOST_TEST(!exists(outside + "/granted"));
}

BOOST_FIXTURE_TEST_CASE(paths_may_be_absolute_or_have_backslashes, fixture) {
  BOOST_TEST(apply({updating(root + "/a.txt", two)}) == "Updated a.txt");
  BOOST_TEST(apply({creating("dir\\f", "+x\n"), creating("C:x", "+x\n"), creating("~/f", "+x\n")})
             == "Created dir/f\nCreated C:x\nCreated ~/f");
  BOOST_TEST(text("dir/f") == "x");
}

BOOST_FIXTURE_TEST_CASE(relative_paths_start_from_the_working_folder, fixture) {
  options.cwd = "src";
  auto x
    = run({updating("../a.txt", two), creating("x\\y", "+x\n"), deleting(root + "/src/app.py")});
  BOOST_REQUIRE(x);
  BOOST_TEST(x->text == "Updated ../a.txt\nCreated x/y\nDeleted src/app.py");
  BOOST_TEST(x->files[0].path == "a.txt");
  BOOST_TEST(text("src/x/y") == "x");
  BOOST_TEST(apply({creating("1:/x", "+x\n")}) == "Created 1:/x");
  BOOST_TEST(text("src/1:/x") == "x");
  for (auto name : {"../../x", "C:/x"})
    BOOST_TEST(outcome(run({creating(name, "+x\n")})) == "apply_patch_invalid_path: escape_root");
  options.cwd = "src/../../..";
  BOOST_TEST(outcome(run({creating("x", "+x\n")})) == "apply_patch_invalid_path: escape_root");
}

BOOST_FIXTURE_TEST_CASE(faults_have_the_codes_of_the_contract, fixture) {
  write_file(in_root("b.bin"), "a\xFF\n");
  link("m", "l");
  link("l", "m");
  link(outside, "out");
  write_file(outside + "/f", "secret\n");
  auto missing = run({updating("gone/x", two)});
  BOOST_TEST(missing.error().message == "apply_patch missing file: gone/x");
  BOOST_TEST(context_of(missing.error(), "path") == "gone/x");
  auto no_diff = run({patch_operation{patch_kind::create_file, "n", std::nullopt, std::nullopt}});
  BOOST_TEST(no_diff.error().message == "Missing diff for operation type create_file on path n");
  BOOST_TEST(context_of(no_diff.error(), "path") == "n");
  auto bad_diff = run({updating("a.txt", "@@\n-zz\n")});
  BOOST_TEST(outcome(bad_diff) == "apply_patch_invalid_diff: ");
  BOOST_TEST(context_of(bad_diff.error(), "path") == "a.txt");
  BOOST_TEST(outcome(run({updating("b.bin", "")})) == "apply_patch_decode_error: ");
  BOOST_TEST(outcome(run({updating("src", "")})) == "workspace_archive_read_error: is_directory");
  BOOST_TEST(outcome(run({deleting("src")})) == "workspace_archive_read_error: is_directory");
  BOOST_TEST(outcome(run({deleting(".")})) == "workspace_archive_read_error: is_directory");
  BOOST_TEST(outcome(run({creating("src", "+x\n")}))
             == "workspace_archive_write_error: is_directory");
  BOOST_TEST(outcome(run({updating("l", "")})) == "workspace_archive_read_error: symlink_loop");
  for (const auto& x : {updating("out/f", ""), creating("out/n", "+x\n"), deleting("out/f")})
    BOOST_TEST(outcome(run({x})) == "invalid_manifest_path: escape_root");
  for (const auto& x : {updating(root + "/out/f", ""), deleting(root + "/out/f")})
    BOOST_TEST(outcome(run({x})) == "invalid_manifest_path: absolute");
  BOOST_TEST(apply({deleting("b.bin")}) == "Deleted b.bin");
}

BOOST_FIXTURE_TEST_CASE(a_fifo_holds_nobody_up, fixture) {
  BOOST_REQUIRE(::mkfifo(in_root("p").c_str(), 0644) == 0);
  for (const auto& x : {updating("p", ""), deleting("p")})
    BOOST_TEST(outcome(run({x})) == "workspace_archive_read_error: not_a_regular_file");
  BOOST_TEST(outcome(run({creating("p", "+x\n")}))
             == "workspace_archive_write_error: not_a_regular_file");
}

BOOST_FIXTURE_TEST_CASE(a_file_keeps_its_mode_where_it_is_and_where_it_goes, fixture) {
  ::chmod(in_root("a.txt").c_str(), 0750);
  apply({updating("a.txt", two)});
  BOOST_TEST(mode_of(in_root("a.txt")) == 0750);
  apply({updating("a.txt", "@@\n-one\n+1\n", "b.txt")});
  BOOST_TEST(mode_of(in_root("b.txt")) == 0750);
  apply({creating("n", "+x\n")});
  BOOST_TEST(mode_of(in_root("n")) == 0644);
}

BOOST_FIXTURE_TEST_CASE(sizes_are_bounded, fixture) {
  BOOST_TEST(outcome(run(std::vector<patch_operation>(1001, deleting("a.txt"))))
             == "payload_too_large: ");
  BOOST_REQUIRE(::truncate(in_root("a.txt").c_str(), 1LL << 40) == 0);
  BOOST_TEST(outcome(run({updating("a.txt", "")})) == "payload_too_large: ");
  BOOST_TEST(apply({deleting("a.txt")}) == "Deleted a.txt");
  const std::vector<patch_operation> many(5, creating("n", '+' + std::string(30 << 20, 'x')));
  BOOST_TEST(outcome(run(many)) == "payload_too_large: ");
  std::string deep;
  for (int i = 0; i < 100'000; ++i)
    deep += "d/";
  BOOST_TEST(outcome(run({creating(deep + "f", "+x\n")}))
             == "workspace_archive_write_error: name_too_long");
  for (const auto& x : {updating(deep + "f", ""), deleting(deep + "f")})
    BOOST_TEST(outcome(run({x})) == "workspace_archive_read_error: name_too_long");
}
