#pragma once

#include "messages/requests.hpp"

#include <memory>
#include <string>
#include <vector>

namespace troupe::actors {

/// The SQLite file behind the registry: sessions, the index of snapshots, the event journal.
///
/// In WAL mode with `synchronous=NORMAL`: what was committed survives the death of the process; a
/// power cut may take the last commits but never the file. Used by one thread at a time.
class registry_db {
public:
  /// Opens or makes the file and brings an older schema up to date.
  static result<std::unique_ptr<registry_db>> open(const std::string& path);
  ~registry_db();

  registry_db(const registry_db&) = delete;
  registry_db& operator=(const registry_db&) = delete;

  // -- one transaction around any number of the calls below
  // ------------------------------------------

  result<void> begin();
  result<void> commit();
  void rollback();

  // -- sessions
  // ---------------------------------------------------------------------------------------

  result<void> put(const session_record& record);
  result<void> put(const put_live& change);
  result<void> drop(const drop_record& request);
  result<session_record> get(const get_record& request);
  result<std::vector<session_record>> load(const load_records& request);
  result<session_page> list(const list_sessions& request);

  // -- events
  // -----------------------------------------------------------------------------------------

  result<void> append(const append_events& request);
  result<std::vector<event>> read(const read_events& request);

  // -- snapshots
  // --------------------------------------------------------------------------------------

  result<void> put(const snapshot_info& info);
  result<void> drop(const drop_snapshot_record& request);
  /// An empty tenant is every one.
  result<snapshot_page> list(const list_snapshots& request);

private:
  struct impl;
  explicit registry_db(std::unique_ptr<impl> x);
  std::unique_ptr<impl> impl_;
};

/// Which shard a session belongs to.
uint32_t shard_of(const std::string& session_id, uint32_t shards);

} // namespace troupe::actors
