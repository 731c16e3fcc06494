#include "actors/registry_db.hpp"

#include "messages/event_json.hpp"
#include "messages/json.hpp"
#include "workspace/archive_limits_json.hpp"
#include "workspace/manifest_json.hpp"

#include <sqlite3.h>

#include <initializer_list>
#include <map>
#include <string_view>
#include <variant>

namespace troupe::actors {

namespace {

constexpr int schema_version = 2;

/// Events kept in the journal; the oldest go first.
constexpr int64_t journal_limit = 200'000;

/// The index by it is only used by a query that says the same.
const std::string session_of_snapshot
  = "CASE WHEN json_valid(body) THEN json_extract(body, '$.session_id') END";

/// A spec is written once and may be large; what changes lies apart from it. Row ids keep what is
/// made together on the same few pages, whatever the ids of the sessions are.
const std::string schema = R"(
  CREATE TABLE IF NOT EXISTS sessions (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL, status TEXT NOT NULL, labels TEXT NOT NULL, live TEXT NOT NULL
  );
  CREATE INDEX IF NOT EXISTS sessions_by_tenant ON sessions (tenant, created_at, id);
  CREATE TABLE IF NOT EXISTS specs (row INTEGER PRIMARY KEY, spec TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, session_id TEXT NOT NULL, body TEXT NOT NULL
  );
  CREATE INDEX IF NOT EXISTS events_by_session ON events (session_id, id);
  CREATE TABLE IF NOT EXISTS snapshots (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_at INTEGER NOT NULL, body TEXT NOT NULL
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS snapshots_by_session ON snapshots ()"
                           + session_of_snapshot + R"(, id);
)";

/// Version 1 kept the spec in the row of its session.
constexpr const char* from_version_1 = R"(
  DROP INDEX sessions_by_tenant;
  ALTER TABLE sessions RENAME TO sessions_1;
)";
constexpr const char* copy_version_1 = R"(
  INSERT INTO sessions (id, tenant, created_at, status, labels, live)
    SELECT id, tenant, created_at, status, labels, live FROM sessions_1;
  INSERT INTO specs SELECT s.row, o.spec FROM sessions s JOIN sessions_1 o USING (id);
  DROP TABLE sessions_1;
)";

json optional_text(const std::optional<std::string>& x) {
  return x ? json(*x) : json(nullptr);
}

template <class T>
json optional_number(const std::optional<T>& x) {
  return x ? json(*x) : json(nullptr);
}

/// Reads what this file wrote; a member that is missing (an older version wrote it) keeps its
/// default.
template <class T>
void take(const json& from, const char* key, T& to) {
  if (auto i = from.find(key); i != from.end() && !i->is_null())
    to = i->template get<T>();
}

template <class T>
void take(const json& from, const char* key, std::optional<T>& to) {
  if (auto i = from.find(key); i != from.end()) {
    if (i->is_null())
      to.reset();
    else
      to = i->template get<T>();
  }
}

std::string spec_text(const session_spec& x) {
  return dump_json(json{
    {"state", workspace::dump_state(x.state)},
    {"concurrency",
     {{"manifest_entries", optional_number(x.concurrency.manifest_entries)},
      {"local_dir_files", optional_number(x.concurrency.local_dir_files)}}},
    {"archives", workspace::dump_archive_limits(x.archives)},
    {"on_conflict", to_string(x.on_conflict)},
    {"idle_timeout_ms", optional_number(x.idle_timeout_ms)},
    {"max_lifetime_ms", optional_number(x.max_lifetime_ms)},
    {"resumed", x.resumed},
  });
}

