#include "workspace/file_ops.hpp"

#include "test_folder.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <vector>

using namespace troupe;
using namespace troupe::test;
using namespace troupe::workspace;

namespace {

std::string read_all(const open_file& x) {
  std::string text(x.size, '\0');
  auto n = ::pread(x.fd.get(), text.data(), text.size(), 0);
  text.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return text;
}

std::string read_outcome(const test_folder& t, const std::string& path) {
  return outcome(open_for_read(t.fd.get(), path, "/workspace/" + path));
}

result<void> write(const test_folder& t, const std::string& path, const std::string& text,
                   std::optional<uint32_t> mode = std::nullopt, bool durable = false) {
  auto file = staged_file::create(t.fd.get(), path, "/workspace/" + path);
  if (!file)
    return unexpected(file.error());
  if (auto done = file->append(text.data(), text.size()); !done)
    return done;
  return file->commit(mode, durable);
}

std::vector<std::string> names(const std::string& folder) {
  unique_fd fd{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  std::vector<std::string> found;
  (void) walk(fd.get(), [&](const tree_item& item) {
    found.emplace_back(item.path);
    return walk_next::skip;
  });
  return found;
}

void make_socket(const std::string& path) {
  unique_fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::snprintf(name.sun_path, sizeof name.sun_path, "%s", path.c_str());
  BOOST_REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
}

/// Swaps two names for each other, again and again, until it is destroyed.
class swapper {
public:
  swapper(std::string a, std::string b)
    : thread_([this, a = std::move(a), b = std::move(b)](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
          ++swaps;
        }
      }) {
    while (swaps == 0)
      std::this_thread::yield();
  }

  std::atomic<uint64_t> swaps = 0;

private:
  std::jthread thread_;
};

} // namespace

// -- reading --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(opens_a_file_with_its_attributes) {
  test_folder t;
  write_file(t.in_root("a"), "text");
  ::chmod(t.in_root("a").c_str(), 0640);
  auto file = open_for_read(t.fd.get(), "a", "/workspace/a");
  BOOST_REQUIRE(file.has_value());
  struct stat st;
  BOOST_REQUIRE(::stat(t.in_root("a").c_str(), &st) == 0);
  BOOST_TEST(file->size == 4U);
  BOOST_TEST(file->mode == 0640U);
  BOOST_TEST(file->inode == st.st_ino);
  BOOST_TEST(file->mtime_ns == st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec);
  BOOST_TEST(read_all(*file) == "text");
}

BOOST_AUTO_TEST_CASE(a_missing_file_is_named_as_shown) {
  test_folder t;
  auto file = open_for_read(t.fd.get(), "no/such", "/workspace/no/such");
  BOOST_REQUIRE(!file);
  BOOST_TEST(outcome(file) == "workspace_read_not_found: ");
  BOOST_TEST(file.error().message == "file not found: /workspace/no/such");
  BOOST_TEST(context_of(file.error(), "path") == "/workspace/no/such");
}

BOOST_AUTO_TEST_CASE(only_regular_files_are_read_and_nothing_waits) {
  test_folder t;
  ::mkdir(t.in_root("folder").c_str(), 0755);
  ::mkfifo(t.in_root("fifo").c_str(), 0600);
  make_socket(t.in_root("socket"));
  ::symlink("fifo", t.in_root("link").c_str());
  write_file(t.in_root("file"), "");
  ::symlink("loop", t.in_root("loop").c_str());
  BOOST_TEST(read_outcome(t, "folder") == "workspace_archive_read_error: is_directory");
  BOOST_TEST(read_outcome(t, ".") == "workspace_archive_read_error: is_directory");
  BOOST_TEST(read_outcome(t, "fifo") == "workspace_archive_read_error: not_a_regular_file");
  BOOST_TEST(read_outcome(t, "link") == "workspace_archive_read_error: not_a_regular_file");
  BOOST_TEST(read_outcome(t, "socket") == "workspace_archive_read_error: not_a_regular_file");
  BOOST_TEST(read_outcome(t, "loop") == "workspace_archive_read_error: symlink_loop");
  BOOST_TEST(read_outcome(t, std::string(300, 'n'))
             == "workspace_archive_read_error: name_too_long");
  BOOST_TEST(read_outcome(t, std::string{"file\0x", 6})
             == "workspace_archive_read_error: invalid_name");
  BOOST_TEST(read_outcome(t, "file/x") == "workspace_archive_read_error: not_a_directory");
  if (::geteuid() == 0 && ::mknod(t.in_root("null").c_str(), S_IFCHR | 0666, 0x103) == 0)
    BOOST_TEST(read_outcome(t, "null") == "workspace_archive_read_error: not_a_regular_file");
}

