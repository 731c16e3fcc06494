#include "workspace/materialize.hpp"

#include "test_folder.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <grp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>

using namespace troupe;
using namespace troupe::test;
using namespace troupe::workspace;

namespace {

entry file_entry_of(std::string content, int other = 5) {
  entry x;
  x.content = std::move(content);
  x.permissions.other = other;
  return x;
}

entry source_entry(entry_kind kind, const std::string& src) {
  entry x;
  x.kind = kind;
  x.src = src;
  return x;
}

path_grant grant(const std::string& path, std::optional<std::string> host_path = std::nullopt) {
  return {path, true, std::nullopt, std::move(host_path)};
}

/// Names below `folder`, directories with a slash at the end.
std::vector<std::string> tree_of(const std::string& folder) {
  unique_fd fd{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  std::vector<std::string> found;
  (void) walk(fd.get(), [&](const tree_item& item) {
    found.push_back(std::string{item.path} + (S_ISDIR(item.info->st_mode) ? "/" : ""));
    return walk_next::enter;
  });
  return found;
}

/// A workspace and a source folder on the host, allowed as base folder.
struct source_test : test_folder {
  std::string source = path + "/source";
  local_source_policy policy{source, {}};
  std::vector<path_grant> grants;
  std::stop_source stop;
  std::optional<int32_t> parallel = 4;

  source_test() {
    ::mkdir(source.c_str(), 0755);
  }

  result<materialized_file> copy_file(const std::string& src) {
    return copy_local_file(policy, fd.get(), "/workspace", "copied",
                           source_entry(entry_kind::local_file, src), grants, stop.get_token());
  }
  result<std::vector<materialized_file>> copy_dir(const std::string& src) {
    return copy_local_dir(policy, fd.get(), "/workspace", "copied",
                          source_entry(entry_kind::local_dir, src), grants, parallel,
                          stop.get_token(), {});
  }
};

constexpr const char* sha256_of_abc
  = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

} // namespace

// -- inline files ---------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(writes_inline_files_with_their_modes) {
  test_folder t;
  auto a = file_entry_of("one", 7); // a bit that the umask takes
  auto b = file_entry_of(std::string{"\0\xFF", 2}, 0);
  std::vector<inline_file> files{{"a", &a}, {"x/y/b", &b}, {"x/y/c", &a}};
  BOOST_TEST(outcome(write_inline_files(t.fd.get(), files, {})) == "ok");
  BOOST_TEST(read_file(t.in_root("a")) == "one");
  BOOST_TEST(mode_of(t.in_root("a")) == 0757U);
  BOOST_TEST(read_file(t.in_root("x/y/b")) == (std::string{"\0\xFF", 2}));
  BOOST_TEST(mode_of(t.in_root("x/y/b")) == 0750U);
  BOOST_TEST(mode_of(t.in_root("x")) == 0755U);
}

BOOST_AUTO_TEST_CASE(writes_inline_files_over_what_an_earlier_run_left) {
  test_folder t;
  auto x = file_entry_of("new");
  write_file(t.in_root("whole"), "old and longer");
  write_file(t.in_root("partial"), "n");
  ::chmod(t.in_root("partial").c_str(), 0200);
  write_file(t.in_root(".troupe-0123456789abcdef.tmp"), "left over");
  ::mkdir(t.in_root("b").c_str(), 0755);
  write_file(t.in_root("b/target"), "old");
  ::symlink("b/target", t.in_root("link").c_str());
  std::vector<inline_file> files{{"whole", &x}, {"partial", &x}, {"link", &x}, {"b/new", &x}};
  for (int run = 0; run < 2; ++run)
    BOOST_TEST(outcome(write_inline_files(t.fd.get(), files, {})) == "ok");
  for (const char* path : {"whole", "partial", "b/target", "b/new"}) {
    BOOST_TEST(read_file(t.in_root(path)) == "new");
    BOOST_TEST(mode_of(t.in_root(path)) == 0755U);
  }
}

