#include "snapshot/repository.hpp"

#include "support.hpp"

#include <boost/test/unit_test.hpp>

#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <algorithm>
#include <atomic>
#include <thread>

using namespace troupe;
using namespace troupe::snapshot;
using namespace troupe::snapshot::test;

namespace {

struct fixture {
  temp_dir dir;
  std::string root = dir / "root/ws";
  std::string store = dir / "store";
  snapshot_ref ref = local_ref(store);
  std::unique_ptr<repository> repo = make_repository(2);

  fixture() {
    fs::create_directories(root);
  }

  snapshot_outcome save(std::vector<std::string> skip = {}) {
    auto saved = persist(*repo, ref, root, std::move(skip));
    BOOST_REQUIRE_MESSAGE(saved, (saved ? "" : saved.error().message + saved.error().context));
    return std::move(*saved);
  }

  result<void> restore_to(const std::string& where) {
    return repo->restore({ref, where}, {}, {});
  }

  void require_restored(const std::string& where) {
    auto ok = restore_to(where);
    BOOST_REQUIRE_MESSAGE(ok, (ok ? "" : ok.error().message + ok.error().context));
  }

  std::string stored() const {
    return store + "/snap.tar";
  }

  std::string blobs() const {
    return store + "/.layers/blobs/sha256";
  }

  uint64_t blob_bytes() const {
    uint64_t sum = 0;
    for (const auto& name : names(blobs()))
      sum += fs::file_size(blobs() + '/' + name);
    return sum;
  }

