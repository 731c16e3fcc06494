#include "snapshot/repository.hpp"

#include "messages/json.hpp"
#include "support.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <sched.h>
#include <sys/mount.h>

#include <ostream>
#include <signal.h>
#include <thread>

using namespace troupe;
using namespace troupe::snapshot;
using namespace troupe::snapshot::test;

namespace {

struct fixture {
  temp_dir dir;
  std::string root = dir / "root/ws";

  fixture() {
    fs::create_directories(root);
  }

  result<void> put(const std::string& archive, bool merge = true,
                   const archive_limits& limits = {}) {
    write_text(dir / "in", archive);
    unique_fd fd{::open((dir / "in").c_str(), O_RDONLY | O_CLOEXEC)};
    return hydrate(fd.get(), root, merge, limits, {});
  }

  void require_put(const std::string& archive, bool merge = true) {
    auto ok = put(archive, merge);
    BOOST_REQUIRE_MESSAGE(ok, (ok ? "" : ok.error().message + ok.error().context));
    BOOST_TEST(names(dir / "root") == (std::set<std::string>{"ws"}));
  }

  /// The error's context, after a look that nothing was changed.
  json refused(const std::string& archive, const archive_limits& limits = {}) {
    auto before = describe(root);
    auto ok = put(archive, true, limits);
    BOOST_REQUIRE(!ok);
    BOOST_TEST((ok.error().code == errc::workspace_archive_write_error));
    BOOST_TEST((ok.error().operation == op::write));
    BOOST_TEST(ok.error().message == "failed to write archive for path: " + root);
    BOOST_TEST((describe(root) == before));
    BOOST_TEST(names(dir / "root") == (std::set<std::string>{"ws"}));
    return parse_json(ok.error().context).value();
  }
};

struct bad_archive {
  const char* name;
  std::string members;
  std::string member;
  std::string reason;
};

std::string text(const json& context, const char* key) {
  return context.at(key).get<std::string>();
}

std::ostream& operator<<(std::ostream& out, const bad_archive& x) {
  return out << x.name;
}

const std::vector<bad_archive> bad_archives = {
  {"root is a symlink", tar_symlink(".", "a"), ".", "archive root symlink"},
  {"root is a hard link", tar_hard_link("./", "a"), ".", "archive root hardlink"},
  {"root is a file", tar_file(".", "x"), ".", "archive root member must be directory"},
  {"root is a fifo", tar_header(".", '6'), ".", "archive root member must be directory"},
  {"drive", tar_file("C:evil", "x"), "C:evil", "windows drive path"},
  {"backslash", tar_file("a\\b", "x"), "a\\b", "windows path separator"},
  {"absolute", tar_file("/etc/evil", "x"), "/etc/evil", "absolute path"},
  {"parent", tar_file("../evil", "x"), "../evil", "parent traversal"},
  {"parent inside", tar_file("a/../../evil", "x"), "a/../../evil", "parent traversal"},
  {"fifo", tar_header("f", '6'), "f", "unsupported member type"},
  {"character device", tar_header("c", '3'), "c", "unsupported member type"},
  {"block device", tar_header("b", '4'), "b", "unsupported member type"},
  {"file twice", tar_file("a", "x") + tar_file("./a", "y"), "./a", "duplicate archive path: a"},
  {"link over file", tar_file("a", "x") + tar_symlink("a", "/etc"), "a",
   "duplicate archive path: a"},
  {"file over link", tar_symlink("a", "/etc/passwd") + tar_file("a", "x"), "a",
   "duplicate archive path: a"},
  {"directory over link", tar_symlink("a", "/etc") + tar_directory("a"), "a",
   "duplicate archive path: a"},
  {"file over directory", tar_directory("a") + tar_file("a", "x"), "a",
   "duplicate archive path: a"},
  {"below a link to outside", tar_symlink("l", "/tmp") + tar_file("l/evil", "x"), "l/evil",
   "archive path descends through symlink: l"},
  {"below a link upwards", tar_symlink("d/l", "../..") + tar_file("d/l/evil", "x"), "d/l/evil",
   "archive path descends through symlink: d/l"},
  {"directory below a link", tar_symlink("l", ".") + tar_directory("l/d"), "l/d",
   "archive path descends through symlink: l"},
  {"link after its child", tar_file("l/x", "x") + tar_symlink("l", "d"), "l/x",
   "archive path descends through symlink: l"},
  {"below a file", tar_file("f", "x") + tar_file("f/x", "x"), "f/x",
   "archive path descends through non-directory: f"},
  {"file after its child", tar_file("f/x", "x") + tar_file("f", "x"), "f/x",
   "archive path descends through non-directory: f"},
  {"hard link to outside", tar_hard_link("h", "/etc/passwd"), "h", "hardlink member not allowed"},
  {"hard link upwards", tar_hard_link("h", "../../in"), "h", "hardlink member not allowed"},
  {"hard link to nothing", tar_hard_link("h", "later") + tar_file("later", "x"), "h",
   "hardlink member not allowed"},
  {"hard link to directory", tar_directory("d") + tar_hard_link("h", "d"), "h",
   "hardlink member not allowed"},
  {"hard link through a link", tar_symlink("l", "/etc") + tar_hard_link("h", "l/passwd"), "h",
   "hardlink member not allowed"},
  {"bad after good", tar_file("good", "x") + tar_file("../bad", "x"), "../bad", "parent traversal"},
};

const std::vector<bad_archive> damaged_archives = {
  {"empty", "", {}, {}},
  {"text", std::string(2000, 'x'), {}, {}},
  {"no end marker", tar_file("a", "x"), {}, {}},
  {"one zero block only", tar_file("a", "x") + std::string(512, '\0'), {}, {}},
  {"content that looks like the end", tar_file("a", std::string(2048, '\0')), {}, {}},
  {"bad checksum later",
   tar_file("a", "x") + tar_file("b", "x").replace(0, 1, "c") + tar_end(),
   {},
   {}},
  {"cut in a header", tar_file("a", "x") + tar_file("b", "x").substr(0, 300), {}, {}},
  {"cut in content", tar_file("a", std::string(5000, 'x')).substr(0, 2000), {}, {}},
  {"malformed pax header",
   tar_header("pax", 'x', {}, 8) + "garbage\n" + std::string(504, '\0') + tar_file("a", "x")
     + tar_end(),
   {},
   {}},
  {"cut gzip", gzip_tar.substr(0, gzip_tar.size() - 5), {}, {}},
  {"gzip magic only", std::string{"\x1f\x8b\x08\x00", 4}, {}, {}},
  {"zstd magic only", std::string{"\x28\xb5\x2f\xfd", 4}, {}, {}},
};

} // namespace