BOOST_AUTO_TEST_CASE(inline_files_never_land_outside) {
  test_folder t;
  auto x = file_entry_of("x");
  ::symlink("../outside", t.in_root("folder").c_str());
  ::symlink((t.outside + "/new").c_str(), t.in_root("link").c_str());
  ::mkdir(t.in_root("d").c_str(), 0755);
  auto put = [&](const char* path) {
    return outcome(write_inline_files(t.fd.get(), {{path, &x}}, {}));
  };
  for (const char* path : {"folder/new", "folder/a/new", "link", "../outside/new"})
    BOOST_TEST(put(path) == "invalid_manifest_path: escape_root");
  BOOST_TEST(put("d") == "workspace_archive_write_error: is_directory");
  BOOST_TEST(put("d/") == "workspace_archive_write_error: is_directory");
  BOOST_TEST(tree_of(t.outside).empty());
}

BOOST_AUTO_TEST_CASE(inline_files_stop_when_asked) {
  test_folder t;
  auto x = file_entry_of("x");
  std::stop_source stop;
  stop.request_stop();
  BOOST_TEST(outcome(write_inline_files(t.fd.get(), {{"a", &x}}, stop.get_token()))
             == "cancelled: ");
  BOOST_TEST(!exists(t.in_root("a")));
}

BOOST_AUTO_TEST_CASE(inline_files_tell_a_full_disk_and_leave_no_piece) {
  test_folder t;
  private_tmpfs disk{t.root, "size=256k"};
  if (!disk.mounted) {
    BOOST_TEST_MESSAGE("skipped: mounting is not permitted");
    return;
  }
  t.fd.reset(::open(t.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto x = file_entry_of(std::string(1 << 20, 'x'));
  auto done = write_inline_files(t.fd.get(), {{"a/big", &x}}, {});
  BOOST_REQUIRE(!done);
  BOOST_TEST(outcome(done) == "no_space: no_space");
  BOOST_TEST(context_of(done.error(), "path") == "a/big");
  BOOST_TEST(!exists(t.in_root("a/big")));
  t.fd.reset();
}

// -- directories and metadata ---------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(makes_entry_directories_again_and_again) {
  test_folder t;
  entry x;
  x.kind = entry_kind::dir;
  x.permissions = {7, 7, 1, true};
  for (int run = 0; run < 2; ++run) {
    BOOST_TEST(outcome(make_entry_directory(t.fd.get(), "a/b", x)) == "ok");
    BOOST_TEST(mode_of(t.in_root("a/b")) == 0771U);
    BOOST_TEST(mode_of(t.in_root("a")) == 0755U);
    ::chmod(t.in_root("a/b").c_str(), 0);
  }
  ::symlink("../outside", t.in_root("link").c_str());
  BOOST_TEST(outcome(make_entry_directory(t.fd.get(), "link", x))
             == "invalid_manifest_path: escape_root");
  BOOST_TEST(mode_of(t.outside) == 0755U);
}

BOOST_AUTO_TEST_CASE(sets_the_group_by_name_or_number) {
  test_folder t;
  write_file(t.in_root("a"), "");
  auto x = file_entry_of("");
  x.group = entry_group{std::to_string(::getegid()), std::nullopt};
  BOOST_TEST(outcome(apply_metadata(t.fd.get(), "a", x)) == "ok");
  if (auto* first = ::getgrgid(1); first != nullptr && ::geteuid() == 0) {
    x.group->name = first->gr_name;
    BOOST_TEST(outcome(write_inline_files(t.fd.get(), {{"b", &x}}, {})) == "ok");
    struct stat st;
    BOOST_REQUIRE(::stat(t.in_root("b").c_str(), &st) == 0);
    BOOST_TEST(st.st_gid == 1U);
  }
}

BOOST_AUTO_TEST_CASE(an_unknown_group_fails_as_chgrp_does) {
  test_folder t;
  auto x = file_entry_of("");
  x.group = entry_group{"no such group", std::nullopt};
  auto done = write_inline_files(t.fd.get(), {{"a", &x}}, {});
  BOOST_REQUIRE(!done);
  BOOST_TEST((done.error().code == errc::exec_nonzero));
  auto context = nlohmann::json::parse(done.error().context);
  BOOST_TEST(context["command"].dump() == R"(["chgrp","no such group","a"])");
  BOOST_TEST(context["exit_code"] == 1);
}

BOOST_AUTO_TEST_CASE(metadata_never_reaches_outside) {
  test_folder t;
  ::symlink("../outside", t.in_root("link").c_str());
  BOOST_TEST(outcome(apply_metadata(t.fd.get(), "link", file_entry_of("", 0)))
             == "invalid_manifest_path: escape_root");
  BOOST_TEST(mode_of(t.outside) == 0755U);
}

// -- local_file -----------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(copies_a_local_file_with_its_checksum) {
  source_test t;
  write_file(t.source + "/abc", "abc");
  for (const auto& src : {std::string{"abc"}, std::string{"./x/..//abc"}, t.source + "/abc"}) {
    auto copied = t.copy_file(src);
    BOOST_REQUIRE(copied.has_value());
    BOOST_TEST(copied->path == "/workspace/copied");
    BOOST_TEST(copied->sha256 == sha256_of_abc);
    BOOST_TEST(read_file(t.in_root("copied")) == "abc");
    BOOST_TEST(mode_of(t.in_root("copied")) == 0755U); // of the entry, not of the source
  }
}

