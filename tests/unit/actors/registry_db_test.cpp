#include "actors/registry_db.hpp"
#include "messages/ids.hpp"
#include "workspace/tree.hpp"

#include <boost/test/unit_test.hpp>

#include <sqlite3.h>

#include <cstdlib>

using namespace troupe;
using namespace troupe::actors;

namespace {

struct fixture {
  fixture() {
    BOOST_REQUIRE(::mkdtemp(folder.data()) != nullptr);
    open();
  }
  ~fixture() {
    db.reset();
    (void) workspace::remove_tree_at(folder);
  }

  void open() {
    db.reset();
    auto opened = registry_db::open(folder + "/r.sqlite");
    BOOST_REQUIRE(opened.has_value());
    db = std::move(*opened);
  }

  session_record record(const std::string& tenant, int64_t created) {
    session_record x;
    x.spec.id = make_uuid();
    x.spec.tenant = tenant;
    x.spec.state.session_id = x.spec.id;
    x.spec.state.snapshot.id = x.spec.id;
    x.spec.state.manifest.root = "/srv/ws";
    x.live.created_at_ms = created;
    return x;
  }

  std::string folder = "/tmp/troupe-registry-XXXXXX";
  std::unique_ptr<registry_db> db;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(registry_db_suite, fixture)

BOOST_AUTO_TEST_CASE(a_record_comes_back_whole_after_reopening) {
  auto x = record("t", 5);
  x.spec.labels = {{"team", "a\"b"}};
  x.spec.state.limits.output_bytes = 7;
  x.spec.concurrency.local_dir_files.reset();
  x.spec.idle_timeout_ms = 1000;
  named_entry file;
  file.path = "a.txt";
  file.entry.content = "text \xC3\xA9";
  x.spec.state.manifest.entries = {file};
  x.live.status = session_status::running;
  x.live.epoch = 3;
  x.live.persist_skip = {"logs"};
  x.live.snapshot_fingerprint = "f";
  x.live.snapshot_fingerprint_version = "v";
  x.live.workspace_root_ready = true;
  x.live.last_error = make_error(errc::no_space, op::stop, "full").with("path", "/x");
  BOOST_REQUIRE(db->put(x).has_value());
  open();
  auto y = db->get({x.spec.id});
  BOOST_REQUIRE(y.has_value());
  BOOST_TEST(y->spec.labels == x.spec.labels);
  BOOST_TEST(y->spec.state.limits.output_bytes.value() == 7);
  BOOST_TEST(!y->spec.concurrency.local_dir_files.has_value());
  BOOST_TEST(y->spec.concurrency.manifest_entries.value() == 4);
  BOOST_TEST(y->spec.idle_timeout_ms.value() == 1000);
  BOOST_REQUIRE(y->spec.state.manifest.entries.size() == 1u);
  BOOST_TEST(y->spec.state.manifest.entries[0].entry.content == file.entry.content);
  BOOST_TEST((y->live.status == session_status::running));
  BOOST_TEST(y->live.epoch == 3u);
  BOOST_TEST(y->live.persist_skip == x.live.persist_skip);
  BOOST_TEST(y->spec.state.snapshot_fingerprint.value() == "f");
  BOOST_TEST(y->spec.state.workspace_root_ready);
  BOOST_REQUIRE(y->live.last_error.has_value());
  BOOST_TEST((y->live.last_error->code == errc::no_space));
  BOOST_TEST(y->live.last_error->context == R"({"path":"/x"})");
}

BOOST_AUTO_TEST_CASE(a_change_of_the_live_part_leaves_the_rest) {
  auto x = record("t", 5);
  BOOST_REQUIRE(db->put(x).has_value());
  x.live.status = session_status::stopped;
  x.live.restarts = 2;
  BOOST_REQUIRE(db->put(put_live{x.spec.id, x.live}).has_value());
  auto y = db->get({x.spec.id});
  BOOST_REQUIRE(y.has_value());
  BOOST_TEST((y->live.status == session_status::stopped));
  BOOST_TEST(y->live.restarts == 2u);
  BOOST_TEST(y->spec.state.manifest.root == "/srv/ws");
}

BOOST_AUTO_TEST_CASE(a_dropped_record_is_gone) {
  auto x = record("t", 5);
  BOOST_REQUIRE(db->put(x).has_value());
  BOOST_REQUIRE(db->drop(drop_record{x.spec.id}).has_value());
  auto y = db->get({x.spec.id});
  BOOST_REQUIRE(!y.has_value());
  BOOST_TEST((y.error().code == errc::not_found));
}

BOOST_AUTO_TEST_CASE(shards_share_all_records_out) {
  for (int i = 0; i < 50; ++i)
    BOOST_REQUIRE(db->put(record("t", i)).has_value());
  size_t total = 0;
  for (uint32_t shard = 0; shard < 4; ++shard) {
    auto part = db->load({shard, 4});
    BOOST_REQUIRE(part.has_value());
    for (const auto& x : *part)
      BOOST_TEST(shard_of(x.spec.id, 4) == shard);
    total += part->size();
  }
  BOOST_TEST(total == 50u);
}

BOOST_AUTO_TEST_CASE(pages_follow_each_other_without_gap_or_repeat) {
  for (int i = 0; i < 25; ++i)
    BOOST_REQUIRE(db->put(record("t", i / 5)).has_value());
  BOOST_REQUIRE(db->put(record("other", 0)).has_value());
  list_sessions query;
  query.tenant = "t";
  query.limit = 7;
  std::vector<std::string> seen;
  for (int pages = 0; pages < 10; ++pages) {
    auto page = db->list(query);
    BOOST_REQUIRE(page.has_value());
    for (const auto& x : page->items)
      seen.push_back(x.spec.id);
    if (page->next_cursor.empty())
      break;
    query.cursor = page->next_cursor;
  }
  BOOST_TEST(seen.size() == 25u);
  std::sort(seen.begin(), seen.end());
  BOOST_TEST((std::adjacent_find(seen.begin(), seen.end()) == seen.end()));
}

BOOST_AUTO_TEST_CASE(a_list_can_be_narrowed_by_status_and_labels) {
  auto a = record("t", 1);
  a.spec.labels = {{"x", "1"}, {"y", "2"}};
  a.live.status = session_status::running;
  auto b = record("t", 2);
  b.spec.labels = {{"x", "1"}};
  BOOST_REQUIRE(db->put(a).has_value());
  BOOST_REQUIRE(db->put(b).has_value());
  list_sessions query;
  query.tenant = "t";
  query.labels = {{"x", "1"}};
  BOOST_TEST(db->list(query)->items.size() == 2u);
  query.labels = {{"x", "1"}, {"y", "2"}};
  BOOST_TEST(db->list(query)->items.size() == 1u);
  query.labels = {};
  query.status = session_status::running;
  BOOST_TEST(db->list(query)->items.size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_malformed_cursor_is_refused) {
  list_sessions query;
  query.tenant = "t";
  for (const char* cursor : {"x", "1", ":", "1x:2", "99999999999999999999:a"}) {
    query.cursor = cursor;
    auto page = db->list(query);
    BOOST_REQUIRE(!page.has_value());
    BOOST_TEST((page.error().code == errc::invalid_request));
  }
}

BOOST_AUTO_TEST_CASE(what_was_not_committed_is_gone_after_a_rollback) {
  auto x = record("t", 1);
  BOOST_REQUIRE(db->begin().has_value());
  BOOST_REQUIRE(db->put(x).has_value());
  db->rollback();
  BOOST_TEST(!db->get({x.spec.id}).has_value());
}

BOOST_AUTO_TEST_CASE(a_second_server_cannot_use_the_same_file) {
  auto second = registry_db::open(folder + "/r.sqlite");
  BOOST_REQUIRE(!second.has_value());
  BOOST_TEST((second.error().code == errc::conflict));
}

BOOST_AUTO_TEST_CASE(events_are_read_in_order_by_tenant_and_session) {
  append_events batch;
  for (uint64_t i = 1; i <= 5; ++i) {
    event e;
    e.id = i;
    e.seq = i;
    e.tenant = i == 5 ? "other" : "t";
    e.session_id = i % 2 == 0 ? "even" : "odd";
    e.phase = event_phase::finish;
    e.ok = false;
    e.failure = make_error(errc::exec_timeout, op::exec, "late");
    batch.events.push_back(e);
  }
  BOOST_REQUIRE(db->append(batch).has_value());
  auto all = db->read({0, "", "t", 100});
  BOOST_REQUIRE(all.has_value());
  BOOST_TEST(all->size() == 4u);
  auto even = db->read({2, "even", "t", 100});
  BOOST_REQUIRE(even->size() == 1u);
  BOOST_TEST(even->front().seq == 4u);
  BOOST_REQUIRE(even->front().failure.has_value());
  BOOST_TEST((even->front().failure->code == errc::exec_timeout));
}

BOOST_AUTO_TEST_CASE(snapshots_are_listed_per_tenant) {
  for (int i = 0; i < 3; ++i) {
    snapshot_info x;
    x.id = "s" + std::to_string(i);
    x.tenant = i == 2 ? "other" : "t";
    x.size_bytes = 9;
    BOOST_REQUIRE(db->put(x).has_value());
  }
  list_snapshots query;
  query.tenant = "t";
  query.limit = 1;
  auto first = db->list(query);
  BOOST_REQUIRE(first->items.size() == 1u);
  BOOST_TEST(first->next_cursor == "s0");
  query.id = "s2";
  query.cursor = "";
  BOOST_TEST(db->list(query)->items.empty());
  BOOST_REQUIRE(db->drop(drop_snapshot_record{"s0"}).has_value());
  query.id = "";
  BOOST_TEST(db->list(query)->items.size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_database_of_version_1_is_taken_over) {
  auto x = record("t", 5);
  x.spec.labels = {{"team", "a"}};
  BOOST_REQUIRE(db->begin() && db->put(x) && db->commit());
  db.reset();
  // What version 1 had made of it.
  sqlite3* raw = nullptr;
  BOOST_REQUIRE(sqlite3_open((folder + "/r.sqlite").c_str(), &raw) == SQLITE_OK);
  auto* back = "CREATE TABLE old (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, "
               "created_at INTEGER NOT NULL, status TEXT NOT NULL, labels TEXT NOT NULL, "
               "spec TEXT NOT NULL, live TEXT NOT NULL) WITHOUT ROWID;"
               "INSERT INTO old SELECT id, tenant, created_at, status, labels, spec, live "
               "FROM sessions JOIN specs USING (row);"
               "DROP TABLE sessions; DROP TABLE specs; ALTER TABLE old RENAME TO sessions;"
               "CREATE INDEX sessions_by_tenant ON sessions (tenant, created_at, id);"
               "PRAGMA user_version = 1;";
  BOOST_TEST(sqlite3_exec(raw, back, nullptr, nullptr, nullptr) == SQLITE_OK);
  sqlite3_close(raw);
  open();
  auto found = db->get({x.spec.id});
  BOOST_REQUIRE(found.has_value());
  BOOST_TEST((found->spec.labels == x.spec.labels));
  BOOST_TEST(found->spec.state.manifest.root == "/srv/ws");
}

BOOST_AUTO_TEST_SUITE_END()