std::string live_text(const session_live& x) {
  return dump_json(json{
    {"epoch", x.epoch},
    {"restarts", x.restarts},
    {"started_at_ms", x.started_at_ms},
    {"last_used_at_ms", x.last_used_at_ms},
    {"last_error", x.last_error ? error_to_json(*x.last_error) : json(nullptr)},
    {"persist_skip", x.persist_skip},
    {"warnings", x.warnings},
    {"snapshot_fingerprint", optional_text(x.snapshot_fingerprint)},
    {"snapshot_fingerprint_version", optional_text(x.snapshot_fingerprint_version)},
    {"workspace_root_ready", x.workspace_root_ready},
    {"base_snapshot", x.base_snapshot},
    {"checkpoints", x.checkpoints},
    {"event_seq", x.event_seq},
  });
}

/// The columns of a session row, as they come from SQLite.
struct session_row {
  std::string id;
  std::string tenant;
  int64_t created_at = 0;
  std::string status;
  std::string labels;
  std::string spec;
  std::string live;
};

result<session_record> record_of(const session_row& row) {
  auto spec = parse_json(row.spec);
  auto live = parse_json(row.live);
  auto labels = parse_json(row.labels);
  if (!spec || !live || !labels)
    return unexpected(make_error(errc::internal, op::list, "a stored session record is damaged")
                        .with("session_id", row.id));
  auto state = workspace::parse_state(spec->value("state", json::object()));
  if (!state)
    return unexpected(std::move(state.error()));
  session_record out;
  out.spec.id = row.id;
  out.spec.tenant = row.tenant;
  out.spec.state = std::move(*state);
  for (const auto& [name, value] : labels->items())
    out.spec.labels.emplace(name, value.get<std::string>());
  const auto& concurrency = (*spec)["concurrency"];
  take(concurrency, "manifest_entries", out.spec.concurrency.manifest_entries);
  take(concurrency, "local_dir_files", out.spec.concurrency.local_dir_files);
  if (auto i = spec->find("archives"); i != spec->end())
    if (auto archives = workspace::parse_archive_limits(*i))
      out.spec.archives = *archives;
  out.spec.on_conflict = conflict_from_string(spec->value("on_conflict", ""))
                           .value_or(workspace_conflict::snapshot_wins);
  take(*spec, "idle_timeout_ms", out.spec.idle_timeout_ms);
  take(*spec, "max_lifetime_ms", out.spec.max_lifetime_ms);
  take(*spec, "resumed", out.spec.resumed);
  out.live.status = status_from_string(row.status).value_or(session_status::failed);
  out.live.created_at_ms = row.created_at;
  take(*live, "epoch", out.live.epoch);
  take(*live, "restarts", out.live.restarts);
  take(*live, "started_at_ms", out.live.started_at_ms);
  take(*live, "last_used_at_ms", out.live.last_used_at_ms);
  if (auto i = live->find("last_error"); i != live->end() && i->is_object())
    out.live.last_error = error_from_json(*i);
  take(*live, "persist_skip", out.live.persist_skip);
  take(*live, "warnings", out.live.warnings);
  take(*live, "snapshot_fingerprint", out.live.snapshot_fingerprint);
  take(*live, "snapshot_fingerprint_version", out.live.snapshot_fingerprint_version);
  take(*live, "workspace_root_ready", out.live.workspace_root_ready);
  take(*live, "base_snapshot", out.live.base_snapshot);
  take(*live, "checkpoints", out.live.checkpoints);
  take(*live, "event_seq", out.live.event_seq);
  out.spec.state.snapshot_fingerprint = out.live.snapshot_fingerprint;
  out.spec.state.snapshot_fingerprint_version = out.live.snapshot_fingerprint_version;
  out.spec.state.workspace_root_ready = out.live.workspace_root_ready;
  return out;
}

std::string snapshot_text(const snapshot_info& x) {
  return dump_json(json{{"session_id", x.session_id},
                        {"size_bytes", x.size_bytes},
                        {"stored_bytes", x.stored_bytes},
                        {"files", x.files},
                        {"layers", x.layers},
                        {"parent", x.parent},
                        {"name", x.name},
                        {"base_path", x.base_path}});
}

