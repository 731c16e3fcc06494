#include "snapshot/remote/mirror.hpp"

#include "snapshot/blob_store.hpp"

#include "support.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::snapshot;
using namespace troupe::snapshot::test;

namespace {

constexpr size_t file_size = 100'000;

/// Folders of two tenants with snapshots of a file of noise each, used one after the other.
struct fixture {
  temp_dir dir;
  std::vector<std::string> folders{dir / "one", dir / "two"};
  std::unique_ptr<repository> repo = make_repository(1);
  std::string root = dir / "root";
  uint32_t noise = 1;

  void save(size_t folder, const std::string& id, int64_t used) {
    fs::remove_all(root);
    std::string text(file_size, '\0');
    for (auto& c : text)
      c = static_cast<char>((noise = noise * 1664525 + 1013904223) >> 24);
    write_text(root + "/" + id, text);
    BOOST_REQUIRE(persist(*repo, local_ref(folders[folder], id), root).has_value());
    use(folder, id, used);
  }

  void use(size_t folder, const std::string& id, int64_t at) {
    set_mtime(folders[folder] + '/' + id + ".tar", at, 0);
  }

  bool trim(size_t files, const std::set<std::string>& used = {}) {
    return trim_mirrors(folders, files * file_size + file_size / 2,
                        [&](const auto& id) { return used.contains(id); });
  }

  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const auto& folder : folders)
      if (fs::exists(folder))
        for (const auto& item : fs::directory_iterator{folder + "/.layers/blobs/sha256"})
          sum += item.file_size();
    return sum;
  }

  std::set<std::string> there() const {
    std::set<std::string> ids;
    for (const auto& folder : folders) {
      auto all = repo->list(folder);
      BOOST_REQUIRE(all);
      for (const auto& info : *all)
        if (repo->verify(local_ref(folder, info.id), {}))
          ids.insert(info.id);
    }
    return ids;
  }
};

using ids = std::set<std::string>;

} // namespace

BOOST_FIXTURE_TEST_SUITE(mirror, fixture)

BOOST_AUTO_TEST_CASE(nothing_goes_below_the_bound) {
  save(0, "a", 1);
  save(1, "b", 2);
  BOOST_TEST(trim(2));
  BOOST_TEST((there() == ids{"a", "b"}));
}

BOOST_AUTO_TEST_CASE(what_was_used_longest_ago_goes_whosever_it_is) {
  save(0, "a", 4);
  save(1, "b", 1);
  save(0, "c", 3);
  save(1, "d", 2);
  BOOST_TEST(trim(2));
  BOOST_TEST((there() == ids{"a", "c"}));
  BOOST_TEST(bytes() < 2 * file_size + file_size / 2);
}

BOOST_AUTO_TEST_CASE(what_is_used_or_held_stays) {
  save(0, "a", 1);
  save(0, "b", 2);
  save(1, "c", 3);
  auto held = repo->hold(local_ref(folders[0], "b"), "session");
  BOOST_REQUIRE(held && *held);
  BOOST_TEST(!trim(0, {"a"}));
  BOOST_TEST((there() == ids{"a"}));
  BOOST_TEST(repo->verify(local_ref(folders[0], **held), {}).has_value());
  BOOST_TEST(trim(1, {}));
  BOOST_TEST(there().empty());
  BOOST_TEST(repo->verify(local_ref(folders[0], **held), {}).has_value());
}

BOOST_AUTO_TEST_CASE(blobs_go_with_the_last_snapshot_that_has_them) {
  save(0, "a", 1);
  BOOST_REQUIRE(repo->link(local_ref(folders[0], "a"), local_ref(folders[0], "same")).has_value());
  use(0, "same", 3);
  save(0, "b", 2);
  BOOST_TEST(trim(1));
  BOOST_TEST((there() == ids{"same"}));
}

BOOST_AUTO_TEST_CASE(what_nothing_refers_to_goes_before_a_snapshot) {
  save(0, "a", 1);
  save(0, "b", 2);
  fs::remove(folders[0] + "/b.tar");
  BOOST_TEST(trim(1));
  BOOST_TEST((there() == ids{"a"}));
}

BOOST_AUTO_TEST_CASE(where_somebody_works_nothing_goes_until_later) {
  save(0, "a", 1);
  save(1, "b", 2);
  {
    auto at_work = blob_store::open(folders[0], blob_store::use::shared, false);
    BOOST_REQUIRE(at_work && *at_work);
    BOOST_TEST(!trim(0));
    BOOST_TEST((there() == ids{"a"}));
  }
  BOOST_TEST(trim(0));
  BOOST_TEST(there().empty());
}

BOOST_AUTO_TEST_CASE(a_damaged_copy_goes_like_any_other) {
  save(0, "a", 1);
  auto path = folders[0] + "/a.tar";
  write_text(path, read_text(path).substr(0, 100));
  set_mtime(path, 1, 0);
  save(1, "b", 2);
  BOOST_TEST(trim(1));
  BOOST_TEST(bytes() < file_size + file_size / 2);
  BOOST_TEST((there() == ids{"b"}));
}

BOOST_AUTO_TEST_SUITE_END()