BOOST_AUTO_TEST_CASE(reads_through_links_that_stay_inside_and_no_others) {
  test_folder t;
  write_file(t.outside + "/secret", "secret");
  write_file(t.in_root("file"), "text");
  ::mkdir(t.in_root("a").c_str(), 0755);
  ::symlink("../file", t.in_root("a/inner").c_str());
  ::symlink("a/inner", t.in_root("chain").c_str());
  ::symlink("../outside", t.in_root("relative").c_str());
  ::symlink((t.outside + "/secret").c_str(), t.in_root("absolute").c_str());
  ::symlink("relative/secret", t.in_root("nested").c_str());
  BOOST_TEST(read_outcome(t, "chain") == "ok");
  for (const char* path : {"relative/secret", "absolute", "nested", "../outside/secret"}) {
    auto file = open_for_read(t.fd.get(), path, "/workspace");
    BOOST_REQUIRE(!file);
    BOOST_TEST(outcome(file) == "invalid_manifest_path: escape_root");
    BOOST_TEST(context_of(file.error(), "rel") == path);
  }
}

BOOST_AUTO_TEST_CASE(a_file_that_may_not_be_read_is_no_missing_file) {
  if (::geteuid() != 0)
    return;
  test_folder t;
  ::chmod(t.path.c_str(), 0755);
  write_file(t.in_root("closed"), "");
  ::chmod(t.in_root("closed").c_str(), 0600);
  BOOST_REQUIRE(::seteuid(65534) == 0);
  auto read = read_outcome(t, "closed");
  auto written = outcome(write(t, "new", ""));
  BOOST_REQUIRE(::seteuid(0) == 0);
  BOOST_TEST(read == "workspace_archive_read_error: permission_denied");
  BOOST_TEST(written == "workspace_archive_write_error: permission_denied");
}

// -- writing --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(writes_a_new_file_with_its_parents) {
  test_folder t;
  BOOST_TEST(outcome(write(t, "a/b/c", "text")) == "ok");
  BOOST_TEST(read_file(t.in_root("a/b/c")) == "text");
  BOOST_TEST(mode_of(t.in_root("a/b/c")) == 0644U);
  BOOST_TEST(mode_of(t.in_root("a/b")) == 0755U);
  BOOST_TEST(outcome(write(t, "durable", "text", 0600, true)) == "ok");
  BOOST_TEST(mode_of(t.in_root("durable")) == 0600U);
  BOOST_TEST(names(t.in_root("a/b")).size() == 1U);
}

BOOST_AUTO_TEST_CASE(writes_names_that_are_not_utf8) {
  test_folder t;
  std::string name = "\xFF\xFE-\n";
  BOOST_TEST(outcome(write(t, name, "text")) == "ok");
  BOOST_TEST(read_outcome(t, name) == "ok");
  BOOST_TEST(names(t.root).front() == name);
  auto missing = open_for_read(t.fd.get(), "\xFF", "/workspace/\xFF");
  BOOST_REQUIRE(!missing);
  BOOST_TEST(context_of(missing.error(), "path") == "/workspace/\xEF\xBF\xBD");
}

BOOST_AUTO_TEST_CASE(a_replaced_file_keeps_mode_and_owner) {
  test_folder t;
  write_file(t.in_root("a"), "old");
  ::chmod(t.in_root("a").c_str(), 04751);
  bool root = ::geteuid() == 0;
  if (root)
    BOOST_REQUIRE(::chown(t.in_root("a").c_str(), 4000, 4001) == 0);
  BOOST_TEST(outcome(write(t, "a", "new")) == "ok");
  BOOST_TEST(read_file(t.in_root("a")) == "new");
  BOOST_TEST(mode_of(t.in_root("a")) == 0751U); // never a set-user-ID bit for new content
  struct stat st;
  BOOST_REQUIRE(::stat(t.in_root("a").c_str(), &st) == 0);
  if (root) {
    BOOST_TEST(st.st_uid == 4000U);
    BOOST_TEST(st.st_gid == 4001U);
  }
  BOOST_TEST(outcome(write(t, "a", "new", 0600)) == "ok");
  BOOST_TEST(mode_of(t.in_root("a")) == 0600U);
}