BOOST_AUTO_TEST_CASE(sources_outside_of_the_base_folder_are_refused) {
  source_test t;
  write_file(t.outside + "/x", "");
  t.grants.push_back(grant("/nowhere"));
  for (const auto& src : {std::string{"../outside/x"}, t.outside + "/x", std::string{"/etc/passwd"},
                          t.source + "-not/x", std::string{"a/../../outside/x"}}) {
    auto copied = t.copy_file(src);
    BOOST_REQUIRE(!copied);
    BOOST_TEST(outcome(copied) == "local_file_read_error: outside_base_dir");
    auto context = nlohmann::json::parse(copied.error().context);
    BOOST_TEST(context["base_dir"] == t.source);
    BOOST_TEST(context["extra_path_grants"].dump() == R"(["/nowhere"])");
  }
  auto copied = t.copy_file("../outside/x");
  BOOST_TEST(copied.error().message == "failed to read local file artifact: " + t.outside + "/x");
  BOOST_TEST(context_of(copied.error(), "src") == t.outside + "/x");
  BOOST_TEST(outcome(t.copy_dir(t.outside)) == "local_dir_read_error: outside_base_dir");
}

BOOST_AUTO_TEST_CASE(without_a_configured_folder_everything_is_refused) {
  source_test t;
  write_file(t.source + "/x", "");
  t.policy = {};
  t.grants.push_back(grant(t.source));
  for (const auto& src : {std::string{"x"}, t.source + "/x", std::string{"/etc/passwd"}}) {
    auto copied = t.copy_file(src);
    BOOST_REQUIRE(!copied);
    BOOST_TEST(outcome(copied) == "local_file_read_error: outside_base_dir");
    BOOST_TEST(context_of(copied.error(), "detail")
               == "the server's configuration lists no local source roots");
  }
  t.policy.roots = {t.source};
  BOOST_TEST(outcome(t.copy_file(t.source + "/x")) == "ok");
  BOOST_TEST(outcome(t.copy_file("x")) == "local_file_read_error: outside_base_dir");
}

BOOST_AUTO_TEST_CASE(further_roots_and_grants_are_allowed_with_their_links_resolved) {
  source_test t;
  write_file(t.outside + "/x", "");
  ::symlink(t.outside.c_str(), (t.path + "/alias").c_str());
  t.policy.roots = {t.path + "/alias"};
  BOOST_TEST(outcome(t.copy_file("../outside/x")) == "ok");
  t.policy.roots.clear();
  t.grants = {grant(t.path + "/alias")};
  BOOST_TEST(outcome(t.copy_file(t.outside + "/x")) == "ok");
  t.grants = {grant("/elsewhere", t.outside)};
  BOOST_TEST(outcome(t.copy_file(t.outside + "/x")) == "ok");
  t.grants = {grant(t.outside, "/elsewhere")};
  BOOST_TEST(outcome(t.copy_file(t.outside + "/x")) == "local_file_read_error: outside_base_dir");
  ::symlink("/", (t.path + "/slash").c_str());
  t.grants = {grant(t.path + "/slash")};
  auto copied = t.copy_file("/etc/passwd");
  BOOST_REQUIRE(!copied);
  BOOST_TEST((copied.error().code == errc::sandbox_config_invalid));
}

BOOST_AUTO_TEST_CASE(no_component_of_a_source_may_be_a_link) {
  source_test t;
  ::mkdir((t.source + "/real").c_str(), 0755);
  write_file(t.source + "/real/x", "");
  ::symlink("real", (t.source + "/link").c_str());
  ::symlink("x", (t.source + "/real/leaf").c_str());
  auto child = [&](const std::string& src) {
    auto copied = t.copy_file(src);
    BOOST_TEST(outcome(copied) == "local_file_read_error: symlink_not_supported");
    return copied ? "" : context_of(copied.error(), "child");
  };
  BOOST_TEST(child("link/x") == "link");
  BOOST_TEST(child("real/leaf") == "real/leaf");
  BOOST_TEST(child(t.source + "/link/x") == (t.source + "/link").substr(1));
  auto copied = t.copy_dir("link");
  BOOST_TEST(outcome(copied) == "local_dir_read_error: symlink_not_supported");
}

