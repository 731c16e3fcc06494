#include "snapshot/layered.hpp"

#include "snapshot/layer_cache.hpp"

#include "hostile_tree.hpp"
#include "support.hpp"
#include "tests/unit/workspace/test_folder.hpp"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <linux/fiemap.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

using namespace troupe;
using namespace troupe::snapshot;
using namespace troupe::snapshot::test;
namespace data = boost::unit_test::data;

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

  snapshot_outcome save(const std::string& id = "snap", const std::string& base = "",
                        bool settle = false) {
    auto fd = open_dir(root);
    persist_request request{local_ref(store, id), "session", "tenant", fd.get(), {}, "manifest"};
    request.base = base;
    request.settle = settle;
    auto saved = repo->persist(request, {}, {});
    BOOST_REQUIRE_MESSAGE(saved, (saved ? "" : saved.error().message + saved.error().context));
    return std::move(*saved);
  }

  void require_restored(const std::string& where, const std::string& id = "snap") {
    auto ok = repo->restore({local_ref(store, id), where}, {}, {});
    BOOST_REQUIRE_MESSAGE(ok, (ok ? "" : ok.error().message + ok.error().context));
  }

  std::set<std::string> blobs() const {
    return names(store + "/.layers/blobs/sha256");
  }

  /// Whether what was saved is what comes back.
  void check(const std::string& id = "snap") {
    auto there = dir / "root/check";
    require_restored(there, id);
    auto expected = describe_all(root);
    auto found = describe_all(there);
    for (const auto& [path, line] : expected)
      BOOST_TEST(found[path] == line, path);
    for (const auto& [path, line] : found)
      BOOST_TEST(expected.contains(path), path);
    auto verified = repo->verify(local_ref(store, id), {});
    BOOST_TEST(verified.has_value(), (verified ? "" : verified.error().context));
    fs::remove_all(there);
  }
};

/// Times that differ from now, so that nothing is too young to be believed.
void settle(const std::string& root) {
  auto limit = std::chrono::steady_clock::now() + std::chrono::milliseconds{20};
  while (std::chrono::steady_clock::now() < limit)
    std::this_thread::yield();
  (void) root;
}

/// 0 to `count` - 1; the library's own range looks uninitialised to g++ when it adds checks.
auto seeds(unsigned count) {
  std::vector<unsigned> all(count);
  std::iota(all.begin(), all.end(), 0U);
  return data::make(std::move(all));
}

} // namespace

BOOST_FIXTURE_TEST_SUITE(layered, fixture)

BOOST_DATA_TEST_CASE(a_hostile_tree_that_changes_comes_back_after_every_save, seeds(24), seed) {
  hostile_tree tree{root, seed};
  for (int round = 0; round < 6; ++round) {
    auto saved = save();
    BOOST_TEST(saved.fingerprint == fingerprint_at(root));
    check();
    tree.change(round == 3 ? 60 : 6);
  }
  save();
  check();
  settle(root);
  // In place of the workspace itself, and on from there.
  require_restored(root);
  tree.change(5);
  save();
  check();
}

BOOST_AUTO_TEST_CASE(an_unchanged_tree_writes_nothing) {
  write_text(root + "/a", "1");
  write_text(root + "/b/c", "2");
  settle(root);
  auto first = save();
  auto stored = read_text(store + "/snap.tar");
  auto before = blobs();
  auto again = save();
  BOOST_TEST(again.new_bytes == 0u);
  BOOST_TEST(again.fingerprint == first.fingerprint);
  BOOST_TEST(again.info.created_at_ms == first.info.created_at_ms);
  BOOST_TEST((blobs() == before));
  BOOST_TEST(read_text(store + "/snap.tar") == stored);
  // Nor does one that was just restored.
  require_restored(root);
  BOOST_TEST(save().new_bytes == 0u);
}

