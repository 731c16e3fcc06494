#include "workspace/tree.hpp"

#include "test_folder.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cerrno>
#include <sys/resource.h>
#include <thread>
#include <vector>

using namespace troupe;
using namespace troupe::test;
using namespace troupe::workspace;

namespace {

/// Fewer descriptors than the trees below have levels.
struct few_descriptors {
  rlimit old;
  few_descriptors() {
    ::getrlimit(RLIMIT_NOFILE, &old);
    rlimit few{128, old.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &few);
  }
  ~few_descriptors() {
    ::setrlimit(RLIMIT_NOFILE, &old);
  }
};

/// Makes `levels` directories "d", each within the one before.
void make_deep(int root_fd, int levels) {
  unique_fd at{::openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  for (int i = 0; i < levels; ++i) {
    ::mkdirat(at.get(), "d", 0755);
    at.reset(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    BOOST_REQUIRE(at);
  }
}

std::string repeat(const std::string& part, int times) {
  std::string all;
  for (int i = 0; i < times; ++i)
    all += part;
  return all;
}

std::vector<std::string> walked(int fd) {
  std::vector<std::string> paths;
  auto done = walk(fd, [&](const tree_item& item) {
    paths.emplace_back(item.path);
    return walk_next::enter;
  });
  BOOST_TEST(done.has_value());
  return paths;
}

} // namespace

BOOST_AUTO_TEST_CASE(opening_beneath_never_leaves_the_root) {
  test_folder t;
  write_file(t.outside + "/secret", "x");
  ::symlink(t.outside.c_str(), t.in_root("absolute").c_str());
  ::symlink("../outside", t.in_root("relative").c_str());
  ::symlink("/proc/self/root", t.in_root("magic").c_str());
  for (const char* path : {"..", "../outside/secret", "/etc/passwd", "absolute/secret",
                           "relative/secret", "magic/etc/passwd", "a/../../outside"}) {
    ::mkdir(t.in_root("a").c_str(), 0755);
    BOOST_TEST(open_beneath(t.fd.get(), path, O_RDONLY) == -EXDEV, path);
  }
  BOOST_TEST(open_beneath(t.fd.get(), std::string{"a\0b", 3}, O_RDONLY) == -EINVAL);
}

BOOST_AUTO_TEST_CASE(opening_beneath_follows_links_that_stay_inside) {
  test_folder t;
  write_file(t.in_root("file"), "x");
  ::mkdir(t.in_root("a").c_str(), 0755);
  ::symlink("../file", t.in_root("a/link").c_str());
  unique_fd fd{open_beneath(t.fd.get(), "a/link", O_RDONLY)};
  BOOST_TEST(static_cast<bool>(fd));
}

BOOST_AUTO_TEST_CASE(splits_off_the_last_component) {
  auto check = [](const char* path, const char* parent, const char* name) {
    auto x = split_last(path);
    BOOST_TEST(x.parent == parent);
    BOOST_TEST(x.name == name);
  };
  check("a", ".", "a");
  check("a/b/c", "a/b", "c");
  check("/a", "/", "a");
  check("a/", "a", "");
  check(".", ".", ".");
}

// -- walk -----------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(walks_in_byte_order_with_parents_first) {
  test_folder t;
  for (const char* folder : {"b", "b/inner", "B"})
    ::mkdir(t.in_root(folder).c_str(), 0755);
  for (const char* file : {"b.txt", "a", "b/inner/x", "\xC3\xA4", "\xFF\xFE", "B/z"})
    write_file(t.in_root(file), "");
  std::vector<std::string> expected{"B",         "B/z",   "a",        "b",       "b/inner",
                                    "b/inner/x", "b.txt", "\xC3\xA4", "\xFF\xFE"};
  BOOST_TEST(walked(t.fd.get()) == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(walk_shows_links_and_does_not_enter_them) {
  test_folder t;
  write_file(t.outside + "/secret", "");
  ::symlink(t.outside.c_str(), t.in_root("link").c_str());
  auto done = walk(t.fd.get(), [&](const tree_item& item) {
    BOOST_TEST(item.path == "link");
    BOOST_TEST(S_ISLNK(item.info->st_mode));
    return walk_next::enter;
  });
  BOOST_TEST(done.has_value());
}

BOOST_AUTO_TEST_CASE(walk_skips_and_stops_as_told) {
  test_folder t;
  for (const char* folder : {"a", "b", "c"}) {
    ::mkdir(t.in_root(folder).c_str(), 0755);
    write_file(t.in_root(folder) + "/x", "");
  }
  std::vector<std::string> seen;
  auto done = walk(t.fd.get(), [&](const tree_item& item) {
    seen.emplace_back(item.path);
    return item.path == "a"     ? walk_next::skip
           : item.path == "b/x" ? walk_next::stop
                                : walk_next::enter;
  });
  BOOST_TEST(done.has_value());
  std::vector<std::string> expected{"a", "b", "b/x"};
  BOOST_TEST(seen == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(walk_passes_over_what_vanishes) {
  test_folder t;
  for (const char* file : {"a", "b", "c"})
    write_file(t.in_root(file), "");
  ::mkdir(t.in_root("d").c_str(), 0755);
  std::vector<std::string> seen;
  auto done = walk(t.fd.get(), [&](const tree_item& item) {
    seen.emplace_back(item.path);
    if (item.path == "a")
      ::unlink(t.in_root("b").c_str());
    if (item.path == "d") {
      ::rmdir(t.in_root("d").c_str());
      ::symlink(t.outside.c_str(), t.in_root("d").c_str());
    }
    return walk_next::enter;
  });
  BOOST_TEST(done.has_value());
  std::vector<std::string> expected{"a", "c", "d"};
  BOOST_TEST(seen == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(walk_reports_a_directory_that_it_may_not_read) {
  if (::geteuid() != 0)
    return;
  test_folder t;
  ::chmod(t.path.c_str(), 0755);
  ::mkdir(t.in_root("closed").c_str(), 0700);
  BOOST_REQUIRE(::seteuid(65534) == 0);
  auto done = walk(t.fd.get(), [](const tree_item&) { return walk_next::enter; });
  BOOST_REQUIRE(::seteuid(0) == 0);
  BOOST_REQUIRE(!done);
  BOOST_TEST(reason_of(done.error()) == "permission_denied");
  BOOST_TEST(context_of(done.error(), "path") == "closed");
}

BOOST_AUTO_TEST_CASE(walks_deeper_than_descriptors_and_paths_allow) {
  test_folder t{memory_folder()};
  few_descriptors limit;
  constexpr int levels = 10'000;
  make_deep(t.fd.get(), levels);
  write_file(t.in_root("z"), "");
  write_file(t.in_root(repeat("d/", 300) + "z"), "");
  auto paths = walked(t.fd.get());
  BOOST_TEST(paths.size() == levels + 2U);
  BOOST_TEST(paths[levels - 1].size() == 2U * levels - 1);
  BOOST_TEST(paths[levels] == repeat("d/", 300) + "z");
  BOOST_TEST(paths[levels + 1] == "z");
}

BOOST_AUTO_TEST_CASE(walk_stays_inside_when_a_parent_is_moved_away) {
  test_folder t;
  make_deep(t.fd.get(), 200);
  write_file(t.outside + "/secret", "");
  auto moved = t.in_root(repeat("d/", 9) + "d");
  write_file(t.in_root(repeat("d/", 9) + "z"), "");
  std::vector<std::string> seen;
  auto done = walk(t.fd.get(), [&](const tree_item& item) {
    seen.emplace_back(item.path);
    if (item.path.size() == 2 * 200 - 1) // the deepest: all near the start are closed by now
      BOOST_TEST(::rename(moved.c_str(), (t.outside + "/d").c_str()) == 0);
    return walk_next::enter;
  });
  BOOST_TEST(done.has_value());
  BOOST_TEST(std::ranges::count(seen, repeat("d/", 9) + "z") == 1);
  BOOST_TEST(std::ranges::none_of(seen, [](const auto& path) { return path.ends_with("secret"); }));
}

// -- removal --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(removes_a_link_and_not_its_target) {
  test_folder t;
  write_file(t.outside + "/kept", "x");
  ::mkdir(t.in_root("a").c_str(), 0755);
  ::symlink(t.outside.c_str(), t.in_root("a/link").c_str());
  ::symlink(t.outside.c_str(), t.in_root("link").c_str());
  BOOST_TEST(remove_tree(t.fd.get(), "link").has_value());
  BOOST_TEST(remove_tree(t.fd.get(), "a").has_value());
  BOOST_TEST(!exists(t.in_root("link")));
  BOOST_TEST(!exists(t.in_root("a")));
  BOOST_TEST(read_file(t.outside + "/kept") == "x");
}

BOOST_AUTO_TEST_CASE(removal_of_a_tree_leaves_its_neighbours) {
  test_folder t;
  for (const char* folder : {"a", "a/b", "z"})
    ::mkdir(t.in_root(folder).c_str(), 0755);
  for (const char* file : {"a/b/x", "file", "z/x"})
    write_file(t.in_root(file), "");
  BOOST_TEST(remove_tree(t.fd.get(), "a").has_value());
  std::vector<std::string> left{"file", "z", "z/x"};
  BOOST_TEST(walked(t.fd.get()) == left, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(removal_takes_only_names_of_entries) {
  test_folder t;
  write_file(t.outside + "/kept", "");
  for (const std::string& name : {std::string{".."}, std::string{"."}, std::string{},
                                  std::string{"../outside"}, std::string{"a\0b", 3}}) {
    auto done = remove_tree(t.fd.get(), name);
    BOOST_REQUIRE(!done);
    BOOST_TEST(reason_of(done.error()) == "invalid_name");
  }
  BOOST_TEST(remove_tree(t.fd.get(), "missing").has_value());
  BOOST_TEST(remove_tree_at(t.path + "/missing/too").has_value());
  BOOST_TEST(exists(t.outside + "/kept"));
}

BOOST_AUTO_TEST_CASE(empties_a_directory_of_many_names) {
  test_folder t;
  for (int i = 0; i < 3000; ++i) // several kernel buffers
    write_file(t.in_root("file-with-a-longer-name-" + std::to_string(i)), "");
  ::mkdir(t.in_root("d").c_str(), 0755);
  write_file(t.in_root("d/x"), "");
  ::mkfifo(t.in_root("fifo").c_str(), 0600);
  BOOST_TEST(remove_contents(t.fd.get()).has_value());
  BOOST_TEST(walked(t.fd.get()).empty());
}

BOOST_AUTO_TEST_CASE(removes_a_hundred_thousand_levels) {
  test_folder t{memory_folder()};
  few_descriptors limit;
  make_deep(t.fd.get(), 100'000);
  BOOST_TEST(remove_tree(t.fd.get(), "d").has_value());
  BOOST_TEST(!exists(t.in_root("d")));
}

BOOST_AUTO_TEST_CASE(removes_what_its_owner_locked) {
  test_folder t;
  ::chmod(t.path.c_str(), 0755);
  bool root = ::geteuid() == 0;
  if (root) {
    BOOST_REQUIRE(::chown(t.root.c_str(), 65534, 65534) == 0);
    BOOST_REQUIRE(::seteuid(65534) == 0);
  }
  ::mkdir(t.in_root("a").c_str(), 0755);
  ::mkdir(t.in_root("a/b").c_str(), 0755);
  write_file(t.in_root("a/b/file"), "");
  ::chmod(t.in_root("a/b").c_str(), 0);
  ::chmod(t.in_root("a").c_str(), 0500);
  auto done = remove_tree(t.fd.get(), "a");
  if (root)
    BOOST_REQUIRE(::seteuid(0) == 0);
  BOOST_TEST(done.has_value());
  BOOST_TEST(!exists(t.in_root("a")));
}

BOOST_AUTO_TEST_CASE(removal_goes_on_after_a_failure_and_reports_it) {
  test_folder t;
  for (const char* folder : {"a", "a/mount", "a/z"})
    ::mkdir(t.in_root(folder).c_str(), 0755);
  private_tmpfs mount{t.in_root("a/mount"), "size=64k"};
  if (!mount.mounted) {
    BOOST_TEST_MESSAGE("skipped: mounting is not permitted");
    return;
  }
  write_file(t.in_root("a/mount/kept"), "x");
  auto done = remove_tree(t.fd.get(), "a", "/workspace/a");
  BOOST_REQUIRE(!done);
  BOOST_TEST(outcome(done) == "workspace_archive_write_error: busy");
  BOOST_TEST(context_of(done.error(), "path") == "/workspace/a/mount");
  BOOST_TEST(!exists(t.in_root("a/z")));
  BOOST_TEST(read_file(t.in_root("a/mount/kept")) == "x");
}

BOOST_AUTO_TEST_CASE(two_removals_of_one_tree_agree) {
  test_folder t;
  for (int i = 0; i < 20; ++i) {
    auto folder = t.in_root("d" + std::to_string(i));
    ::mkdir(folder.c_str(), 0755);
    for (int k = 0; k < 20; ++k)
      write_file(folder + '/' + std::to_string(k), "");
  }
  std::atomic<bool> other_ok = false;
  std::thread other{[&] { other_ok = remove_contents(t.fd.get()).has_value(); }};
  bool ok = remove_contents(t.fd.get()).has_value();
  other.join();
  BOOST_TEST(ok);
  BOOST_TEST(other_ok);
  BOOST_TEST(walked(t.fd.get()).empty());
}

// -- making ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(makes_directories_through_inner_links_only) {
  test_folder t;
  ::mkdir(t.in_root("a").c_str(), 0755);
  ::mkdir(t.in_root("b").c_str(), 0755);
  ::symlink("../b", t.in_root("a/inner").c_str());
  ::symlink(t.outside.c_str(), t.in_root("a/outer").c_str());
  ::symlink("nowhere", t.in_root("a/dangling").c_str());
  write_file(t.in_root("file"), "");
  BOOST_TEST(make_directories(t.fd.get(), "a/inner/c/d").has_value());
  BOOST_TEST(exists(t.in_root("b/c/d")));
  BOOST_TEST(make_directories(t.fd.get(), "a/inner/c/d").has_value());
  auto reason = [&](const char* path) {
    auto done = make_directories(t.fd.get(), path);
    return done ? "" : reason_of(done.error());
  };
  BOOST_TEST(reason("a/outer/x") == "escape_root");
  BOOST_TEST(reason("../outside/x") == "escape_root");
  BOOST_TEST(reason("a/dangling/x") == "not_found");
  BOOST_TEST(reason("file/x") == "not_a_directory");
  BOOST_TEST(reason(repeat("n", 300).c_str()) == "name_too_long");
  BOOST_TEST(!exists(t.outside + "/x"));
}

BOOST_AUTO_TEST_CASE(makes_host_directories_with_parents) {
  test_folder t;
  for (int i = 0; i < 2; ++i) {
    auto fd = open_or_make_directory(t.path + "/x/y/", 0700);
    BOOST_REQUIRE(fd.has_value());
    BOOST_TEST(mode_of(t.path + "/x/y") == 0700U);
  }
  write_file(t.path + "/file", "");
  auto fd = open_or_make_directory(t.path + "/file/y", 0700);
  BOOST_REQUIRE(!fd);
  BOOST_TEST(reason_of(fd.error()) == "not_a_directory");
}

// -- data -----------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(copies_data_with_its_holes) {
  test_folder t;
  constexpr off_t size = 64 << 20;
  unique_fd in{::open(t.in_root("in").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  BOOST_REQUIRE(::pwrite(in.get(), "first", 5, 0) == 5);
  BOOST_REQUIRE(::pwrite(in.get(), "middle", 6, 32 << 20) == 6);
  BOOST_REQUIRE(::ftruncate(in.get(), size) == 0);
  unique_fd out{::open(t.in_root("out").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  BOOST_TEST(copy_data(in.get(), out.get()) == 0);
  struct stat st;
  BOOST_REQUIRE(::fstat(out.get(), &st) == 0);
  BOOST_TEST(st.st_size == size);
  BOOST_TEST(st.st_blocks * 512 < 1 << 20);
  char text[7] = {};
  BOOST_TEST(::pread(out.get(), text, 6, 32 << 20) == 6);
  BOOST_TEST(std::string{text} == "middle");
}

BOOST_AUTO_TEST_CASE(copies_from_where_the_source_stands) {
  test_folder t;
  write_file(t.in_root("in"), std::string(300'000, 'a') + "tail");
  for (bool append : {false, true}) { // copy_file_range refuses O_APPEND
    unique_fd in{::open(t.in_root("in").c_str(), O_RDONLY | O_CLOEXEC)};
    auto path = t.in_root(append ? "appended" : "copied");
    unique_fd out{
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : 0), 0600)};
    BOOST_REQUIRE(::lseek(in.get(), 299'999, SEEK_SET) == 299'999);
    BOOST_TEST(copy_data(in.get(), out.get()) == 0);
    BOOST_TEST(read_file(path) == "atail");
  }
  BOOST_TEST(copy_data(-1, -1) == -EBADF);
}

BOOST_AUTO_TEST_CASE(changes_the_mode_of_a_path_descriptor) {
  test_folder t;
  write_file(t.in_root("file"), "");
  unique_fd fd{open_beneath(t.fd.get(), "file", O_PATH)};
  BOOST_TEST(change_mode(fd.get(), 0741) == 0);
  BOOST_TEST(mode_of(t.in_root("file")) == 0741U);
}