BOOST_AUTO_TEST_CASE(what_is_missing_or_no_file_is_told_at_once) {
  source_test t;
  ::mkdir((t.source + "/folder").c_str(), 0755);
  ::mkfifo((t.source + "/fifo").c_str(), 0600);
  write_file(t.source + "/file", "");
  auto missing = t.copy_file("nope");
  BOOST_TEST(outcome(missing) == "local_file_read_error: path_changed_during_copy");
  BOOST_TEST(context_of(missing.error(), "child") == "nope");
  BOOST_TEST(outcome(t.copy_file("no/x")) == "local_file_read_error: path_not_found");
  BOOST_TEST(outcome(t.copy_file("file/x")) == "local_file_read_error: not_a_directory");
  BOOST_TEST(outcome(t.copy_file("fifo")) == "local_file_read_error: path_changed_during_copy");
  BOOST_TEST(outcome(t.copy_file("folder")) == "local_file_read_error: path_changed_during_copy");
  BOOST_TEST(outcome(t.copy_file(std::string{"file\0x", 6}))
             == "local_file_read_error: invalid_name");
  BOOST_TEST(outcome(t.copy_dir("nope")) == "local_dir_read_error: path_not_found");
  BOOST_TEST(outcome(t.copy_dir("file")) == "local_dir_read_error: not_a_directory");
  BOOST_TEST(!exists(t.in_root("copied")));
}

// -- local_dir ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(copies_a_folder_with_modes_and_empty_folders) {
  source_test t;
  for (const char* folder : {"/d", "/d/empty", "/d/locked"})
    ::mkdir((t.source + folder).c_str(), 0755);
  write_file(t.source + "/d/b", "abc");
  write_file(t.source + "/d/a", "");
  write_file(t.source + "/d/locked/z", "abc");
  write_file(t.source + "/d/\xFF", "abc");
  ::chmod((t.source + "/d/b").c_str(), 0755);
  ::chmod((t.source + "/d/a").c_str(), 0666);
  ::chmod((t.source + "/d/locked/z").c_str(), 04400);
  ::chmod((t.source + "/d/locked").c_str(), 0500);
  ::chmod((t.source + "/d/empty").c_str(), 01777);
  ::chmod((t.source + "/d").c_str(), 0700);
  for (int run = 0; run < 2; ++run) {
    auto copied = t.copy_dir("d");
    BOOST_REQUIRE(copied.has_value());
    std::vector<std::string> paths;
    for (const auto& file : *copied)
      paths.push_back(file.path);
    std::vector<std::string> expected{"/workspace/copied/a", "/workspace/copied/b",
                                      "/workspace/copied/locked/z", "/workspace/copied/\xFF"};
    BOOST_TEST(paths == expected, boost::test_tools::per_element());
    BOOST_TEST((*copied)[1].sha256 == sha256_of_abc);
    std::vector<std::string> tree{"a", "b", "empty/", "locked/", "locked/z", "\xFF"};
    BOOST_TEST(tree_of(t.in_root("copied")) == tree, boost::test_tools::per_element());
    BOOST_TEST(mode_of(t.in_root("copied")) == 0755U); // the entry's own
    BOOST_TEST(mode_of(t.in_root("copied/a")) == 0666U);
    BOOST_TEST(mode_of(t.in_root("copied/b")) == 0755U);
    BOOST_TEST(mode_of(t.in_root("copied/locked")) == 0500U);
    BOOST_TEST(mode_of(t.in_root("copied/locked/z")) == 0400U);
    BOOST_TEST(mode_of(t.in_root("copied/empty")) == 0777U);
  }
}

BOOST_AUTO_TEST_CASE(a_folder_without_source_is_just_made) {
  source_test t;
  entry x;
  x.kind = entry_kind::local_dir;
  auto copied = copy_local_dir(t.policy, t.fd.get(), "/workspace", "copied", x, {}, {}, {}, {});
  BOOST_REQUIRE(copied.has_value());
  BOOST_TEST(copied->empty());
  BOOST_TEST(exists(t.in_root("copied")));
}