BOOST_AUTO_TEST_CASE(a_write_that_is_dropped_leaves_what_was_there) {
  test_folder t;
  write_file(t.in_root("a"), "old");
  {
    auto file = staged_file::create(t.fd.get(), "a", "/workspace/a");
    BOOST_REQUIRE(file.has_value());
    BOOST_TEST(file->append("new", 3).has_value());
    BOOST_TEST(names(t.root).size() == 1U); // nobody sees it half written
    auto moved = std::move(*file);
  }
  BOOST_TEST(names(t.root).size() == 1U);
  BOOST_TEST(read_file(t.in_root("a")) == "old");
}

BOOST_AUTO_TEST_CASE(only_regular_files_are_replaced) {
  test_folder t;
  ::mkdir(t.in_root("folder").c_str(), 0755);
  ::mkfifo(t.in_root("fifo").c_str(), 0600);
  write_file(t.in_root("file"), "");
  ::symlink("loop", t.in_root("loop").c_str());
  auto refused = [&](const std::string& path) { return outcome(write(t, path, "x")); };
  for (const char* path : {"folder", ".", "", "folder/", "folder/.."})
    BOOST_TEST(refused(path) == "workspace_archive_write_error: is_directory");
  BOOST_TEST(refused("fifo") == "workspace_archive_write_error: not_a_regular_file");
  BOOST_TEST(refused("loop") == "workspace_archive_write_error: symlink_loop");
  BOOST_TEST(refused("file/x") == "workspace_archive_write_error: not_a_directory");
  BOOST_TEST(refused(std::string(300, 'n')) == "workspace_archive_write_error: name_too_long");
  BOOST_TEST(refused(std::string{"a\0b", 3}) == "workspace_archive_write_error: invalid_name");
  BOOST_TEST(names(t.root).size() == 4U);
}

BOOST_AUTO_TEST_CASE(writes_through_links_that_stay_inside_and_no_others) {
  test_folder t;
  write_file(t.outside + "/kept", "kept");
  ::mkdir(t.in_root("a").c_str(), 0755);
  ::mkdir(t.in_root("b").c_str(), 0755);
  write_file(t.in_root("b/file"), "old");
  ::symlink("../b/file", t.in_root("a/link").c_str());
  ::symlink("b", t.in_root("folder").c_str());
  ::symlink("b/dangling", t.in_root("dangling").c_str());
  ::symlink((t.outside + "/kept").c_str(), t.in_root("absolute").c_str());
  ::symlink("../outside/kept", t.in_root("relative").c_str());
  ::symlink("../outside/new", t.in_root("new").c_str());
  ::symlink("../outside", t.in_root("parent").c_str());
  ::symlink("..", t.in_root("up").c_str());
  BOOST_TEST(outcome(write(t, "a/link", "through")) == "ok");
  BOOST_TEST(read_file(t.in_root("b/file")) == "through");
  BOOST_TEST(outcome(write(t, "folder/file", "again")) == "ok");
  BOOST_TEST(read_file(t.in_root("a/link")) == "again");
  BOOST_TEST(outcome(write(t, "dangling", "made")) == "ok");
  BOOST_TEST(read_file(t.in_root("b/dangling")) == "made");
  for (const char* path : {"absolute", "relative", "new", "parent/kept", "parent/new",
                           "parent/folder/new", "../outside/kept", "up"})
    BOOST_TEST(outcome(write(t, path, "x")) == "invalid_manifest_path: escape_root");
  BOOST_TEST(names(t.outside).size() == 1U);
  BOOST_TEST(read_file(t.outside + "/kept") == "kept");
}