using bind_value = std::variant<int64_t, std::string_view>;

} // namespace

uint32_t shard_of(const std::string& session_id, uint32_t shards) {
  uint32_t hash = 2166136261u; // FNV-1a: the same in every process and version
  for (unsigned char c : session_id)
    hash = (hash ^ c) * 16777619u;
  return hash % shards;
}

struct registry_db::impl {
  sqlite3* handle = nullptr;
  std::map<std::string, sqlite3_stmt*, std::less<>> statements;
  uint64_t appended = 0;

  ~impl() {
    for (auto& [text, statement] : statements)
      sqlite3_finalize(statement);
    sqlite3_close(handle);
  }

  error failure(std::string message) const {
    auto code = sqlite3_errcode(handle);
    return make_error(code == SQLITE_FULL ? errc::no_space : errc::internal, op::request,
                      std::move(message))
      .with("detail", sqlite3_errmsg(handle));
  }

  result<void> script(const char* text) {
    if (sqlite3_exec(handle, text, nullptr, nullptr, nullptr) != SQLITE_OK)
      return unexpected(failure("the registry's database refused a statement"));
    return {};
  }

  /// Runs one statement; `on_row` gets each row.
  template <class OnRow>
  result<void> query(std::string_view text, std::initializer_list<bind_value> values,
                     OnRow on_row) {
    auto i = statements.find(text);
    if (i == statements.end()) {
      sqlite3_stmt* made = nullptr;
      if (sqlite3_prepare_v3(handle, text.data(), static_cast<int>(text.size()),
                             SQLITE_PREPARE_PERSISTENT, &made, nullptr)
          != SQLITE_OK)
        return unexpected(failure("the registry's database refused a statement"));
      i = statements.emplace(std::string{text}, made).first;
    }
    auto* statement = i->second;
    int index = 0;
    for (const auto& value : values) {
      ++index;
      if (auto* number = std::get_if<int64_t>(&value))
        sqlite3_bind_int64(statement, index, *number);
      else
        sqlite3_bind_text64(statement, index, std::get<std::string_view>(value).data(),
                            std::get<std::string_view>(value).size(), SQLITE_STATIC, SQLITE_UTF8);
    }
    result<void> outcome;
    for (;;) {
      auto step = sqlite3_step(statement);
      if (step == SQLITE_ROW) {
        on_row(statement);
        continue;
      }
      if (step != SQLITE_DONE)
        outcome = unexpected(failure("the registry's database failed"));
      break;
    }
    sqlite3_reset(statement);
    return outcome;
  }

  result<void> run(std::string_view text, std::initializer_list<bind_value> values) {
    return query(text, values, [](sqlite3_stmt*) {});
  }

  /// A record is not written with each event: the journal knows the newest.
  result<void> count_events(session_record& record) {
    auto& last = record.live.event_seq;
    return query("SELECT json_extract(body, '$.seq') FROM events WHERE session_id = ? "
                 "ORDER BY id DESC LIMIT 1",
                 {std::string_view{record.spec.id}}, [&](sqlite3_stmt* row) {
                   last = std::max(last, static_cast<uint64_t>(sqlite3_column_int64(row, 0)));
                 });
  }
};

namespace {

std::string text_column(sqlite3_stmt* row, int column) {
  auto* data = reinterpret_cast<const char*>(sqlite3_column_text(row, column));
  return data ? std::string(data, static_cast<size_t>(sqlite3_column_bytes(row, column)))
              : std::string{};
}

session_row session_columns(sqlite3_stmt* row) {
  return {text_column(row, 0), text_column(row, 1), sqlite3_column_int64(row, 2),
          text_column(row, 3), text_column(row, 4), text_column(row, 5),
          text_column(row, 6)};
}

} // namespace

registry_db::registry_db(std::unique_ptr<impl> x) : impl_(std::move(x)) {}

