#include "actors/registry.hpp"

namespace troupe::actors {

namespace {

/// Requests waiting for a transaction; over it the answer is `overloaded`.
constexpr size_t queue_limit = 16'384;

/// Requests in one transaction.
constexpr size_t batch_limit = 512;

} // namespace

registry_state::registry_state(self_ptr<handle_type> self, services& shared,
                               std::shared_ptr<registry_db> db)
  : self_(self), shared_(shared), db_(std::move(db)) {}

template <class T, class Work>
caf::result<T> registry_state::enqueue(Work work) {
  reply_to<T> reply{self_};
  if (waiting_.size() >= queue_limit) {
    reply.finish(unexpected(
      make_error(errc::overloaded, op::request, "too many writes wait for the registry")));
    return reply;
  }
  auto outcome = std::make_shared<std::optional<result<T>>>();
  operation x;
  x.run = [outcome, work = std::move(work)](registry_db& db) { outcome->emplace(work(db)); };
  x.answer = [outcome, reply](const result<void>& committed) {
    if (!committed)
      reply.finish(unexpected(committed.error()));
    else if (outcome->has_value())
      reply.finish(std::move(**outcome));
  };
  waiting_.push_back(std::move(x));
  if (in_flight_.empty())
    run_batch();
  return reply;
}

void registry_state::run_batch() {
  auto batch = std::make_shared<std::vector<std::function<void(registry_db&)>>>();
  while (!waiting_.empty() && in_flight_.size() < batch_limit) {
    batch->push_back(std::move(waiting_.front().run));
    in_flight_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  if (in_flight_.empty())
    return;
  auto db = db_;
  auto transaction = [batch, db]() -> result<void> {
    if (auto ok = db->begin(); !ok)
      return ok;
    for (auto& run : *batch)
      run(*db);
    auto committed = db->commit();
    if (!committed)
      db->rollback();
    return committed;
  };
  offload_then<void>(self_, shared_.io, "registry", transaction,
                     [this](const result<void>& committed) {
                       auto answered = std::move(in_flight_);
                       in_flight_.clear();
                       for (auto& x : answered)
                         x.answer(committed);
                       run_batch();
                     });
}

registry_state::handle_type::behavior_type registry_state::make_behavior() {
  return {
    [this](put_record& x) {
      return enqueue<void>([x = std::move(x)](registry_db& db) { return db.put(x.record); });
    },
    [this](put_live& x) {
      return enqueue<void>([x = std::move(x)](registry_db& db) { return db.put(x); });
    },
    [this](drop_record& x) {
      return enqueue<void>([x = std::move(x)](registry_db& db) { return db.drop(x); });
    },
    [this](get_record& x) {
      return enqueue<session_record>([x = std::move(x)](registry_db& db) { return db.get(x); });
    },
    [this](const load_records& x) {
      return enqueue<std::vector<session_record>>([x](registry_db& db) { return db.load(x); });
    },
    [this](list_sessions& x) {
      return enqueue<session_page>([x = std::move(x)](registry_db& db) { return db.list(x); });
    },
    [this](append_events& x) {
      return enqueue<void>([x = std::move(x)](registry_db& db) { return db.append(x); });
    },
    [this](read_events& x) {
      return enqueue<std::vector<event>>(
        [x = std::move(x)](registry_db& db) { return db.read(x); });
    },
    [this](put_snapshot& x) {
      return enqueue<void>([x = std::move(x)](registry_db& db) { return db.put(x.info); });
    },
    [this](drop_snapshot_record& x) {
      return enqueue<void>([x = std::move(x)](registry_db& db) { return db.drop(x); });
    },
    [this](list_snapshots& x) {
      return enqueue<snapshot_page>([x = std::move(x)](registry_db& db) { return db.list(x); });
    },
    [](action& work) { work(); },
  };
}

} // namespace troupe::actors