  /// The largest blob: the layer, where there is only one.
  std::string layer() const {
    std::string largest;
    for (const auto& name : names(blobs()))
      if (auto path = blobs() + '/' + name;
          largest.empty() || fs::file_size(path) > fs::file_size(largest))
        largest = path;
    return largest;
  }
};

void fill_with_everything(const std::string& root) {
  write_text(root + "/plain", "text");
  write_text(root + "/empty", "");
  write_text(root + "/read-only", "x");
  ::chmod((root + "/read-only").c_str(), 0444);
  write_text(root + "/group-writable", "x");
  ::chmod((root + "/group-writable").c_str(), 0664);
  write_text(root + "/script", "#!/bin/sh\n");
  ::chmod((root + "/script").c_str(), 0755);
  write_text(root + "/not utf-8 \xff\xfe", "bytes");
  write_text(root + "/caf\xc3\xa9 and cafe\xcc\x81", "composed and decomposed");
  write_text(root + "/back\\slash", "x");
  write_text(root + "/C:drive", "x");
  write_text(root + "/new\nline", "x");
  write_text(root + '/' + std::string(255, 'n'), "longest name");
  write_text(root + "/links/first", "shared");
  fs::create_hard_link(root + "/links/first", root + "/links/second");
  fs::create_hard_link(root + "/links/first", root + "/a-third-name");
  fs::create_symlink("plain", root + "/relative");
  fs::create_symlink("/etc/passwd", root + "/absolute");
  fs::create_symlink("../../outside", root + "/escaping");
  fs::create_symlink("nowhere", root + "/dangling");
  fs::create_symlink("links", root + "/to-directory");
  fs::create_directories(root + "/empty-directory");
  write_text(root + "/closed/inner", "x");
  ::chmod((root + "/closed").c_str(), 0500);
  fs::create_directories(root + "/sticky");
  ::chmod((root + "/sticky").c_str(), 01777);
}

void settle_times(const std::string& root) {
  int n = 0;
  std::vector<std::string> paths;
  for (const auto& item : fs::recursive_directory_iterator{root})
    paths.push_back(item.path());
  for (const auto& path : paths) {
    ++n;
    set_mtime(path, 1'600'000'000 + n, 123'456'789 + n);
  }
}

} // namespace

BOOST_FIXTURE_TEST_SUITE(repository_suite, fixture)

BOOST_AUTO_TEST_CASE(a_restored_tree_equals_the_saved_one) {
  fill_with_everything(root);
  settle_times(root);
  auto before = describe(root);
  auto saved = save();
  BOOST_TEST(saved.warnings.empty());
  BOOST_TEST(saved.info.files == 13u); // a file with three names is one
  require_restored(dir / "root/other");
  auto after = describe(dir / "root/other");
  BOOST_TEST(after.size() == before.size());
  for (const auto& [path, line] : before)
    BOOST_TEST(after[path] == line, path);
  BOOST_TEST(names(dir / "root") == (std::set<std::string>{"other", "ws"}));
  BOOST_TEST(fingerprint_at(dir / "root/other") == saved.fingerprint);
  ::chmod((root + "/closed").c_str(), 0700);
  ::chmod((dir / "root/other/closed").c_str(), 0700);
}

BOOST_AUTO_TEST_CASE(paths_longer_than_the_kernel_takes_at_once_survive) {
  unique_fd at{::open(root.c_str(), O_RDONLY | O_DIRECTORY)};
  std::string part(200, 'd');
  for (int i = 0; i < 30; ++i) {
    BOOST_REQUIRE(::mkdirat(at.get(), part.c_str(), 0755) == 0);
    at.reset(::openat(at.get(), part.c_str(), O_RDONLY | O_DIRECTORY));
  }
  unique_fd file{::openat(at.get(), "deepest", O_WRONLY | O_CREAT, 0644)};
  BOOST_REQUIRE(::write(file.get(), "x", 1) == 1);
  auto saved = save();
  require_restored(root);
  BOOST_TEST(fingerprint_at(root) == saved.fingerprint);
}

BOOST_AUTO_TEST_CASE(set_id_bits_of_files_are_stored_but_not_given_back) {
  write_text(root + "/tool", "x");
  BOOST_REQUIRE(::chmod((root + "/tool").c_str(), 06755) == 0);
  auto saved = save();
  require_restored(root);
  struct stat st;
  BOOST_REQUIRE(::stat((root + "/tool").c_str(), &st) == 0);
  BOOST_TEST((st.st_mode & 07777) == 0755u);
  BOOST_TEST(fingerprint_at(root) == saved.fingerprint);
}

BOOST_AUTO_TEST_CASE(a_large_sparse_file_survives) {
  write_text(root + "/zeros", "");
  fs::resize_file(root + "/zeros", 50 * 1024 * 1024);
  auto saved = save();
  BOOST_TEST(saved.info.size_bytes == 50u * 1024 * 1024);
  BOOST_TEST(saved.info.stored_bytes < 1024u * 1024);
  require_restored(root);
  BOOST_TEST(fs::file_size(root + "/zeros") == 50u * 1024 * 1024);
  BOOST_TEST(fingerprint_at(root) == saved.fingerprint);
}

BOOST_AUTO_TEST_CASE(skip_paths_are_anchored_and_match_whole_components) {
  for (auto path : {"data/x", "src/data/x", "data2", "keep/logs/x", "keep/log"})
    write_text(root + '/' + path, "x");
  save({"data", "keep/logs/", "./nothing", ""});
  require_restored(dir / "out");
  BOOST_TEST(names(dir / "out") == (std::set<std::string>{"data2", "keep", "src"}));
  BOOST_TEST(fs::exists(dir / "out/src/data/x"));
  BOOST_TEST(names(dir / "out/keep") == (std::set<std::string>{"log"}));
}

BOOST_AUTO_TEST_CASE(fifos_and_sockets_are_left_out_with_a_warning) {
  write_text(root + "/file", "x");
  BOOST_REQUIRE(::mkfifo((root + "/fifo").c_str(), 0600) == 0);
  unique_fd listener{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (root + "/sock").copy(address.sun_path, sizeof address.sun_path - 1);
  BOOST_REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  auto saved = save();
  BOOST_REQUIRE_EQUAL(saved.warnings.size(), 2u);
  BOOST_TEST(saved.warnings[0] == "fifo: left out: fifo");
  BOOST_TEST(saved.warnings[1] == "sock: left out: socket");
  require_restored(dir / "out");
  BOOST_TEST(names(dir / "out") == (std::set<std::string>{"file"}));
}

BOOST_AUTO_TEST_CASE(what_a_restore_does_not_give_back_is_said) {
  for (auto* name : {"/capable", "/marked", "/tool"})
    write_text(root + name, "x");
  fs::create_directory(root + "/opaque");
  auto set = [&](const std::string& name, const char* attribute, std::string_view value) {
    return ::setxattr((root + name).c_str(), attribute, value.data(), value.size(), 0) == 0;
  };
  if (!set("/marked", "user.note", "kept")) {
    BOOST_TEST_MESSAGE("no extended attributes here");
    return;
  }
  std::vector<std::string> expected;
  constexpr std::string_view capabilities{"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20};
  if (set("/capable", "security.capability", capabilities))
    expected.emplace_back("capable: extended attribute security.capability left out");
  BOOST_REQUIRE(set("/marked", "user.overlay.redirect", "/etc"));
  expected.emplace_back("marked: extended attribute user.overlay.redirect left out");
  BOOST_REQUIRE(set("/opaque", "user.overlay.opaque", "y"));
  expected.emplace_back("opaque: extended attribute user.overlay.opaque left out");
  BOOST_REQUIRE(::chmod((root + "/tool").c_str(), 04755) == 0);
  expected.emplace_back("tool: set-user-ID, set-group-ID and sticky bits are not given back");
  BOOST_TEST(save().warnings == expected, boost::test_tools::per_element());
  require_restored(dir / "out");
  char value[8];
  BOOST_TEST(::getxattr((dir / "out/marked").c_str(), "user.note", value, sizeof value) == 4);
  BOOST_TEST(::getxattr((dir / "out/marked").c_str(), "user.overlay.redirect", value, sizeof value)
             == -1);
}

// -- fingerprint ----------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(the_fingerprint_follows_content_and_not_time) {
  write_text(root + "/a", "one");
  write_text(root + "/b", "two");
  auto saved = save();
  BOOST_TEST(saved.fingerprint_version == fingerprint_version);
  BOOST_TEST(fingerprint_at(root) == saved.fingerprint);
  set_mtime(root + "/a", 5, 5);
  BOOST_TEST(fingerprint_at(root) == saved.fingerprint);
  write_text(root + "/a", "onf");
  BOOST_TEST(fingerprint_at(root) != saved.fingerprint);
  write_text(root + "/a", "one");
  ::chmod((root + "/a").c_str(), 0600);
  BOOST_TEST(fingerprint_at(root) != saved.fingerprint);
  ::chmod((root + "/a").c_str(), 0644);
  BOOST_TEST(fingerprint_at(root) == saved.fingerprint);
  fs::rename(root + "/a", root + "/c");
  BOOST_TEST(fingerprint_at(root) != saved.fingerprint);
}

BOOST_AUTO_TEST_CASE(the_fingerprint_covers_the_manifest_digest) {
  auto fd = open_dir(root);
  BOOST_TEST(*fingerprint(fd.get(), {}, "a", {}) != *fingerprint(fd.get(), {}, "b", {}));
}

// -- replacing ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(the_new_root_keeps_the_old_ones_mode_and_nothing_else_of_it) {
  write_text(root + "/saved", "x");
  save();
  write_text(root + "/later", "x");
  ::chmod(root.c_str(), 0710);
  require_restored(root);
  struct stat st;
  BOOST_REQUIRE(::stat(root.c_str(), &st) == 0);
  BOOST_TEST((st.st_mode & 07777) == 0710u);
  BOOST_TEST(names(root) == (std::set<std::string>{"saved"}));
  BOOST_TEST(names(dir / "root") == (std::set<std::string>{"ws"}));
}

BOOST_AUTO_TEST_CASE(a_missing_root_is_made_with_its_parents_and_the_saved_mode) {
  write_text(root + "/saved", "x");
  ::chmod(root.c_str(), 0750);
  save();
  require_restored(dir / "new/parents/ws");
  struct stat st;
  BOOST_REQUIRE(::stat((dir / "new/parents/ws").c_str(), &st) == 0);
  BOOST_TEST((st.st_mode & 07777) == 0750u);
}

BOOST_AUTO_TEST_CASE(a_second_save_replaces_the_first) {
  write_text(root + "/a", "1");
  save();
  write_text(root + "/a", "2");
  save();
  BOOST_TEST(names(store) == (std::set<std::string>{".layers", "snap.tar"}));
  require_restored(dir / "out");
  BOOST_TEST(read_text(dir / "out/a") == "2");
}

// -- damage ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_snapshot_cut_anywhere_is_refused_and_changes_nothing) {
  write_text(root + "/a", "some text");
  write_text(root + "/b/c", "more text");
  save();
  write_text(root + "/live", "stays");
  auto before = describe(root);
  auto whole = read_text(stored());
  for (size_t size = 0; size < whole.size(); ++size) {
    write_text(stored(), whole.substr(0, size));
    auto ok = restore_to(root);
    BOOST_REQUIRE_MESSAGE(!ok, "cut at " << size);
    BOOST_REQUIRE(ok.error().code == errc::snapshot_restore_error);
    BOOST_REQUIRE(describe(root) == before);
    BOOST_REQUIRE(names(dir / "root") == (std::set<std::string>{"ws"}));
  }
}