registry_db::~registry_db() = default;

result<std::unique_ptr<registry_db>> registry_db::open(const std::string& path) {
  auto x = std::make_unique<impl>();
  // The registry actor sees to it that one thread at a time is in here.
  if (sqlite3_open_v2(path.c_str(), &x->handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr)
      != SQLITE_OK)
    return unexpected(x->failure("cannot open the registry's database").with("path", path));
  // Exclusive locking keeps a second server off this state directory.
  if (auto ok = x->script("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
                          "PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY;"
                          "PRAGMA wal_autocheckpoint=8000; BEGIN IMMEDIATE; COMMIT;");
      !ok)
    return unexpected(make_error(errc::conflict, op::start,
                                 "the state directory is in use by another server, or its "
                                 "database cannot be written")
                        .with("path", path)
                        .with_json("cause", dump_json(error_to_json(ok.error()))));
  int64_t version = 0;
  if (auto ok = x->query("PRAGMA user_version", {},
                         [&](sqlite3_stmt* row) { version = sqlite3_column_int64(row, 0); });
      !ok)
    return unexpected(std::move(ok.error()));
  if (version > schema_version)
    return unexpected(make_error(errc::sandbox_config_invalid, op::start,
                                 "the state directory was written by a newer version")
                        .with("path", path)
                        .with("schema_version", version));
  auto steps = std::string{"BEGIN;"} + (version == 1 ? from_version_1 : "") + schema
               + (version == 1 ? copy_version_1 : "")
               + "PRAGMA user_version=" + std::to_string(schema_version) + "; COMMIT;";
  if (auto ok = x->script(steps.c_str()); !ok)
    return unexpected(std::move(ok.error()));
  return std::unique_ptr<registry_db>{new registry_db(std::move(x))};
}

result<void> registry_db::begin() {
  return impl_->run("BEGIN IMMEDIATE", {});
}

result<void> registry_db::commit() {
  return impl_->run("COMMIT", {});
}

void registry_db::rollback() {
  // Fails when the failed commit rolled back already.
  (void) impl_->run("ROLLBACK", {});
}

result<void> registry_db::put(const session_record& record) {
  const auto& spec = record.spec;
  auto status = to_string(record.live.status);
  auto labels = dump_json(json(spec.labels));
  auto spec_json = spec_text(spec);
  auto live_json = live_text(record.live);
  auto ok = impl_->run("INSERT INTO sessions (id, tenant, created_at, status, labels, live) "
                       "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET "
                       "tenant = ?2, created_at = ?3, status = ?4, labels = ?5, live = ?6",
                       {std::string_view{spec.id}, std::string_view{spec.tenant},
                        record.live.created_at_ms, status, std::string_view{labels},
                        std::string_view{live_json}});
  if (!ok)
    return ok;
  return impl_->run("INSERT OR REPLACE INTO specs SELECT row, ? FROM sessions WHERE id = ?",
                    {std::string_view{spec_json}, std::string_view{spec.id}});
}

result<void> registry_db::put(const put_live& change) {
  auto text = live_text(change.live);
  return impl_->run(
    "UPDATE sessions SET status = ?, live = ? WHERE id = ?",
    {to_string(change.live.status), std::string_view{text}, std::string_view{change.id}});
}

result<void> registry_db::drop(const drop_record& request) {
  for (auto text : {"DELETE FROM specs WHERE row = (SELECT row FROM sessions WHERE id = ?)",
                    "DELETE FROM sessions WHERE id = ?"})
    if (auto ok = impl_->run(text, {std::string_view{request.id}}); !ok)
      return ok;
  return {};
}