BOOST_AUTO_TEST_CASE(special_files_are_passed_over_and_links_refused) {
  source_test t;
  ::mkdir((t.source + "/d").c_str(), 0755);
  ::mkdir((t.source + "/d/e").c_str(), 0755);
  write_file(t.source + "/d/e/file", "");
  ::mkfifo((t.source + "/d/fifo").c_str(), 0600);
  unique_fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_un name{AF_UNIX, {}};
  (t.source + "/d/socket").copy(name.sun_path, sizeof name.sun_path - 1);
  BOOST_REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
  BOOST_TEST(outcome(t.copy_dir("d")) == "ok");
  std::vector<std::string> tree{"e/", "e/file"};
  BOOST_TEST(tree_of(t.in_root("copied")) == tree, boost::test_tools::per_element());
  ::symlink("file", (t.source + "/d/e/link").c_str());
  auto copied = t.copy_dir("d");
  BOOST_TEST(outcome(copied) == "local_dir_read_error: symlink_not_supported");
  BOOST_TEST(context_of(copied.error(), "child") == "e/link");
}

BOOST_AUTO_TEST_CASE(copies_the_base_folder_itself) {
  source_test t;
  write_file(t.source + "/file", "abc");
  BOOST_TEST(outcome(t.copy_dir(".")) == "ok");
  BOOST_TEST(read_file(t.in_root("copied/file")) == "abc");
}

BOOST_AUTO_TEST_CASE(copies_many_files_side_by_side_in_path_order) {
  source_test t;
  ::mkdir((t.source + "/d").c_str(), 0755);
  for (int i = 0; i < 10; ++i) {
    auto folder = t.source + "/d/" + std::to_string(i);
    ::mkdir(folder.c_str(), 0755);
    for (int k = 0; k < 50; ++k)
      write_file(folder + '/' + std::to_string(k), std::string(static_cast<size_t>(k) * 1000, 'x'));
  }
  uint64_t reported = 0;
  auto caller = std::this_thread::get_id();
  for (std::optional<int32_t> parallel : std::vector<std::optional<int32_t>>{{}, 1, 4, 0}) {
    auto copied = copy_local_dir(t.policy, t.fd.get(), "/workspace", "c", // also over what is there
                                 source_entry(entry_kind::local_dir, "d"), {}, parallel, {},
                                 [&](uint64_t files) {
                                   reported = files;
                                   BOOST_TEST((std::this_thread::get_id() == caller));
                                 });
    BOOST_REQUIRE(copied.has_value());
    BOOST_TEST(copied->size() == 500U);
    BOOST_TEST(reported == 500U);
    BOOST_TEST(std::ranges::is_sorted(*copied, {}, &materialized_file::path));
    BOOST_TEST(std::ranges::none_of(*copied, [](const auto& x) { return x.sha256.size() != 64; }));
    BOOST_TEST(read_file(t.in_root("c/7/49")).size() == 49'000U);
  }
  write_file(t.in_root("in the way"), "");
  auto refused = copy_local_dir(t.policy, t.fd.get(), "/workspace", "in the way",
                                source_entry(entry_kind::local_dir, "d"), {}, 4, {}, {});
  BOOST_TEST(outcome(refused) == "workspace_archive_write_error: not_a_directory");
}

BOOST_AUTO_TEST_CASE(copying_a_folder_stops_when_asked) {
  source_test t;
  write_file(t.source + "/file", "");
  t.stop.request_stop();
  BOOST_TEST(outcome(t.copy_file("file")) == "cancelled: ");
  BOOST_TEST(!exists(t.in_root("copied")));
  BOOST_TEST(outcome(t.copy_dir(".")) == "cancelled: ");
  BOOST_TEST(!exists(t.in_root("copied/file")));
}

BOOST_AUTO_TEST_CASE(a_source_that_is_swapped_while_copied_leaks_nothing) {
  source_test t;
  write_file(t.outside + "/file", "secret");
  for (const char* folder : {"/d", "/d/a"})
    ::mkdir((t.source + folder).c_str(), 0755);
  write_file(t.source + "/d/a/file", "public");
  auto folder = t.source + "/d/a";
  auto link = t.path + "/link";
  ::symlink(t.outside.c_str(), link.c_str());
  std::jthread swapper{[&](const std::stop_token& stop) {
    while (!stop.stop_requested())
      ::renameat2(AT_FDCWD, folder.c_str(), AT_FDCWD, link.c_str(), RENAME_EXCHANGE);
  }};
  int leaked = 0;
  for (int i = 0; i < 500; ++i) {
    (void) t.copy_dir("d");
    leaked += read_file(t.in_root("copied/a/file")) == "secret";
    (void) remove_contents(t.fd.get());
    (void) t.copy_file("d/a/file");
    leaked += read_file(t.in_root("copied")) == "secret";
    (void) remove_contents(t.fd.get());
  }
  BOOST_TEST(leaked == 0);
}

// -- git ------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(checks_the_subpath_of_a_repository) {
  entry x;
  x.repo = "o/n";
  BOOST_TEST(check_git_subpath(x).value() == "");
  auto check = [&](const char* subpath) {
    x.subpath = subpath;
    auto checked = check_git_subpath(x);
    return checked ? *checked : outcome(checked);
  };
  BOOST_TEST(check("") == "");
  BOOST_TEST(check(".") == "");
  BOOST_TEST(check("lib") == "lib");
  BOOST_TEST(check("./lib//x/") == "lib/x");
  BOOST_TEST(check("a..b/...") == "a..b/...");
  BOOST_TEST(check("  ") == "git_subpath_error: empty");
  BOOST_TEST(check("/lib") == "git_subpath_error: absolute");
  BOOST_TEST(check("a\\b") == "git_subpath_error: windows_path");
  BOOST_TEST(check("C:lib") == "git_subpath_error: windows_path");
  BOOST_TEST(check("..") == "git_subpath_error: parent_traversal");
  x.subpath = "a/../b";
  auto refused = check_git_subpath(x);
  BOOST_TEST(outcome(refused) == "git_subpath_error: parent_traversal");
  BOOST_TEST(refused.error().message
             == "git repo subpath must be a relative path inside the repository: a/../b");
  BOOST_TEST(context_of(refused.error(), "repo") == "o/n");
  BOOST_TEST(context_of(refused.error(), "subpath") == "a/../b");
}