BOOST_AUTO_TEST_CASE(a_blob_that_is_cut_flipped_or_missing_is_named_and_changes_nothing) {
  write_text(root + "/a", "some text");
  write_text(root + "/b/c", std::string(3000, 'x') + "more text");
  save();
  write_text(root + "/a", "other text");
  save();
  write_text(root + "/live", "stays");
  auto before = describe(root);
  BOOST_REQUIRE_EQUAL(names(blobs()).size(), 6u);
  repo->sweep(store); // configuration and manifest of the first save
  BOOST_REQUIRE_EQUAL(names(blobs()).size(), 4u);
  for (const auto& name : names(blobs())) {
    auto path = blobs() + '/' + name;
    auto whole = read_text(path);
    auto refused = [&](const std::string& what) {
      auto ok = restore_to(root);
      BOOST_REQUIRE_MESSAGE(!ok, name << ' ' << what);
      BOOST_REQUIRE(ok.error().code == errc::snapshot_restore_error);
      BOOST_REQUIRE_MESSAGE(ok.error().context.find("sha256:" + name) != std::string::npos,
                            what + ok.error().context);
      BOOST_REQUIRE(describe(root) == before);
      BOOST_REQUIRE(names(dir / "root") == (std::set<std::string>{"ws"}));
    };
    for (size_t size = 0; size < whole.size(); size += 37) {
      write_text(path, whole.substr(0, size));
      refused("cut at " + std::to_string(size));
    }
    for (size_t bit = 0; bit < 8 * whole.size(); bit += 53) {
      auto bytes = whole;
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
      write_text(path, bytes);
      refused("bit " + std::to_string(bit));
    }
    fs::remove(path);
    refused("missing");
    write_text(path, whole);
  }
  require_restored(root);
  BOOST_TEST(read_text(root + "/a") == "other text");
}