BOOST_DATA_TEST_CASE_F(fixture, an_unsafe_member_is_refused_and_changes_nothing, bad_archives) {
  write_text(root + "/live", "stays");
  auto context = refused(sample.members + tar_end());
  BOOST_TEST(text(context, "path") == root);
  BOOST_TEST(text(context, "member") == sample.member);
  BOOST_TEST(text(context, "reason") == sample.reason);
}

BOOST_DATA_TEST_CASE_F(fixture, a_damaged_archive_is_refused_and_changes_nothing,
                       damaged_archives) {
  write_text(root + "/live", "stays");
  auto context = refused(sample.members);
  BOOST_TEST(!text(context.at("cause"), "reason").empty());
  BOOST_TEST(!context.contains("reason"));
}

BOOST_FIXTURE_TEST_SUITE(hydrate_suite, fixture)

BOOST_AUTO_TEST_CASE(what_stands_behind_the_end_is_not_read) {
  require_put(tar_file("a", "x") + tar_end() + tar_file("b", "x") + tar_end() + "junk");
  BOOST_TEST(names(root) == (std::set<std::string>{"a"}));
}

BOOST_AUTO_TEST_CASE(every_compression_is_read) {
  for (const auto& bytes : {gzip_tar, bzip2_tar, xz_tar}) {
    require_put(bytes, false);
    BOOST_TEST(read_text(root + "/a.txt") == "hello");
    struct stat st;
    BOOST_REQUIRE(::stat((root + "/a.txt").c_str(), &st) == 0);
    BOOST_TEST(st.st_mtim.tv_sec == 1'700'000'000);
    BOOST_TEST(st.st_mtim.tv_nsec == 500'000'000);
  }
}

BOOST_AUTO_TEST_CASE(inert_links_are_made_and_never_followed) {
  require_put(tar_symlink("abs", "/etc/passwd") + tar_symlink("up", "../../x")
              + tar_symlink("self", "self") + tar_file("a", "x") + tar_hard_link("h", "./a")
              + tar_end());
  BOOST_TEST(fs::read_symlink(root + "/abs") == "/etc/passwd");
  BOOST_TEST(fs::read_symlink(root + "/up") == "../../x");
  BOOST_TEST(fs::read_symlink(root + "/self") == "self");
  BOOST_TEST(fs::hard_link_count(root + "/h") == 2u);
}

BOOST_AUTO_TEST_CASE(modes_lose_set_id_bits_and_no_others) {
  require_put(tar_file("r", "x", 0444) + tar_file("s", "x", 06755) + tar_file("w", "x", 0666)
              + tar_directory("d", 0550) + tar_file("d/late", "x") + tar_end());
  auto mode = [&](const char* name) {
    struct stat st;
    BOOST_REQUIRE(::stat((root + '/' + name).c_str(), &st) == 0);
    return st.st_mode & 07777;
  };
  BOOST_TEST(mode("r") == 0444u);
  BOOST_TEST(mode("s") == 0755u);
  BOOST_TEST(mode("w") == 0666u);
  BOOST_TEST(mode("d") == 0550u);
  ::chmod((root + "/d").c_str(), 0750);
}

BOOST_AUTO_TEST_CASE(members_may_come_in_any_order) {
  require_put(tar_file("a/b/c", "deep") + tar_directory("a", 0700) + tar_directory("x")
              + tar_file("a/b/d", "again") + tar_directory("a/b", 0711) + tar_file("y", "z")
              + tar_file("a/b/e", "late") + tar_end());
  BOOST_TEST(read_text(root + "/a/b/c") == "deep");
  BOOST_TEST(read_text(root + "/a/b/d") == "again");
  struct stat st;
  BOOST_REQUIRE(::stat((root + "/a/b").c_str(), &st) == 0);
  BOOST_TEST((st.st_mode & 07777) == 0711u);
  BOOST_TEST(st.st_mtim.tv_sec == 1'700'000'000);
}

BOOST_AUTO_TEST_CASE(names_stay_the_bytes_that_they_are) {
  for (std::string name : {"caf\xc3\xa9", "cafe\xcc\x81", "\xff\xfe"}) {
    require_put(tar_file(name, "1") + tar_pax("path", "pax-" + name) + tar_file("x", "2")
                + tar_end());
    BOOST_TEST(read_text(root + '/' + name) == "1");
    BOOST_TEST(read_text(root + "/pax-" + name) == "2");
  }
}

// -- merging --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_merge_keeps_what_the_archive_does_not_name) {
  write_text(root + "/keep", "k");
  write_text(root + "/d/keep", "k");
  write_text(root + "/d/old", "old");
  fs::create_symlink("keep", root + "/link");
  ::mkfifo((root + "/fifo").c_str(), 0600);
  require_put(tar_file("d/old", "new") + tar_file("d/sub/x", "x") + tar_file("link", "file now")
              + tar_file("fifo", "file now") + tar_end());
  BOOST_TEST(read_text(root + "/keep") == "k");
  BOOST_TEST(read_text(root + "/d/keep") == "k");
  BOOST_TEST(read_text(root + "/d/old") == "new");
  BOOST_TEST(read_text(root + "/d/sub/x") == "x");
  BOOST_TEST(!fs::is_symlink(root + "/link"));
  BOOST_TEST(read_text(root + "/fifo") == "file now");
}

BOOST_AUTO_TEST_CASE(without_merge_nothing_else_stays) {
  write_text(root + "/old", "x");
  require_put(tar_file("new", "x") + tar_end(), false);
  BOOST_TEST(names(root) == (std::set<std::string>{"new"}));
}

BOOST_AUTO_TEST_CASE(a_directory_is_not_replaced_by_a_file_or_link) {
  write_text(root + "/d/x", "x");
  write_text(root + "/a", "before");
  auto context = refused(tar_file("a", "after") + tar_file("d", "x") + tar_end());
  BOOST_TEST(text(context, "reason") == "destination directory already exists: d");
  context = refused(tar_symlink("d", "a") + tar_end());
  BOOST_TEST(text(context, "reason") == "destination directory already exists: d");
}

BOOST_AUTO_TEST_CASE(a_file_or_link_gives_way_to_a_directory_that_is_a_member) {
  write_text(root + "/file", "x");
  fs::create_directory(dir / "outside");
  fs::create_directory_symlink(dir / "outside", root + "/link");
  require_put(tar_directory("file") + tar_file("file/x", "1") + tar_directory("link")
              + tar_file("link/x", "2") + tar_end());
  BOOST_TEST(read_text(root + "/file/x") == "1");
  BOOST_TEST(read_text(root + "/link/x") == "2");
  BOOST_TEST(names(dir / "outside").empty());
}

BOOST_AUTO_TEST_CASE(a_merge_does_not_go_through_links_of_the_workspace) {
  fs::create_directory(dir / "outside");
  fs::create_directory_symlink(dir / "outside", root + "/link");
  auto context = refused(tar_file("link/x", "x") + tar_end());
  BOOST_TEST(text(context, "reason") == "path escapes root after resolution");
  BOOST_TEST(text(context, "member") == "link/x");
  BOOST_TEST(names(dir / "outside").empty());
  fs::create_directory(root + "/inside");
  fs::create_directory_symlink("inside", root + "/l");
  context = refused(tar_file("l/x", "x") + tar_end());
  BOOST_TEST(text(context, "reason") == "symlink in parent path");
}

// -- limits ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(unpacked_bytes_are_limited) {
  archive_limits limits;
  limits.max_extracted_bytes = 1000;
  BOOST_TEST(put(tar_file("a", std::string(1000, 'x')) + tar_end(), true, limits).has_value());
  auto context = refused(tar_file("b", std::string(600, 'x')) + tar_file("c", std::string(401, 'x'))
                           + tar_end(),
                         limits);
  BOOST_TEST(text(context, "reason") == "archive extracted size exceeds limit");
  BOOST_TEST(text(context, "member") == "c");
  BOOST_TEST(context["limit"].get<int>() == 1000);
  BOOST_TEST(context["actual"].get<int>() == 1001);
}