BOOST_AUTO_TEST_CASE(a_full_disk_is_told_and_leaves_the_old_file) {
  test_folder t;
  private_tmpfs disk{t.root, "size=256k"};
  if (!disk.mounted) {
    BOOST_TEST_MESSAGE("skipped: mounting is not permitted");
    return;
  }
  t.fd.reset(::open(t.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  BOOST_TEST(outcome(write(t, "a", "old")) == "ok");
  auto full = write(t, "a", std::string(1 << 20, 'x'));
  BOOST_REQUIRE(!full);
  BOOST_TEST(outcome(full) == "no_space: no_space");
  BOOST_TEST(context_of(full.error(), "path") == "/workspace/a");
  BOOST_TEST(names(t.root).size() == 1U);
  BOOST_TEST(read_file(t.in_root("a")) == "old");
  t.fd.reset();
}

BOOST_AUTO_TEST_CASE(a_reader_sees_the_old_file_or_the_new_one) {
  test_folder t;
  constexpr size_t size = 200'000;
  BOOST_REQUIRE(write(t, "a", std::string(size, 'a')));
  std::jthread writer{[&](const std::stop_token& stop) {
    for (char c = 'b'; !stop.stop_requested(); c = c == 'z' ? 'a' : static_cast<char>(c + 1))
      (void) write(t, "a", std::string(size, c));
  }};
  int mixed = 0;
  for (int i = 0; i < 500; ++i) {
    auto file = open_for_read(t.fd.get(), "a", "a");
    BOOST_REQUIRE(file.has_value());
    auto text = read_all(*file);
    mixed += text.size() != size || text.find_first_not_of(text.front()) != std::string::npos;
  }
  BOOST_TEST(mixed == 0);
}

BOOST_AUTO_TEST_CASE(swapping_a_parent_for_a_link_lets_nothing_out) {
  test_folder t{memory_folder()};
  write_file(t.outside + "/file", "outside");
  ::mkdir(t.in_root("a").c_str(), 0755);
  write_file(t.in_root("a/file"), "inside");
  ::symlink(t.outside.c_str(), t.in_root("link").c_str());
  swapper swaps{t.in_root("a"), t.in_root("link")};
  int read_outside = 0;
  int refused = 0;
  for (int i = 0; i < 10'000; ++i) {
    auto file = open_for_read(t.fd.get(), "a/file", "a/file");
    read_outside += file && read_all(*file) == "outside";
    if (auto done = write(t, "a/file", "inside"); !done) {
      BOOST_TEST(reason_of(done.error()) == "escape_root");
      ++refused;
    }
  }
  BOOST_TEST(read_outside == 0);
  BOOST_TEST(refused > 0);
  BOOST_TEST(refused < 10'000);
  BOOST_TEST(read_file(t.outside + "/file") == "outside");
  BOOST_TEST(names(t.outside).size() == 1U);
}

BOOST_AUTO_TEST_CASE(swapping_a_file_for_a_link_lets_nothing_out) {
  test_folder t{memory_folder()};
  write_file(t.outside + "/file", "outside");
  write_file(t.in_root("a"), "inside");
  ::symlink((t.outside + "/file").c_str(), t.in_root("link").c_str());
  int read_outside = 0;
  {
    swapper swaps{t.in_root("a"), t.in_root("link")};
    for (int i = 0; i < 10'000; ++i) {
      auto file = open_for_read(t.fd.get(), "a", "a");
      read_outside += file && read_all(*file) == "outside";
      (void) write(t, "a", "inside");
      if (i % 10 == 0 && !exists(t.in_root("link")))
        ::symlink((t.outside + "/file").c_str(), t.in_root("link").c_str());
    }
  }
  BOOST_TEST(read_outside == 0);
  BOOST_TEST(read_file(t.outside + "/file") == "outside");
  BOOST_TEST(names(t.outside).size() == 1U);
}

BOOST_AUTO_TEST_CASE(swapping_what_is_removed_lets_nothing_out) {
  test_folder t{memory_folder()};
  write_file(t.outside + "/file", "outside");
  for (int i = 0; i < 300; ++i) {
    ::mkdir(t.in_root("a").c_str(), 0755);
    ::mkdir(t.in_root("a/b").c_str(), 0755);
    write_file(t.in_root("a/b/file"), "");
    ::symlink(t.outside.c_str(), t.in_root("a/link").c_str());
    swapper swaps{t.in_root("a/b"), t.in_root("a/link")};
    BOOST_TEST(outcome(remove_path(t.fd.get(), "a", true, "a")) == "ok");
  }
  BOOST_TEST(read_file(t.outside + "/file") == "outside");
}

// -- listing --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(lists_names_in_byte_order_with_their_fields) {
  test_folder t;
  write_file(t.in_root("b -> c"), "text");
  ::chmod(t.in_root("b -> c").c_str(), 0604);
  ::mkdir(t.in_root("B").c_str(), 0750);
  ::symlink("b -> c", t.in_root("link").c_str());
  ::mkfifo(t.in_root("\xFF").c_str(), 0600);
  write_file(t.in_root("B/deeper"), "");
  auto listed = list_directory(t.fd.get(), ".", "/workspace");
  BOOST_REQUIRE(listed.has_value());
  BOOST_REQUIRE(listed->size() == 4U);
  const auto& [folder, file, link, fifo]
    = std::tie((*listed)[0], (*listed)[1], (*listed)[2], (*listed)[3]);
  BOOST_TEST(folder.path == "/workspace/B");
  BOOST_TEST((folder.kind == file_kind::directory));
  BOOST_TEST(folder.mode == 0750U);
  BOOST_TEST(file.path == "/workspace/b -> c");
  BOOST_TEST((file.kind == file_kind::file));
  BOOST_TEST(file.mode == 0604U);
  BOOST_TEST(file.size == 4U);
  BOOST_TEST(file.owner == std::to_string(::geteuid()));
  BOOST_TEST(file.group == std::to_string(::getegid()));
  BOOST_TEST(file.mtime_ns > 1'600'000'000'000'000'000);
  BOOST_TEST(!file.link_target);
  BOOST_TEST((link.kind == file_kind::symlink));
  BOOST_TEST(link.size == 6U);
  BOOST_TEST(link.link_target.value() == "b -> c");
  BOOST_TEST(fifo.path == "/workspace/\xFF");
  BOOST_TEST((fifo.kind == file_kind::other));
}

BOOST_AUTO_TEST_CASE(lists_a_file_or_a_link_as_itself) {
  test_folder t;
  write_file(t.outside + "/secret", "");
  write_file(t.in_root("file"), "text");
  ::symlink(t.outside.c_str(), t.in_root("link").c_str());
  auto file = list_directory(t.fd.get(), "file", "/workspace/file");
  BOOST_REQUIRE((file && file->size() == 1));
  BOOST_TEST(file->front().path == "/workspace/file");
  BOOST_TEST(file->front().size == 4U);
  auto link = list_directory(t.fd.get(), "link", "/workspace/link");
  BOOST_REQUIRE((link && link->size() == 1));
  BOOST_TEST(link->front().path == "/workspace/link");
  BOOST_TEST(link->front().link_target.value() == t.outside);
  auto root = list_directory(t.fd.get(), ".", "/");
  BOOST_REQUIRE((root && root->size() == 2));
  BOOST_TEST(root->front().path == "/file");
}

BOOST_AUTO_TEST_CASE(a_failed_listing_looks_like_the_command) {
  test_folder t;
  ::symlink("../outside", t.in_root("link").c_str());
  auto listed = list_directory(t.fd.get(), "no", "/workspace/no");
  BOOST_REQUIRE(!listed);
  BOOST_TEST((listed.error().code == errc::exec_nonzero));
  BOOST_TEST(listed.error().message == "No such file or directory: /workspace/no");
  auto context = nlohmann::json::parse(listed.error().context);
  BOOST_TEST(context["command"].dump() == R"(["ls","-la","--","/workspace/no"])");
  BOOST_TEST(context["command_str"] == "ls -la -- /workspace/no");
  BOOST_TEST(context["exit_code"] == 1);
  BOOST_TEST(context["stderr"] == listed.error().message);
  BOOST_TEST(outcome(list_directory(t.fd.get(), "link/x", "x"))
             == "invalid_manifest_path: escape_root");
}

// -- directories and removal ----------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(makes_a_directory) {
  test_folder t;
  write_file(t.in_root("file"), "");
  ::symlink("../outside", t.in_root("link").c_str());
  ::symlink("nowhere", t.in_root("dangling").c_str());
  auto make = [&](const char* path, bool parents) {
    return outcome(make_directory(t.fd.get(), path, parents, path));
  };
  BOOST_TEST(make("a", false) == "ok");
  BOOST_TEST(make("a", false) == "ok");
  BOOST_TEST(make(".", false) == "ok");
  BOOST_TEST(make("b/c", false) == "workspace_archive_write_error: not_found");
  BOOST_TEST(make("b/c", true) == "ok");
  BOOST_TEST(make("file", false) == "workspace_archive_write_error: not_a_directory");
  BOOST_TEST(make("file", true) == "workspace_archive_write_error: not_a_directory");
  BOOST_TEST(make("dangling", false) == "workspace_archive_write_error: exists");
  BOOST_TEST(make("link/x", false) == "invalid_manifest_path: escape_root");
  BOOST_TEST(make("link/x", true) == "invalid_manifest_path: escape_root");
  BOOST_TEST(outcome(make_directory(t.fd.get(), std::string{"n\0x", 3}, false, "n"))
             == "workspace_archive_write_error: invalid_name");
  BOOST_TEST(names(t.outside).empty());
  BOOST_TEST(!exists(t.in_root("n")));
}

BOOST_AUTO_TEST_CASE(removes_files_links_and_directories) {
  test_folder t;
  write_file(t.outside + "/kept", "");
  auto rm = [&](const std::string& path, bool recursive) {
    return outcome(remove_path(t.fd.get(), path, recursive, "/workspace/" + path));
  };
  write_file(t.in_root("file"), "");
  BOOST_TEST(rm("file", false) == "ok");
  ::symlink(t.outside.c_str(), t.in_root("link").c_str());
  BOOST_TEST(rm("link", false) == "ok");
  BOOST_TEST(!exists(t.in_root("link")));
  ::symlink(t.outside.c_str(), t.in_root("link").c_str());
  BOOST_TEST(rm("link/kept", true) == "invalid_manifest_path: escape_root");
  BOOST_TEST(rm("link", true) == "ok");
  ::mkdir(t.in_root("empty").c_str(), 0755);
  BOOST_TEST(rm("empty", false) == "ok");
  ::mkdir(t.in_root("full").c_str(), 0755);
  write_file(t.in_root("full/x"), "");
  BOOST_TEST(rm("full", false) == "workspace_archive_write_error: not_empty");
  BOOST_TEST(rm("full", true) == "ok");
  BOOST_TEST(!exists(t.in_root("full")));
  BOOST_TEST(rm("missing", true) == "ok");
  BOOST_TEST(rm("missing/deeper", true) == "ok");
  BOOST_TEST(exists(t.outside + "/kept"));
}

BOOST_AUTO_TEST_CASE(what_a_dead_process_had_begun_is_swept_and_nothing_else) {
  test_folder t;
  std::vector<std::string> kept = {".troupe-0123456789abcdef.tmpx", ".troupe-0123456789ABCDEF.tmp",
                                   ".troupe-0123456789abcde.tmp", "troupe-0123456789abcdef.tmp"};
  for (const auto& name : kept)
    BOOST_REQUIRE(write(t, name, "mine"));
  BOOST_REQUIRE(write(t, "d/.troupe-0123456789abcdef.tmp", "half"));
  BOOST_REQUIRE(write(t, ".troupe-fedcba9876543210.old", "old"));
  BOOST_REQUIRE(sweep_unfinished(t.fd.get()));
  kept.emplace_back("d");
  std::sort(kept.begin(), kept.end());
  BOOST_TEST(names(t.root) == kept, boost::test_tools::per_element());
  BOOST_TEST(names(t.root + "/d").empty());
}

BOOST_AUTO_TEST_CASE(removing_what_is_missing_looks_like_the_command) {
  test_folder t;
  auto done = remove_path(t.fd.get(), "no", false, "/workspace/no");
  BOOST_REQUIRE(!done);
  BOOST_TEST((done.error().code == errc::exec_nonzero));
  auto context = nlohmann::json::parse(done.error().context);
  BOOST_TEST(context["command_str"] == "rm -- /workspace/no");
  BOOST_TEST(context["exit_code"] == 1);
  BOOST_TEST(outcome(remove_path(t.fd.get(), "no", true, "/workspace/no")) == "ok");
}

BOOST_AUTO_TEST_CASE(below_a_file_there_is_nothing_to_remove) {
  test_folder t;
  write_file(t.in_root("f"), "");
  BOOST_TEST(outcome(remove_path(t.fd.get(), "f/g", true, "/workspace/f/g")) == "ok");
  BOOST_TEST(outcome(remove_path(t.fd.get(), "f/g", false, "/workspace/f/g"))
             == "workspace_archive_write_error: not_a_directory");
}

BOOST_AUTO_TEST_CASE(the_root_is_never_removed) {
  test_folder t;
  write_file(t.in_root("kept"), "");
  ::mkdir(t.in_root("a").c_str(), 0755);
  for (const char* path : {".", "", "..", "a/..", "a/."})
    for (bool recursive : {false, true})
      BOOST_TEST(outcome(remove_path(t.fd.get(), path, recursive, "/workspace"))
                 == "workspace_archive_write_error: is_root");
  BOOST_TEST(exists(t.in_root("kept")));
}