// zstd has a few bits without a meaning; flipping one of those may pass, as it changes nothing.
BOOST_AUTO_TEST_CASE(a_flipped_bit_never_changes_what_comes_out) {
  write_text(root + "/a", "some text");
  write_text(root + "/b/c", std::string(3000, 'x') + "more text");
  settle_times(root);
  auto saved = describe(root);
  save();
  write_text(root + "/live", "stays");
  auto live = describe(root);
  auto whole = read_text(stored());
  auto other = dir / "root/ws2";
  size_t passed = 0;
  for (size_t bit = 0; bit < 8 * whole.size(); bit += 5) {
    auto bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    write_text(stored(), bytes);
    if (restore_to(other)) {
      ++passed;
      BOOST_REQUIRE_MESSAGE(describe(other) == saved, "bit " << bit);
      fs::remove_all(other);
    }
    BOOST_REQUIRE(names(dir / "root") == (std::set<std::string>{"ws"}));
  }
  BOOST_TEST(passed < whole.size() / 20);
  write_text(stored(), whole.substr(0, 40) + '?' + whole.substr(41));
  BOOST_TEST(!restore_to(root));
  BOOST_TEST((describe(root) == live));
}

BOOST_AUTO_TEST_CASE(errors_of_a_restore_name_the_snapshot) {
  auto missing = restore_to(root);
  BOOST_REQUIRE(!missing);
  BOOST_TEST((missing.error().code == errc::snapshot_restore_error));
  BOOST_TEST(missing.error().message == "failed to restore snapshot");
  BOOST_TEST(missing.error().context.find("\"snapshot_id\":\"snap\"") != std::string::npos);
  BOOST_TEST(missing.error().context.find(stored()) != std::string::npos);
  write_text(stored(), "no archive");
  auto garbage = restore_to(root);
  BOOST_REQUIRE(!garbage);
  BOOST_TEST((garbage.error().code == errc::snapshot_restore_error));
  BOOST_TEST(garbage.error().context.find("\"snapshot_id\":\"snap\"") != std::string::npos);
}

// -- archives of others ---------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(archives_that_others_wrote_are_restored) {
  auto plain = tar_directory("./") + tar_file("./a.txt", "hello") + tar_end();
  for (const auto& bytes : {plain, gzip_tar, bzip2_tar, xz_tar}) {
    write_text(stored(), bytes);
    require_restored(root);
    BOOST_TEST(read_text(root + "/a.txt") == "hello");
  }
}