BOOST_AUTO_TEST_CASE(holes_count_towards_the_limit) {
  archive_limits limits;
  limits.max_extracted_bytes = 1 << 20;
  auto map = std::string{"1\n0\n1\n"};
  map.resize(512);
  // One pax header has to hold all records.
  std::string records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
                        "37 GNU.sparse.realsize=1000000000000\n";
  auto header = tar_header("pax", 'x', {}, records.size()) + records;
  header.resize(1024);
  auto content = map + "x";
  content.resize(1024);
  auto context = refused(header + tar_header("s", '0', {}, 513) + content + tar_end(), limits);
  BOOST_TEST(text(context, "reason") == "archive extracted size exceeds limit");
}

BOOST_AUTO_TEST_CASE(members_are_limited) {
  archive_limits limits;
  limits.max_members = 2;
  BOOST_TEST(put(tar_file("a", "") + tar_file("b", "") + tar_end(), true, limits).has_value());
  auto context
    = refused(tar_file("c", "") + tar_directory("d") + tar_file("e", "") + tar_end(), limits);
  BOOST_TEST(text(context, "reason") == "archive member count exceeds limit");
  BOOST_TEST(text(context, "member") == "e");
  BOOST_TEST(context["actual"].get<int>() == 3);
}

BOOST_AUTO_TEST_CASE(endless_nesting_is_refused) {
  std::string path;
  for (int i = 0; i < 30'000; ++i)
    path += "d/";
  auto context = refused(tar_pax("path", path + "x") + tar_file("x", "x") + tar_end());
  BOOST_TEST(text(context, "reason") == "path too long");
}

BOOST_AUTO_TEST_CASE(headers_that_grow_without_end_are_refused) {
  // A sparse map of two million holes, which libarchive would keep in memory.
  std::string map = "2000000\n";
  for (int i = 0; i < 2'000'000; ++i)
    map += "0\n0\n";
  map.resize((map.size() + 511) / 512 * 512);
  std::string records
    = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=1000\n";
  auto header = tar_header("pax", 'x', {}, records.size()) + records;
  header.resize(1024);
  auto context = refused(header + tar_header("s", '0', {}, map.size()) + map + tar_end());
  BOOST_TEST(context.contains("cause"));
}

BOOST_AUTO_TEST_CASE(directories_that_nobody_named_are_limited) {
  std::string archive;
  for (int k = 0; k < 30; ++k) {
    std::string path = std::to_string(k);
    for (int i = 0; i < 1500; ++i)
      path += "/d";
    archive += tar_pax("path", path) + tar_file("x", "x");
  }
  auto context = refused(archive + tar_end());
  BOOST_TEST(text(context, "reason") == "archive member count exceeds limit");
}

// -- streams --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_stop_in_mid_stream_leaves_nothing) {
  int ends[2];
  BOOST_REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  unique_fd in{ends[0]};
  unique_fd out{ends[1]};
  write_text(root + "/live", "stays");
  std::stop_source stop;
  std::thread writer{[&] {
    auto first = tar_file("a", "x") + tar_header("b", '0', {}, 1 << 20);
    (void) !::write(out.get(), first.data(), first.size());
    while (names(dir / "root").size() < 2) // being unpacked beside the root
      std::this_thread::yield();
    stop.request_stop();
    std::string more(4096, 'x');
    while (::write(out.get(), more.data(), more.size()) > 0 && names(dir / "root").size() > 1)
      std::this_thread::yield();
    out.reset();
  }};
  ::signal(SIGPIPE, SIG_IGN);
  auto ok = hydrate(in.get(), root, true, {}, stop.get_token());
  in.reset(); // nobody reads any more: a writer that waits for room must not wait for ever
  writer.join();
  BOOST_REQUIRE(!ok);
  BOOST_TEST((ok.error().code == errc::cancelled));
  BOOST_TEST(names(root) == (std::set<std::string>{"live"}));
  BOOST_TEST(names(dir / "root") == (std::set<std::string>{"ws"}));
}