result<session_record> registry_db::get(const get_record& request) {
  result<session_record> found = unexpected(
    make_error(errc::not_found, op::request, "no such session").with("session_id", request.id));
  auto ok = impl_->query("SELECT id, tenant, created_at, status, labels, spec, live FROM sessions "
                         "JOIN specs USING (row) WHERE id = ?",
                         {std::string_view{request.id}},
                         [&](sqlite3_stmt* row) { found = record_of(session_columns(row)); });
  if (ok && found)
    ok = impl_->count_events(*found);
  if (!ok)
    return unexpected(std::move(ok.error()));
  return found;
}

result<std::vector<session_record>> registry_db::load(const load_records& request) {
  std::vector<session_record> out;
  std::optional<error> damaged;
  auto ok = impl_->query("SELECT id, tenant, created_at, status, labels, spec, live FROM sessions "
                         "JOIN specs USING (row) ORDER BY created_at, id",
                         {}, [&](sqlite3_stmt* row) {
                           auto columns = session_columns(row);
                           if (shard_of(columns.id, request.shards) != request.shard)
                             return;
                           if (auto record = record_of(columns))
                             out.push_back(std::move(*record));
                           else
                             damaged = std::move(record.error());
                         });
  if (!ok)
    return unexpected(std::move(ok.error()));
  if (damaged)
    return unexpected(std::move(*damaged));
  for (auto& record : out)
    if (auto counted = impl_->count_events(record); !counted)
      return unexpected(std::move(counted.error()));
  return out;
}

result<session_page> registry_db::list(const list_sessions& request) {
  // The cursor is "created_at:id" of the last row of the page before.
  int64_t after_time = -1;
  std::string after_id;
  if (!request.cursor.empty()) {
    auto colon = request.cursor.find(':');
    if (colon == std::string::npos || request.cursor.find_first_not_of("0123456789") != colon
        || colon == 0 || colon > 18)
      return unexpected(make_error(errc::invalid_request, op::list, "malformed cursor")
                          .with("cursor", request.cursor));
    after_time = std::stoll(request.cursor.substr(0, colon));
    after_id = request.cursor.substr(colon + 1);
  }
  session_page page;
  std::optional<error> damaged;
  std::string status{request.status ? to_string(*request.status) : std::string_view{}};
  auto labels = dump_json(json(request.labels));
  auto ok = impl_->query(
    "SELECT id, tenant, created_at, status, labels, spec, live FROM sessions s "
    "JOIN specs USING (row) WHERE tenant = ?1 AND (created_at, id) > (?2, ?3) AND (?4 = '' OR "
    "status = ?4) "
    "AND NOT EXISTS (SELECT 1 FROM json_each(?5) w WHERE NOT EXISTS "
    "  (SELECT 1 FROM json_each(s.labels) h WHERE h.key = w.key AND h.value = w.value)) "
    "ORDER BY created_at, id LIMIT ?6",
    {std::string_view{request.tenant}, after_time, std::string_view{after_id},
     std::string_view{status}, std::string_view{labels}, int64_t{request.limit} + 1},
    [&](sqlite3_stmt* row) {
      if (page.items.size() == static_cast<size_t>(request.limit)) {
        const auto& last = page.items.back();
        page.next_cursor = std::to_string(last.live.created_at_ms) + ":" + last.spec.id;
        return;
      }
      if (auto record = record_of(session_columns(row)))
        page.items.push_back(std::move(*record));
      else
        damaged = std::move(record.error());
    });
  if (!ok)
    return unexpected(std::move(ok.error()));
  if (damaged)
    return unexpected(std::move(*damaged));
  return page;
}

result<void> registry_db::append(const append_events& request) {
  for (const auto& x : request.events) {
    auto body = event_text(x);
    auto ok = impl_->run("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)",
                         {static_cast<int64_t>(x.id), std::string_view{x.tenant},
                          std::string_view{x.session_id}, std::string_view{body}});
    if (!ok)
      return ok;
  }
  // Now and then, drop what exceeds the limit.
  constexpr uint64_t sweep_every = 4096;
  auto before = impl_->appended / sweep_every;
  impl_->appended += request.events.size();
  if (impl_->appended / sweep_every == before)
    return {};
  return impl_->run("DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC "
                    "LIMIT 1 OFFSET ?)",
                    {journal_limit});
}