BOOST_AUTO_TEST_CASE(a_named_ref_is_cloned) {
  entry x;
  x.repo = "o/n";
  x.ref = "v1.0";
  BOOST_TEST(git_url(x) == "https://github.com/o/n.git");
  auto attempts = git_attempts(x, "/tmp/t");
  BOOST_REQUIRE(attempts.size() == 1U);
  std::vector<std::string> clone{"git",
                                 "-c",
                                 "protocol.ext.allow=never",
                                 "clone",
                                 "--depth",
                                 "1",
                                 "--no-tags",
                                 "--branch=v1.0",
                                 "--",
                                 git_url(x),
                                 "/tmp/t"};
  BOOST_REQUIRE(attempts[0].size() == 1U);
  BOOST_TEST(attempts[0][0] == clone, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_ref_like_a_commit_is_fetched_first_and_then_cloned) {
  entry x;
  x.repo = "o/n";
  for (const char* ref : {"abcdef0", "0123456789abcdefABCDEF0123456789abcdef01"}) {
    x.ref = ref;
    auto attempts = git_attempts(x, "/tmp/t");
    BOOST_REQUIRE(attempts.size() == 2U);
    BOOST_REQUIRE(attempts[0].size() == 4U);
    BOOST_TEST(attempts[0][2].back() == ref);
    BOOST_TEST(attempts[0][3].back() == "FETCH_HEAD");
    BOOST_TEST(attempts[1].size() == 1U);
  }
  for (const char* ref :
       {"abcdef", "0123456789abcdefABCDEF0123456789abcdef012", "abcdefg", "abcdef0\n"}) {
    x.ref = ref;
    BOOST_TEST(git_attempts(x, "/tmp/t").size() == 1U);
  }
}

BOOST_AUTO_TEST_CASE(nothing_of_a_repository_entry_becomes_an_option) {
  entry x;
  for (const char* hostile :
       {"--upload-pack=touch x", "-b", "--config=core.sshCommand=x", "ext::sh -c x"}) {
    x.host = x.repo = x.ref = hostile;
    for (const auto& attempt : git_attempts(x, "/tmp/t"))
      for (const auto& command : attempt) {
        auto end = std::ranges::find(command, "--");
        BOOST_TEST((end != command.end()));
        BOOST_TEST(std::count(command.begin(), end, hostile) == 0);
        BOOST_TEST(std::count(end, command.end(), git_url(x)) == 1);
      }
    BOOST_TEST(git_url(x).starts_with("https://"));
  }
}

BOOST_AUTO_TEST_CASE(adopts_a_repository_by_renaming_it) {
  test_folder t;
  ::mkdir((t.path + "/tmp").c_str(), 0755);
  write_file(t.path + "/tmp/file", "x");
  struct stat before, after;
  BOOST_REQUIRE(::stat((t.path + "/tmp/file").c_str(), &before) == 0);
  BOOST_TEST(outcome(adopt_git_tree(t.fd.get(), "a/repo", t.path + "/tmp", "")) == "ok");
  BOOST_REQUIRE(::stat(t.in_root("a/repo/file").c_str(), &after) == 0);
  BOOST_TEST(before.st_ino == after.st_ino);
}

BOOST_AUTO_TEST_CASE(adopts_a_folder_of_a_repository) {
  test_folder t;
  for (const char* folder : {"/tmp", "/tmp/lib", "/tmp/lib/inner"})
    ::mkdir((t.path + folder).c_str(), 0755);
  write_file(t.path + "/tmp/lib/inner/file", "x");
  write_file(t.path + "/tmp/other", "");
  BOOST_TEST(outcome(adopt_git_tree(t.fd.get(), "repo", t.path + "/tmp", "lib/inner")) == "ok");
  std::vector<std::string> tree{"file"};
  BOOST_TEST(tree_of(t.in_root("repo")) == tree, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(adopts_a_repository_over_what_is_there) {
  test_folder t;
  for (const char* folder : {"/tmp", "/tmp/d", "/tmp/empty", "/root/repo", "/root/repo/d"})
    ::mkdir((t.path + folder).c_str(), 0755);
  write_file(t.path + "/tmp/d/replaced", "new");
  write_file(t.path + "/tmp/run", "run");
  ::chmod((t.path + "/tmp/run").c_str(), 0755);
  ::symlink("/etc/passwd", (t.path + "/tmp/link").c_str());
  ::mkfifo((t.path + "/tmp/fifo").c_str(), 0600);
  write_file(t.in_root("repo/d/replaced"), "old");
  write_file(t.in_root("repo/d/kept"), "kept");
  write_file(t.in_root("repo/link"), "was a file");
  for (int run = 0; run < 2; ++run) {
    BOOST_TEST(outcome(adopt_git_tree(t.fd.get(), "repo", t.path + "/tmp", "")) == "ok");
    std::vector<std::string> tree{"d/", "d/kept", "d/replaced", "empty/", "link", "run"};
    BOOST_TEST(tree_of(t.in_root("repo")) == tree, boost::test_tools::per_element());
    BOOST_TEST(read_file(t.in_root("repo/d/replaced")) == "new");
    BOOST_TEST(mode_of(t.in_root("repo/run")) == 0755U);
    char target[64] = {};
    BOOST_TEST(::readlink(t.in_root("repo/link").c_str(), target, sizeof target - 1) == 11);
  }
}

BOOST_AUTO_TEST_CASE(a_hostile_repository_is_not_adopted) {
  test_folder t;
  ::mkdir((t.path + "/tmp").c_str(), 0755);
  write_file(t.path + "/tmp/file", "");
  write_file(t.outside + "/secret", "");
  ::symlink("../outside", (t.path + "/tmp/link").c_str());
  ::symlink("../outside", t.in_root("out").c_str());
  auto adopt = [&](const char* destination, const char* subpath) {
    return outcome(adopt_git_tree(t.fd.get(), destination, t.path + "/tmp", subpath));
  };
  BOOST_TEST(adopt("repo", "missing") == "git_copy_error: not_found");
  BOOST_TEST(adopt("repo", "file") == "git_copy_error: not_found");
  BOOST_TEST(adopt("repo", "link") == "git_copy_error: escape_root");
  BOOST_TEST(adopt("out/repo", "") == "git_copy_error: copy_failed");
  BOOST_TEST(!exists(t.in_root("repo")));
  std::vector<std::string> tree{"secret"};
  BOOST_TEST(tree_of(t.outside) == tree, boost::test_tools::per_element());
  BOOST_TEST(outcome(adopt_git_tree(t.fd.get(), "repo", t.path + "/no", ""))
             == "git_copy_error: not_found");
}