BOOST_AUTO_TEST_CASE(a_written_tar_comes_back_through_a_pipe) {
  write_text(root + "/a", std::string(300'000, 'x'));
  write_text(root + "/skipped/x", "x");
  write_text(root + "/d/caf\xc3\xa9", "x");
  ::mkfifo((root + "/fifo").c_str(), 0600);
  int ends[2];
  BOOST_REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  unique_fd in{ends[0]};
  result<std::vector<std::string>> warnings;
  std::thread writer{[&, out = unique_fd{ends[1]}] {
    auto fd = open_dir(root);
    warnings = write_tar(fd.get(), {"skipped"}, out.get(), {});
  }};
  auto other = dir / "root/other";
  auto ok = hydrate(in.get(), other, false, {}, {});
  writer.join();
  BOOST_REQUIRE(ok);
  BOOST_REQUIRE(warnings);
  BOOST_TEST(*warnings == std::vector<std::string>{"fifo: left out: fifo"});
  fs::remove(root + "/fifo");
  fs::remove_all(root + "/skipped");
  BOOST_TEST(fingerprint_at(other) == fingerprint_at(root));
}

// -- roots that cannot be swapped -----------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_root_that_is_a_mount_point_is_filled_from_inside) {
  std::thread apart{[&] {
    // A mount namespace of this thread alone. Not everyone may have one.
    if (::unshare(CLONE_NEWNS) != 0
        || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0
        || ::mount("tmpfs", root.c_str(), "tmpfs", 0, nullptr) != 0) {
      BOOST_TEST_MESSAGE("cannot mount here");
      return;
    }
    write_text(root + "/old", "x");
    write_text(root + "/d/old", "x");
    BOOST_TEST(put(tar_file("d/new", "x") + tar_end(), true).has_value());
    BOOST_TEST(names(root) == (std::set<std::string>{"d", "old"}));
    BOOST_TEST(names(root + "/d") == (std::set<std::string>{"new", "old"}));
    BOOST_TEST(put(tar_directory("d", 0500) + tar_file("d/x", "x") + tar_end(), false).has_value());
    BOOST_TEST(names(root) == (std::set<std::string>{"d"}));
    BOOST_TEST(names(root + "/d") == (std::set<std::string>{"x"}));
    ::umount2(root.c_str(), MNT_DETACH);
  }};
  apart.join();
}

BOOST_AUTO_TEST_CASE(a_root_in_a_parent_that_is_not_ours_is_filled_from_inside) {
  if (::geteuid() == 0) {
    BOOST_TEST_MESSAGE("root may write everywhere");
    return;
  }
  write_text(root + "/old", "x");
  ::chmod((dir / "root").c_str(), 0500);
  auto ok = put(tar_file("new", "x") + tar_end(), false);
  ::chmod((dir / "root").c_str(), 0700);
  BOOST_TEST(ok.has_value());
  BOOST_TEST(names(root) == (std::set<std::string>{"new"}));
}

BOOST_AUTO_TEST_SUITE_END()