BOOST_AUTO_TEST_CASE(a_change_stores_the_change_alone) {
  std::string noise(200'000, '\0');
  for (uint32_t x = 1; auto& c : noise)
    c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  for (int i = 0; i < 200; ++i)
    write_text(root + "/d/f" + std::to_string(i), noise.substr(static_cast<size_t>(i) * 100, 1000));
  write_text(root + "/large", noise);
  settle(root);
  save();
  write_text(root + "/d/f7", noise.substr(5000, 4096));
  auto saved = save();
  BOOST_TEST(saved.new_bytes < 4096u + 4096u);
  BOOST_TEST(saved.info.layers == 2u);
  fs::remove(root + "/large");
  saved = save();
  BOOST_TEST(saved.new_bytes < 4096u);
  check();
}

BOOST_AUTO_TEST_CASE(changes_anywhere_in_a_large_tree_are_found) {
  auto file
    = [&](int i) { return root + "/d" + std::to_string(i / 40) + "/f" + std::to_string(i); };
  constexpr int files = 3000;
  for (int i = 0; i < files; ++i)
    write_text(file(i), std::to_string(i));
  settle(root);
  save();
  for (int i : {0, 255, 256, 1499, files - 1})
    write_text(file(i), "new");
  fs::remove_all(root + "/d10");
  fs::remove(file(2000));
  fs::create_symlink("d1", root + "/e");
  write_text(root + "/d5/below/z", "added");
  auto saved = save();
  BOOST_TEST(saved.info.layers == 2u);
  BOOST_TEST(saved.fingerprint == fingerprint_at(root));
  BOOST_TEST(saved.new_bytes < 16'000u);
  check();
  settle(root);
  BOOST_TEST(save().new_bytes == 0u);
  auto fd = open_dir(root);
  persist_request request{ref, "session", "tenant", fd.get(), {}, "manifest"};
  BOOST_TEST(*repo->fingerprint(request, {}) == saved.fingerprint);
  write_text(file(1000), "other");
  BOOST_TEST(*repo->fingerprint(request, {}) == fingerprint_at(root));
}

BOOST_AUTO_TEST_CASE(what_changed_in_the_tick_of_the_last_look_is_seen) {
  for (int i = 0; i < 40; ++i) {
    write_text(root + "/a", i % 2 == 0 ? "one" : "two");
    struct stat st;
    BOOST_REQUIRE(::stat((root + "/a").c_str(), &st) == 0);
    set_mtime(root + "/a", 1000, 0); // size and time never differ
    auto saved = save();
    BOOST_TEST(saved.fingerprint == fingerprint_at(root));
  }
}

BOOST_AUTO_TEST_CASE(a_long_chain_is_flattened_and_stays_what_it_was) {
  hostile_tree tree{root, 99};
  for (int i = 0; i < 18; ++i) {
    tree.change(4);
    write_text(root + "/counter", std::to_string(i));
    save();
  }
  auto before = repo->inspect(ref);
  BOOST_REQUIRE(before);
  BOOST_TEST(before->layers == 18u);
  BOOST_TEST(*repo->flatten(ref, {}));
  auto after = repo->inspect(ref);
  BOOST_REQUIRE(after);
  BOOST_TEST(after->layers == 1u);
  check();
  BOOST_TEST(!*repo->flatten(ref, {}));
  repo->sweep(store);
  BOOST_TEST(blobs().size() == 3u);
  check();
  BOOST_TEST(save().info.layers <= 2u);
}

BOOST_AUTO_TEST_CASE(a_workspace_that_stays_on_a_long_chain_is_flattened_once_for_each_growth) {
  auto save_and_flatten = [&](const std::string& text, const std::string& held) {
    write_text(root + "/counter", text);
    save();
    return *repo->flatten(ref, {}, held);
  };
  for (int i = 0; i < 20; ++i) {
    write_text(root + "/counter", std::to_string(i));
    save();
  }
  // The workspace lies on these twenty from now on: each save starts with them.
  auto held = **repo->hold(ref, "session");
  auto save_above = [&](const std::string& text) {
    fs::remove(store + "/snap.tar");
    fs::create_hard_link(store + "/" + held + ".tar", store + "/snap.tar");
    return save_and_flatten(text, held);
  };
  BOOST_TEST(save_above("first"));
  for (int i = 0; i < 3; ++i) {
    BOOST_TEST(!save_above("again " + std::to_string(i)));
    BOOST_TEST(repo->inspect(ref)->layers == 21U);
    repo->sweep(store);
  }
  // Another server's repository knows it too, and restore points without end are bounded.
  repo = make_repository(1);
  int flattened = 0;
  for (int i = 0; i < 20; ++i)
    flattened += save_and_flatten("more " + std::to_string(i), held);
  BOOST_TEST(flattened == 1);
  check();
  // Once it lies on others, those are new.
  repo->release(local_ref(store, held));
  repo->sweep(store);
  for (int i = 0; i < 20 && repo->inspect(ref)->layers < 16U; ++i) {
    write_text(root + "/counter", "new " + std::to_string(i));
    save();
  }
  auto other = **repo->hold(ref, "session");
  BOOST_TEST(save_and_flatten("last", other));
}

BOOST_AUTO_TEST_CASE(what_is_dead_above_held_layers_is_flattened_when_it_has_grown) {
  auto save_large = [&](char c) {
    std::string text(1'500'000, '\0');
    for (uint32_t x = static_cast<unsigned char>(c); auto& b : text)
      b = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
    write_text(root + "/large", text);
    save();
  };
  for (char c : {'a', 'b', 'c'})
    save_large(c);
  auto held = **repo->hold(ref, "session");
  BOOST_TEST(*repo->flatten(ref, {}, held));
  fs::remove(store + "/snap.tar");
  fs::create_hard_link(store + "/" + held + ".tar", store + "/snap.tar");
  save_large('d');
  BOOST_TEST(!*repo->flatten(ref, {}, held));
  save_large('e');
  BOOST_TEST(*repo->flatten(ref, {}, held));
  check();
}

/// A disk on which only so much more can be made; the rest of it is taken by `ballast` files.
struct nearly_full_disk {
  std::string ballast;
  size_t files = 0;

  explicit nearly_full_disk(const std::string& folder) : ballast(folder + "/.ballast") {
    fs::create_directory(ballast);
    while (unique_fd{::open(name(files).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)})
      ++files;
  }
  ~nearly_full_disk() {
    fs::remove_all(ballast);
  }
  std::string name(size_t i) const {
    return ballast + '/' + std::to_string(i);
  }
  void leave_room_for_one_more_file() {
    BOOST_REQUIRE(files > 0);
    fs::remove(name(--files));
  }
};

BOOST_AUTO_TEST_CASE(a_disk_that_is_full_at_any_step_leaves_the_snapshot_of_before) {
  fs::create_directories(store);
  troupe::test::private_tmpfs disk{store, "size=64m,nr_inodes=1000"};
  if (!disk.mounted) {
    BOOST_TEST_MESSAGE("cannot mount here");
    return;
  }
  hostile_tree tree{root, 7};
  for (int i = 0; i < 18; ++i) {
    tree.change(4);
    write_text(root + "/counter", std::to_string(i));
    save();
  }
  // Folders that each try might else find missing.
  constexpr std::string_view digits = "0123456789abcdef";
  for (char high : digits)
    for (char low : digits)
      fs::create_directories(store + "/.layers/new/" + high + low);
  auto before = describe_all(root);
  auto is_what_it_was = [&] {
    auto there = dir / "root/check";
    require_restored(there);
    auto same = describe_all(there) == before;
    fs::remove_all(there);
    return same && repo->verify(ref, {});
  };
  auto fd = open_dir(root);
  persist_request request{ref, "session", "tenant", fd.get(), {}, "manifest"};
  write_text(root + "/counter", "not saved");
  size_t refused = 0;
  repo->sweep(store);
  auto kept = blobs();
  {
    nearly_full_disk full{store};
    BOOST_REQUIRE(full.files > 5);
    for (;; ++refused) {
      auto saved = repo->persist(request, {}, {});
      if (saved)
        break;
      BOOST_REQUIRE_MESSAGE(saved.error().code == errc::no_space, saved.error().context);
      BOOST_REQUIRE(is_what_it_was());
      repo->sweep(store);
      BOOST_REQUIRE((blobs() == kept));
      full.leave_room_for_one_more_file();
    }
  }
  BOOST_TEST(refused > 0);
  before = describe_all(root);
  BOOST_TEST(is_what_it_was());
  repo->sweep(store);
  kept = blobs();
  {
    nearly_full_disk full{store};
    for (refused = 0;; ++refused) {
      auto flat = repo->flatten(ref, {});
      if (flat) {
        BOOST_TEST(*flat);
        break;
      }
      BOOST_REQUIRE_MESSAGE(flat.error().code == errc::no_space, flat.error().context);
      BOOST_REQUIRE(is_what_it_was());
      repo->sweep(store);
      BOOST_REQUIRE((blobs() == kept));
      full.leave_room_for_one_more_file();
    }
  }
  BOOST_TEST(refused > 0);
  BOOST_TEST(is_what_it_was());
  BOOST_TEST(repo->inspect(ref)->layers == 1u);
  repo->sweep(store);
  BOOST_TEST(blobs().size() == 3u);
}

BOOST_AUTO_TEST_CASE(a_damaged_reference_loses_nothing_that_it_may_have_named) {
  write_text(root + "/a", std::string(1000, 'a'));
  save("whole");
  write_text(root + "/a", std::string(2000, 'b'));
  save("hurt");
  auto path = store + "/hurt.tar";
  auto good = read_text(path);
  auto there = blobs();
  for (size_t at = 0; at < good.size(); ++at) {
    auto bad = good;
    bad[at] ^= 1;
    write_text(path, bad);
    repo->sweep(store);
    BOOST_REQUIRE_MESSAGE(blobs() == there, "byte " << at);
  }
  write_text(path, good.substr(0, good.size() / 2));
  repo->sweep(store);
  BOOST_TEST((blobs() == there));
  write_text(path, good);
  check("hurt");
  BOOST_TEST(repo->remove(local_ref(store, "hurt")).has_value());
  BOOST_TEST(blobs().size() == 3u);
}

BOOST_AUTO_TEST_CASE(snapshots_share_layers_and_live_without_each_other) {
  write_text(root + "/a", std::string(100'000, 'a'));
  settle(root);
  save("first");
  write_text(root + "/b", "b");
  auto second = save("second", "first");
  BOOST_TEST(second.info.parent == "first");
  BOOST_TEST(second.info.layers == 2u);
  BOOST_TEST(second.new_bytes < 8000u);
  BOOST_TEST(repo->remove(local_ref(store, "first")).has_value());
  check("second");
  require_restored(root, "second");
  BOOST_TEST(repo->remove(local_ref(store, "second")).has_value());
  BOOST_TEST(blobs().empty());
}

BOOST_AUTO_TEST_CASE(a_link_is_the_same_snapshot_under_another_name) {
  write_text(root + "/a", "1");
  auto saved = save("first");
  auto linked = repo->link(local_ref(store, "first"), local_ref(store, "copy"));
  BOOST_REQUIRE(linked);
  BOOST_TEST(linked->id == "copy");
  BOOST_TEST(repo->remove(local_ref(store, "first")).has_value());
  check("copy");
}

BOOST_AUTO_TEST_CASE(a_tree_that_others_write_to_is_looked_at_until_it_is_still) {
  for (int i = 0; i < 300; ++i)
    write_text(root + "/f" + std::to_string(i), std::string(3000, 'x'));
  std::atomic<bool> done{false};
  std::thread writer{[&] {
    for (int i = 0; i < 200 && !done; ++i)
      write_text(root + "/z" + std::to_string(i % 20), std::to_string(i));
  }};
  auto saved = save("snap", "", true);
  done = true;
  writer.join();
  require_restored(dir / "root/out");
  if (saved.warnings.empty())
    BOOST_TEST(fingerprint_at(dir / "root/out") == saved.fingerprint);
}

BOOST_AUTO_TEST_CASE(a_snapshot_travels_as_an_oci_layout_and_as_a_tar) {
  hostile_tree tree{root, 5};
  save();
  tree.change(10);
  auto saved = save();
  BOOST_REQUIRE(repo->export_oci(ref, dir / "layout").has_value());
  auto elsewhere = local_ref(dir / "elsewhere", "came");
  auto imported = repo->import_oci(dir / "layout", elsewhere, {});
  BOOST_REQUIRE_MESSAGE(imported, (imported ? "" : imported.error().context));
  BOOST_REQUIRE(repo->restore({elsewhere, dir / "out"}, {}, {}).has_value());
  BOOST_TEST((describe_all(dir / "out") == describe_all(root)));
  BOOST_TEST(fingerprint_at(dir / "out") == saved.fingerprint);
  auto blob = *names(dir / "layout/blobs/sha256").begin();
  auto path = dir / ("layout/blobs/sha256/" + blob);
  write_text(path, read_text(path) + "x");
  auto refused = repo->import_oci(dir / "layout", local_ref(dir / "third", "came"), {});
  BOOST_REQUIRE(!refused);
  BOOST_TEST(refused.error().context.find(blob) != std::string::npos);
  BOOST_TEST(!fs::exists(dir / "third/came.tar"));
  unique_fd tar{::open((dir / "plain").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  BOOST_REQUIRE(repo->export_tar(ref, tar.get(), {}).has_value());
  fs::create_directories(store + "2");
  fs::copy_file(dir / "plain", store + "2/t.tar");
  BOOST_REQUIRE(repo->restore({local_ref(store + "2", "t"), dir / "out2"}, {}, {}).has_value());
  BOOST_TEST(fingerprint_at(dir / "out2") == saved.fingerprint);
}

BOOST_AUTO_TEST_CASE(an_archive_of_before_is_replaced_by_layers) {
  write_text(store + "/snap.tar", tar_directory("./") + tar_file("./a.txt", "hello") + tar_end());
  require_restored(root);
  write_text(root + "/b", "new");
  auto saved = save();
  BOOST_TEST(saved.info.layers == 1u);
  check();
}

BOOST_AUTO_TEST_CASE(differences_name_each_path_and_show_small_texts) {
  write_text(root + "/same", "same");
  write_text(root + "/text", "one\ntwo\nthree\n");
  write_text(root + "/gone/deep", "x");
  write_text(root + "/binary", std::string("\0\1", 2));
  save("first");
  write_text(root + "/text", "one\n2\nthree\n");
  write_text(root + "/binary", std::string("\0\2", 2));
  write_text(root + "/new", "fresh");
  fs::remove_all(root + "/gone");
  save("second", "first");
  auto fd = open_dir(root);
  persist_request live{local_ref(store, "x"), "session", "tenant", fd.get(), {}, "manifest"};
  auto a = local_ref(store, "first");
  auto b = local_ref(store, "second");
  for (const auto* to :
       {static_cast<const persist_request*>(nullptr), static_cast<const persist_request*>(&live)}) {
    auto found = repo->diff(a, b, to, true, {});
    BOOST_REQUIRE_MESSAGE(found, (found ? "" : found.error().context));
    std::string all;
    for (const auto& x : found->items)
      all += x.change + ' ' + x.path + '\n' + x.patch;
    BOOST_TEST(all
               == "M binary\nD gone\nD gone/deep\n@@ -1 +0,0 @@\n-x\n\\ No newline at end of file\n"
                  "A new\n@@ -0,0 +1 @@\n+fresh\n\\ No newline at end of file\n"
                  "M text\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
  }
  BOOST_TEST(repo->diff(b, b, nullptr, false, {})->items.empty());
}

BOOST_AUTO_TEST_CASE(held_layers_outlive_their_snapshot_unseen) {
  hostile_tree tree{root, 3};
  save();
  auto held = repo->hold(ref, "session");
  BOOST_REQUIRE(held && *held);
  auto hidden = local_ref(store, **held);
  auto digests = repo->layers(ref);
  BOOST_REQUIRE(digests);
  BOOST_TEST(repo->list(store).value().size() == 1U);
  BOOST_REQUIRE(repo->remove(ref).has_value());
  repo->sweep(store);
  BOOST_TEST(repo->list(store).value().empty());
  BOOST_TEST((repo->layers(hidden).value() == *digests));
  repo->release_others(store, {**held});
  BOOST_TEST(repo->verify(hidden, {}).has_value());
  repo->release_others(store, {});
  BOOST_TEST(!repo->layers(hidden).has_value());
}

BOOST_AUTO_TEST_CASE(only_hidden_snapshots_are_released) {
  hostile_tree tree{root, 4};
  save();
  repo->release(ref);
  BOOST_TEST(repo->verify(ref, {}).has_value());
}

BOOST_AUTO_TEST_CASE(many_links_are_snapshots_of_their_own) {
  hostile_tree tree{root, 5};
  save();
  BOOST_REQUIRE(repo->link_all(ref, {"one", "two"}).has_value());
  BOOST_TEST(!repo->link_all(ref, {"one"}).has_value());
  tree.change(5);
  settle(root);
  save();
  BOOST_TEST(repo->remove(ref).has_value());
  for (auto* id : {"one", "two"}) {
    BOOST_TEST(repo->verify(local_ref(store, id), {}).has_value());
    BOOST_TEST(repo->remove(local_ref(store, id)).has_value());
  }
}

// -- overlays -------------------------------------------------------------------------------------

BOOST_DATA_TEST_CASE(the_upper_tree_of_an_overlay_says_what_changed, seeds(12), seed) {
  std::thread apart{[&, seed] {
    auto lower = dir / "lower";
    auto upper = dir / "upper";
    for (const auto& path : {lower, upper, dir / "work"})
      fs::create_directories(path);
    hostile_tree below{lower, seed};
    fs::remove_all(root);
    fs::create_directory_symlink(lower, root);
    auto first = save();
    fs::remove(root);
    fs::create_directories(root);
    auto options = "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + (dir / "work");
    if (::unshare(CLONE_NEWNS) != 0
        || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0
        || ::mount("overlay", root.c_str(), "overlay", 0, options.c_str()) != 0) {
      BOOST_TEST_MESSAGE("cannot mount here");
      return;
    }
    auto digests = repo->layers(ref);
    BOOST_REQUIRE(digests);
    hostile_tree tree{root, seed + 1000};
    for (int round = 0; round < 5; ++round) {
      auto fd = open_dir(root);
      auto upper_fd = open_dir(upper);
      persist_request request{ref, "session", "tenant", fd.get(), {}, "manifest"};
      request.upper_fd = upper_fd.get();
      request.lower_layers = *digests;
      auto saved = repo->persist(request, {}, {});
      BOOST_REQUIRE_MESSAGE(saved, (saved ? "" : saved.error().context));
      BOOST_TEST(saved->fingerprint == fingerprint_at(root));
      auto there = dir / "root/check";
      require_restored(there);
      BOOST_TEST(fingerprint_at(there) == saved->fingerprint);
      fs::remove_all(there);
      settle(root);
      auto again = repo->persist(request, {}, {});
      BOOST_REQUIRE(again);
      tree.change(8);
    }
    ::umount2(root.c_str(), MNT_DETACH);
  }};
  apart.join();
}

BOOST_DATA_TEST_CASE(unpacked_layers_under_an_overlay_are_the_tree, seeds(10), seed) {
  std::thread apart{[&, seed] {
    auto cached = make_repository(2, {dir / "cache", 1 << 30});
    hostile_tree tree{root, seed};
    for (int round = 0; round < 4; ++round) {
      save();
      tree.change(8);
    }
    auto saved = save();
    auto lease = cached->lease(ref, {});
    if (!lease && lease.error().context.find("not permitted") != std::string::npos)
      return; // no device nodes here
    BOOST_REQUIRE_MESSAGE(lease, (lease ? "" : lease.error().message + lease.error().context));
    auto merged = dir / "merged";
    fs::create_directories(merged);
    std::string options = "lowerdir=";
    for (auto i = (*lease)->folders.size(); i-- > 0;)
      options += (*lease)->folders[i] + (i == 0 ? "" : ":");
    if ((*lease)->folders.size() == 1)
      options += ":" + (dir / "cache"); // at least two without an upper one
    if (::unshare(CLONE_NEWNS) != 0
        || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0
        || ::mount("overlay", merged.c_str(), "overlay", 0, options.c_str()) != 0) {
      BOOST_TEST_MESSAGE("cannot mount here");
      return;
    }
    auto expected = describe_all(root);
    auto found = describe_all(merged);
    // An overlay knows no links between its layers.
    auto alone = [](const std::string& line) { return line.substr(0, line.find(" = ")); };
    for (const auto& [path, line] : expected)
      BOOST_TEST(alone(found[path]) == alone(line), path);
    BOOST_TEST(expected.size() == found.size());
    ::umount2(merged.c_str(), MNT_DETACH);
  }};
  apart.join();
}

BOOST_DATA_TEST_CASE(a_tree_is_made_of_unpacked_layers_where_there_is_no_overlay, seeds(10), seed) {
  auto cached = make_repository(2, {dir / "cache", 1 << 30});
  hostile_tree tree{root, seed};
  for (int round = 0; round < 4; ++round) {
    save();
    tree.change(10);
  }
  save();
  auto lease = cached->lease(ref, {});
  if (!lease) {
    BOOST_TEST_MESSAGE("layers cannot be unpacked here");
    return;
  }
  auto opened = blob_store::open(store, blob_store::use::shared, false);
  BOOST_REQUIRE(opened && *opened);
  auto snapshot = find_layered(**opened, ref);
  BOOST_REQUIRE(snapshot && *snapshot);
  auto there = dir / "root/there";
  fs::create_directories(there);
  auto fd = open_dir(there);
  const progress silent;
  job work{op::snapshot_restore, {}, silent};
  tree_writer out{fd.get()};
  auto done = clone_layered(**opened, **snapshot, (*lease)->folders, out, work);
  BOOST_REQUIRE_MESSAGE(done, (done ? "" : done.error().message + done.error().context));
  auto expected = describe_all(root);
  auto found = describe_all(there);
  for (const auto& [path, line] : expected)
    BOOST_TEST(found[path] == line, path);
  BOOST_TEST(found.size() == expected.size());
}

/// Whether the first blocks of a file are another file's, too.
bool shares_blocks(const std::string& path) {
  unique_fd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  alignas(fiemap) char memory[sizeof(fiemap) + sizeof(fiemap_extent)] = {};
  auto& map = *reinterpret_cast<fiemap*>(memory);
  map.fm_length = 4096;
  map.fm_flags = FIEMAP_FLAG_SYNC;
  map.fm_extent_count = 1;
  return ::ioctl(fd.get(), _IOWR('f', 11, fiemap), &map) == 0 && map.fm_mapped_extents == 1
         && (map.fm_extents[0].fe_flags & FIEMAP_EXTENT_SHARED) != 0;
}

BOOST_AUTO_TEST_CASE(a_restore_shares_blocks_with_unpacked_layers_where_the_file_system_can) {
  std::thread apart{[&] {
    auto image = dir / "image";
    auto disk = dir / "disk";
    fs::create_directories(disk);
    auto make = "truncate -s 256M " + image + " && mkfs.btrfs -q " + image + " && mount -o loop "
                + image + ' ' + disk + " >" + (dir / "said") + " 2>&1";
    if (::unshare(CLONE_NEWNS) != 0
        || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0
        || std::system(("{ " + make + "; } 2>/dev/null").c_str()) != 0) {
      BOOST_TEST_MESSAGE("no such file system here");
      return;
    }
    auto cached = make_repository(2, {disk + "/cache", 1 << 30});
    hostile_tree tree{root, 11};
    write_text(root + "/large", std::string(1 << 20, 'x'));
    save();
    tree.change(10);
    write_text(root + "/large", std::string(1 << 20, 'y'));
    save();
    auto expected = describe_all(root);
    for (auto* out : {"/one", "/two"}) {
      auto ok = cached->restore({ref, disk + out}, {}, {});
      BOOST_TEST_REQUIRE(ok.has_value(), (ok ? "" : ok.error().context));
      BOOST_TEST((describe_all(disk + out) == expected));
      BOOST_TEST(shares_blocks(disk + out + "/large"));
    }
    write_text(disk + "/one/large", "mine");
    BOOST_TEST((describe_all(disk + "/two") == expected));
    // With nothing to clone from, it is unpacked.
    auto plain = make_repository(2, {dir / "cache", 1 << 30});
    BOOST_REQUIRE(plain->restore({ref, disk + "/three"}, {}, {}).has_value());
    BOOST_TEST((describe_all(disk + "/three") == expected));
    BOOST_TEST(!shares_blocks(disk + "/three/large"));
    cached.reset();
    ::umount2(disk.c_str(), MNT_DETACH);
  }};
  apart.join();
}

BOOST_AUTO_TEST_CASE(an_unpacked_layer_that_is_cut_is_refused) {
  auto cached = make_repository(2, {dir / "cache", 1 << 30});
  write_text(root + "/a", "text");
  save();
  auto lease = cached->lease(ref, {});
  BOOST_REQUIRE(lease);
  fs::resize_file((*lease)->folders.front() + "/a", 1);
  auto opened = blob_store::open(store, blob_store::use::shared, false);
  auto snapshot = find_layered(**opened, ref);
  fs::create_directories(dir / "there");
  auto fd = open_dir(dir / "there");
  const progress silent;
  job work{op::snapshot_restore, {}, silent};
  tree_writer out{fd.get()};
  auto done = clone_layered(**opened, **snapshot, (*lease)->folders, out, work);
  BOOST_REQUIRE(!done);
  BOOST_TEST(done.error().context.find("not what it was") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_sparse_file_with_a_name_in_a_later_layer_stays_sparse) {
  auto cached = make_repository(2, {dir / "cache", 1 << 30});
  write_text(root + "/a", "start");
  fs::resize_file(root + "/a", 1 << 26);
  save("one");
  fs::create_hard_link(root + "/a", root + "/b");
  auto saved = save("two", "one");
  BOOST_TEST(saved.info.layers == 2u);
  auto lease = cached->lease(local_ref(store, "two"), {});
  if (!lease)
    return;
  struct stat st;
  BOOST_REQUIRE_EQUAL(::stat(((*lease)->folders.back() + "/b").c_str(), &st), 0);
  BOOST_TEST(st.st_size == 1 << 26);
  BOOST_TEST(st.st_blocks < 1000);
  BOOST_TEST(read_text((*lease)->folders.back() + "/b").starts_with("start"));
}

BOOST_AUTO_TEST_CASE(a_layer_is_unpacked_once_and_goes_only_when_nobody_holds_it) {
  auto cached = make_repository(2, {dir / "cache", 300'000});
  auto folder = [&] { return dir / "cache/" + *names(dir / "cache").begin(); };
  for (int i = 0; i < 4; ++i) {
    write_text(root + "/f", std::string(100'000, static_cast<char>('a' + i)));
    save("s" + std::to_string(i), "none");
  }
  auto first = cached->lease(local_ref(store, "s0"), {});
  if (!first)
    return;
  auto again = cached->lease(local_ref(store, "s0"), {});
  BOOST_REQUIRE(again);
  BOOST_TEST(((*first)->folders == (*again)->folders));
  (*again).reset();
  for (auto id : {"s1", "s2", "s3"})
    BOOST_TEST(cached->lease(local_ref(store, id), {}).has_value());
  BOOST_TEST(names(folder()).size() <= 3u);
  BOOST_TEST(read_text((*first)->folders[0] + "/f") == std::string(100'000, 'a'));
  std::vector<std::thread> users;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i)
    users.emplace_back([&, i] {
      for (int k = 0; k < 25; ++k) {
        int n = (i + k) % 4;
        auto held = cached->lease(local_ref(store, "s" + std::to_string(n)), {});
        if (held
            && read_text((*held)->folders[0] + "/f")
                 == std::string(100'000, static_cast<char>('a' + n)))
          ++good;
      }
    });
  for (auto& user : users)
    user.join();
  BOOST_TEST(good == 100);
}

BOOST_AUTO_TEST_SUITE_END()