BOOST_AUTO_TEST_CASE(cut_archives_of_others_are_refused) {
  auto plain = tar_file("./a.txt", "hello") + tar_file("./b.txt", "world") + tar_end();
  for (size_t size = 0; size < plain.size(); size += 41) {
    write_text(stored(), plain.substr(0, size));
    auto ok = restore_to(root);
    BOOST_REQUIRE_MESSAGE(!ok, "cut at " << size);
    BOOST_REQUIRE(names(root).empty());
  }
  for (const auto& bytes : {gzip_tar, bzip2_tar, xz_tar}) {
    write_text(stored(), bytes.substr(0, bytes.size() - 1));
    BOOST_TEST(!restore_to(root));
    BOOST_TEST(names(root).empty());
  }
}

// -- stopping -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_stopped_save_leaves_the_snapshot_of_before) {
  write_text(root + "/a", "1");
  save();
  auto before = read_text(stored());
  write_text(root + "/huge", "");
  fs::resize_file(root + "/huge", 60ull << 30);
  std::stop_source stop;
  std::thread stopper{[&] {
    auto folders = names(store + "/.layers/new");
    auto is_writing = [&](const auto& x) { return !names(store + "/.layers/new/" + x).empty(); };
    while (std::ranges::none_of(folders, is_writing)) {
      std::this_thread::yield();
      folders = names(store + "/.layers/new");
    }
    stop.request_stop();
  }};
  auto saved = persist(*repo, ref, root, {}, stop.get_token());
  stopper.join();
  BOOST_REQUIRE(!saved);
  BOOST_TEST((saved.error().code == errc::cancelled));
  BOOST_TEST(names(store) == (std::set<std::string>{".layers", "snap.tar"}));
  for (const auto& x : names(store + "/.layers/new"))
    BOOST_TEST(names(store + "/.layers/new/" + x).empty());
  BOOST_TEST((read_text(stored()) == before));
}

BOOST_AUTO_TEST_CASE(a_stopped_restore_leaves_the_tree_of_before) {
  write_text(root + "/a", "1");
  save();
  write_text(root + "/a", "2");
  std::stop_source stop;
  stop.request_stop();
  auto ok = repo->restore({ref, root}, stop.get_token(), {});
  BOOST_REQUIRE(!ok);
  BOOST_TEST((ok.error().code == errc::cancelled));
  BOOST_TEST(read_text(root + "/a") == "2");
  BOOST_TEST(names(dir / "root") == (std::set<std::string>{"ws"}));
}

BOOST_AUTO_TEST_CASE(progress_ends_with_the_whole) {
  write_text(root + "/a", "123");
  write_text(root + "/b", "4567");
  uint64_t files = 0;
  uint64_t bytes = 0;
  progress report = [&](uint64_t f, uint64_t b) {
    files = f;
    bytes = b;
  };
  BOOST_REQUIRE(persist(*repo, ref, root, {}, {}, report));
  BOOST_TEST(files == 2u);
  BOOST_TEST(bytes == 7u);
  files = bytes = 0;
  BOOST_REQUIRE(repo->restore({ref, root}, {}, report));
  BOOST_TEST(files == 2u);
  BOOST_TEST(bytes == 7u);
}

