#include "workspace/write_files.hpp"

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

file_edit write_edit(const std::string& path, const std::string& text,
                     std::optional<uint32_t> mode = std::nullopt) {
  return {path, "/workspace/" + path, text, mode, false};
}

file_edit removal(const std::string& path) {
  return {path, "/workspace/" + path, std::nullopt, std::nullopt, false};
}

/// All that is below the root, in order.
std::string listing(const test_folder& t) {
  std::string out;
  BOOST_REQUIRE(walk(t.fd.get(), [&](const tree_item& item) {
    out.append(item.path).append(" ");
    return walk_next::enter;
  }));
  return out;
}

ino_t inode_of(const std::string& path) {
  struct stat st {};
  BOOST_REQUIRE(::lstat(path.c_str(), &st) == 0);
  return st.st_ino;
}

struct fixture : test_folder {
  fixture() {
    write_file(in_root("a"), "old a");
    write_file(in_root("b"), "old b");
    ::mkdir(in_root("d").c_str(), 0755);
    ::chmod(in_root("a").c_str(), 0750);
  }

  std::string apply(const std::vector<file_edit>& edits) {
    return outcome(write_files(fd.get(), edits));
  }
};

const std::string is_directory = "workspace_archive_write_error: is_directory";

} // namespace

BOOST_FIXTURE_TEST_CASE(files_are_written_and_removed_and_nothing_else_is_left, fixture) {
  BOOST_TEST(apply({write_edit("a", "new a"), write_edit("x/y/z", "new z", 0700), removal("b")})
             == "ok");
  BOOST_TEST(listing(*this) == "a d x x/y x/y/z ");
  BOOST_TEST(read_file(in_root("a")) == "new a");
  BOOST_TEST(mode_of(in_root("a")) == 0750);
  BOOST_TEST(read_file(in_root("x/y/z")) == "new z");
  BOOST_TEST(mode_of(in_root("x/y/z")) == 0700);
}

BOOST_FIXTURE_TEST_CASE(removing_what_is_not_there_is_fine, fixture) {
  BOOST_TEST(apply({removal("gone"), removal("no/folder")}) == "ok");
  BOOST_TEST(listing(*this) == "a b d ");
}

BOOST_FIXTURE_TEST_CASE(a_failure_puts_the_files_themselves_back, fixture) {
  auto before = inode_of(in_root("a"));
  BOOST_TEST(apply({write_edit("a", "new a"), write_edit("x/y/z", "new z"),
                    write_edit("n", "new n"), removal("b"), removal("d")})
             == is_directory);
  BOOST_TEST(listing(*this) == "a b d ");
  BOOST_TEST(read_file(in_root("a")) == "old a");
  BOOST_TEST(mode_of(in_root("a")) == 0750);
  BOOST_TEST(inode_of(in_root("a")) == before);
  BOOST_TEST(read_file(in_root("b")) == "old b");
}

BOOST_FIXTURE_TEST_CASE(a_file_that_cannot_be_staged_stops_all_before_anything_changes, fixture) {
  auto before = inode_of(in_root("a"));
  BOOST_TEST(apply({write_edit("a", "new a"), write_edit("x/y", "new y"), write_edit("d", "new d")})
             == is_directory);
  BOOST_TEST(listing(*this) == "a b d ");
  BOOST_TEST(inode_of(in_root("a")) == before);
}

BOOST_FIXTURE_TEST_CASE(a_fresh_file_takes_the_place_of_a_link, fixture) {
  BOOST_REQUIRE(::symlink("a", in_root("link").c_str()) == 0);
  auto edit = write_edit("link", "new");
  edit.fresh = true;
  BOOST_TEST(apply({edit}) == "ok");
  BOOST_TEST(read_file(in_root("a")) == "old a");
  BOOST_TEST(read_file(in_root("link")) == "new");
  BOOST_TEST(listing(*this) == "a b d link ");
}

BOOST_FIXTURE_TEST_CASE(a_link_that_was_replaced_is_put_back, fixture) {
  BOOST_REQUIRE(::symlink("a", in_root("link").c_str()) == 0);
  auto edit = write_edit("link", "new");
  edit.fresh = true;
  BOOST_TEST(apply({edit, removal("d")}) == is_directory);
  char target[8];
  BOOST_TEST(::readlink(in_root("link").c_str(), target, sizeof target) == 1);
  BOOST_TEST(listing(*this) == "a b d link ");
}

BOOST_FIXTURE_TEST_CASE(nothing_outside_of_the_root_is_touched, fixture) {
  write_file(outside + "/f", "outside");
  BOOST_REQUIRE(::symlink(outside.c_str(), in_root("out").c_str()) == 0);
  for (auto name : {"out/f", "../outside/f"}) {
    BOOST_TEST(apply({write_edit("a", "new a"), write_edit(name, "x")})
               == "invalid_manifest_path: escape_root");
    BOOST_TEST(apply({write_edit("a", "new a"), removal(name)})
               == "invalid_manifest_path: escape_root");
  }
  BOOST_TEST(read_file(outside + "/f") == "outside");
  BOOST_TEST(read_file(in_root("a")) == "old a");
}