result<std::vector<event>> registry_db::read(const read_events& request) {
  std::vector<event> out;
  auto collect = [&](sqlite3_stmt* row) {
    auto body = parse_json(text_column(row, 2));
    if (!body)
      return;
    auto x = event_from_json(*body);
    x.id = static_cast<uint64_t>(sqlite3_column_int64(row, 0));
    x.tenant = text_column(row, 1);
    out.push_back(std::move(x));
  };
  auto after = static_cast<int64_t>(request.after_id);
  auto ok
    = request.session_id.empty()
        ? impl_->query("SELECT id, tenant, body FROM events WHERE id > ? AND tenant = ? "
                       "ORDER BY id LIMIT ?",
                       {after, std::string_view{request.tenant}, int64_t{request.limit}}, collect)
        : impl_->query("SELECT id, tenant, body FROM events WHERE session_id = ? AND id > ? "
                       "AND tenant = ? ORDER BY id LIMIT ?",
                       {std::string_view{request.session_id}, after,
                        std::string_view{request.tenant}, int64_t{request.limit}},
                       collect);
  if (!ok)
    return unexpected(std::move(ok.error()));
  return out;
}

result<void> registry_db::put(const snapshot_info& info) {
  auto body = snapshot_text(info);
  return impl_->run("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
                    {std::string_view{info.id}, std::string_view{info.tenant}, info.created_at_ms,
                     std::string_view{body}});
}

result<void> registry_db::drop(const drop_snapshot_record& request) {
  return impl_->run("DELETE FROM snapshots WHERE id = ?", {std::string_view{request.id}});
}

namespace {

constexpr std::string_view any_snapshots
  = "SELECT id, tenant, created_at, body FROM snapshots WHERE (?1 = '' OR tenant = ?1) "
    "AND id > ?2 AND (?3 = '' OR id = ?3) AND ?5 = '' ORDER BY id LIMIT ?4";

/// By its index, whatever the tenant has.
const std::string snapshots_of_session
  = "SELECT id, tenant, created_at, body FROM snapshots WHERE (?1 = '' OR tenant = ?1) "
    "AND id > ?2 AND (?3 = '' OR id = ?3) "
    "AND "
    + session_of_snapshot
    + " = ?5 "
      "ORDER BY id LIMIT ?4";

} // namespace

result<snapshot_page> registry_db::list(const list_snapshots& request) {
  snapshot_page page;
  auto ok = impl_->query(request.session_id.empty() ? any_snapshots
                                                    : std::string_view{snapshots_of_session},
                         {std::string_view{request.tenant}, std::string_view{request.cursor},
                          std::string_view{request.id}, int64_t{request.limit} + 1,
                          std::string_view{request.session_id}},
                         [&](sqlite3_stmt* row) {
                           if (page.items.size() == static_cast<size_t>(request.limit)) {
                             page.next_cursor = page.items.back().id;
                             return;
                           }
                           snapshot_info x;
                           x.id = text_column(row, 0);
                           x.tenant = text_column(row, 1);
                           x.created_at_ms = sqlite3_column_int64(row, 2);
                           if (auto body = parse_json(text_column(row, 3))) {
                             take(*body, "session_id", x.session_id);
                             take(*body, "size_bytes", x.size_bytes);
                             take(*body, "stored_bytes", x.stored_bytes);
                             take(*body, "files", x.files);
                             take(*body, "layers", x.layers);
                             take(*body, "parent", x.parent);
                             take(*body, "name", x.name);
                             take(*body, "base_path", x.base_path);
                           }
                           page.items.push_back(std::move(x));
                         });
  if (!ok)
    return unexpected(std::move(ok.error()));
  return page;
}

} // namespace troupe::actors