// -- company --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_tree_that_changes_meanwhile_can_be_saved_and_restored) {
  for (int i = 0; i < 50; ++i)
    write_text(root + "/dir/f" + std::to_string(i), std::string(20'000, 'x'));
  std::atomic<bool> done{false};
  std::thread writer{[&] {
    for (int i = 0; !done; i = (i + 1) % 50) {
      auto path = root + "/dir/f" + std::to_string(i);
      std::error_code ignored;
      switch (i % 5) {
        case 0: fs::resize_file(path, 10, ignored); break;
        case 1: std::ofstream{path, std::ios::app} << std::string(50'000, 'y'); break;
        case 2: fs::remove(path, ignored); break;
        case 3:
          fs::remove(path, ignored);
          fs::create_symlink("/etc/passwd", path, ignored);
          break;
        default: fs::remove(path, ignored); fs::create_directory(path, ignored);
      }
      if (i == 49)
        for (int k = 0; k < 50; ++k) {
          auto again = root + "/dir/f" + std::to_string(k);
          fs::remove_all(again, ignored);
          std::ofstream{again} << std::string(20'000, 'x');
        }
    }
  }};
  for (int i = 0; i < 30; ++i) {
    auto saved = save();
    require_restored(dir / "out");
    BOOST_TEST(fingerprint_at(dir / "out") == saved.fingerprint);
  }
  done = true;
  writer.join();
}

BOOST_AUTO_TEST_CASE(several_jobs_may_run_at_once) {
  std::vector<std::thread> jobs;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i)
    jobs.emplace_back([&, i] {
      auto mine = dir / ("many/ws" + std::to_string(i));
      write_text(mine + "/big", std::string(3'000'000, static_cast<char>('a' + i)));
      auto id = "id" + std::to_string(i);
      if (persist(*repo, local_ref(store, id), mine)
          && repo->restore({local_ref(store, id), mine}, {}, {})
          && read_text(mine + "/big") == std::string(3'000'000, static_cast<char>('a' + i)))
        ++good;
    });
  for (auto& job : jobs)
    job.join();
  BOOST_TEST(good == 4);
}

// -- the store ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(what_was_recorded_can_be_listed) {
  write_text(root + "/a", "123");
  auto saved = save();
  auto info = repo->inspect(ref);
  BOOST_REQUIRE(info);
  BOOST_TEST(info->id == "snap");
  BOOST_TEST(info->session_id == "session");
  BOOST_TEST(info->tenant == "tenant");
  BOOST_TEST(info->files == 1u);
  BOOST_TEST(info->size_bytes == 3u);
  BOOST_TEST(info->stored_bytes == blob_bytes());
  BOOST_TEST(info->created_at_ms == saved.info.created_at_ms);
  write_text(store + "/other.tar", tar_end());
  write_text(store + "/broken.tar", read_text(stored()).substr(0, 100));
  write_text(store + "/unrelated", "x");
  auto all = repo->list(store);
  BOOST_REQUIRE(all);
  BOOST_REQUIRE_EQUAL(all->size(), 2u);
  BOOST_TEST((*all)[0].id == "other");
  BOOST_TEST((*all)[0].created_at_ms > 0);
  BOOST_TEST((*all)[1].id == "snap");
}

BOOST_AUTO_TEST_CASE(a_snapshot_is_restorable_until_it_is_removed) {
  BOOST_TEST(!*repo->restorable(ref));
  save();
  BOOST_TEST(*repo->restorable(ref));
  BOOST_TEST(repo->remove(ref).has_value());
  BOOST_TEST(!*repo->restorable(ref));
  BOOST_TEST(repo->remove(ref).has_value());
  fs::create_directories(stored());
  BOOST_TEST(!*repo->restorable(ref));
}

BOOST_AUTO_TEST_CASE(a_sweep_removes_what_the_dead_left_and_nothing_else) {
  save();
  write_text(store + "/.snap.tar.0123456789abcdef.tmp", "left");
  write_text(store + "/.snap.tar.fedcba9876543210.tmp", "being written");
  write_text(dir / "root/.ws.troupe-0123456789abcdef/x", "left");
  write_text(dir / "root/.hidden/x", "x");
  unique_fd busy{::open((store + "/.snap.tar.fedcba9876543210.tmp").c_str(), O_RDONLY | O_CLOEXEC)};
  BOOST_REQUIRE(::flock(busy.get(), LOCK_EX) == 0);
  repo->sweep(store);
  BOOST_TEST(names(store)
             == (std::set<std::string>{".layers", ".snap.tar.fedcba9876543210.tmp", "snap.tar"}));
  repo->sweep(dir / "root");
  BOOST_TEST(names(dir / "root") == (std::set<std::string>{".hidden", "ws"}));
  repo->sweep(dir / "missing");
}

BOOST_AUTO_TEST_CASE(an_id_must_be_one_path_segment) {
  for (auto id : {"", ".", "..", "a/b", "a\\b", "C:x", "a/"}) {
    auto bad = local_ref(store, id);
    auto saved = persist(*repo, bad, root);
    BOOST_REQUIRE(!saved);
    BOOST_TEST((saved.error().code == errc::sandbox_config_invalid));
    BOOST_TEST(saved.error().message == "LocalSnapshot id must be a single path segment");
    BOOST_TEST(!repo->restore({bad, root}, {}, {}));
    BOOST_TEST(!repo->restorable(bad));
  }
  BOOST_TEST(!fs::exists(store));
}

BOOST_AUTO_TEST_CASE(a_store_that_cannot_be_made_is_an_error_that_names_the_snapshot) {
  write_text(dir / "file", "x");
  auto saved = persist(*repo, local_ref(dir / "file/store"), root);
  BOOST_REQUIRE(!saved);
  BOOST_TEST((saved.error().code == errc::snapshot_persist_error));
  BOOST_TEST(saved.error().context.find("\"snapshot_id\":\"snap\"") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_full_disk_is_said_so_and_leaves_nothing) {
  write_text(root + "/random", "");
  std::string noise(4 << 20, '\0');
  for (uint32_t x = 1; auto& c : noise)
    c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  write_text(root + "/random", noise);
  save();
  std::thread apart{[&] {
    // A mount namespace of this thread alone. Not everyone may have one.
    auto small = dir / "small";
    fs::create_directory(small);
    if (::unshare(CLONE_NEWNS) != 0
        || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0
        || ::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=1m") != 0) {
      BOOST_TEST_MESSAGE("cannot mount here");
      return;
    }
    auto saved = persist(*repo, local_ref(small), root);
    BOOST_TEST((!saved && saved.error().code == errc::no_space));
    BOOST_TEST(names(small).size() <= 1u);
    auto recorded = restore_to(small + "/ws"); // told by the recorded size
    BOOST_TEST((!recorded && recorded.error().code == errc::no_space));
    unique_fd tar{::open((dir / "plain").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    auto from = open_dir(root);
    BOOST_TEST(write_tar(from.get(), {}, tar.get(), {}).has_value());
    ::lseek(tar.get(), 0, SEEK_SET);
    auto met = hydrate(tar.get(), small + "/ws", true, {}, {}); // met while writing
    BOOST_TEST((!met && met.error().code == errc::no_space));
    BOOST_TEST(names(small).size() <= 1u);
    ::umount2(small.c_str(), MNT_DETACH);
  }};
  apart.join();
}

BOOST_AUTO_TEST_CASE(a_noop_snapshot_keeps_nothing) {
  snapshot_ref noop{snapshot_kind::noop, "n", {}, {}};
  auto saved = persist(*repo, noop, root);
  BOOST_REQUIRE(saved);
  BOOST_TEST(saved->fingerprint.empty());
  BOOST_TEST(!*repo->restorable(noop));
  auto ok = repo->restore({noop, root}, {}, {});
  BOOST_REQUIRE(!ok);
  BOOST_TEST((ok.error().code == errc::snapshot_not_restorable));
  BOOST_TEST(ok.error().context == R"({"snapshot_id":"n","path":"<noop>"})");
}

BOOST_AUTO_TEST_CASE(a_remote_snapshot_has_no_client_here) {
  snapshot_ref remote{snapshot_kind::remote, "r", {}, "objects"};
  auto saved = persist(*repo, remote, root);
  BOOST_REQUIRE(!saved);
  BOOST_TEST((saved.error().code == errc::snapshot_persist_error));
  BOOST_TEST(saved.error().context.find("<remote:objects>") != std::string::npos);
  auto ok = repo->restore({remote, root}, {}, {});
  BOOST_REQUIRE(!ok);
  BOOST_TEST((ok.error().code == errc::snapshot_restore_error));
  BOOST_TEST(!repo->restorable(remote));
}

BOOST_AUTO_TEST_CASE(gnu_tar_reads_our_snapshots) {
  if (std::system("tar --zstd --version >/dev/null 2>&1 && zstd -V >/dev/null 2>&1") != 0) {
    BOOST_TEST_MESSAGE("no tar or zstd here");
    return;
  }
  fill_with_everything(root);
  settle_times(root);
  save();
  fs::create_directories(dir / "out");
  auto command = "tar --zstd -tf " + layer() + " >/dev/null 2>&1 && tar --zstd -xpf " + layer()
                 + " -C " + (dir / "out") + " 2>/dev/null";
  BOOST_REQUIRE(std::system(command.c_str()) == 0);
  BOOST_TEST((describe(dir / "out") == describe(root)));
  ::chmod((root + "/closed").c_str(), 0700);
  ::chmod((dir / "out/closed").c_str(), 0700);
}

BOOST_AUTO_TEST_SUITE_END()
