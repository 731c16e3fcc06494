#include "actors/snapshot_store.hpp"

#include <algorithm>
#include <cstdio>
#include <tuple>

// What goes of the snapshots that are stored: by age, count and bytes, and what nothing refers to.

namespace troupe::actors {

namespace {

/// Removals of one look; the rest waits for the next one.
constexpr size_t most_at_once = 1000;

} // namespace

co<result<std::vector<snapshot_info>>> snapshot_store_state::list_all(std::string tenant) {
  std::vector<snapshot_info> all;
  list_snapshots query{tenant, "", 1000, ""};
  for (;;) {
    auto page = co_await ask<snapshot_page>(self_, shared_.directory.registry(), query);
    if (!page)
      co_return unexpected(std::move(page.error()));
    all.insert(all.end(), page->items.begin(), page->items.end());
    if (page->next_cursor.empty())
      break;
    query.cursor = page->next_cursor;
  }
  co_return all;
}

co<result<std::set<std::string>>> snapshot_store_state::needed() {
  std::set<std::string> ids;
  const auto shards = shared_.config.shards;
  for (uint32_t shard = 0; shard < shards; ++shard) {
    load_records query{shard, shards};
    auto records = co_await ask<std::vector<session_record>>(self_, shared_.directory.registry(),
                                                             std::move(query));
    if (!records)
      co_return unexpected(std::move(records.error()));
    for (const auto& x : *records) {
      ids.insert(x.spec.state.snapshot.id);
      ids.insert(x.live.base_snapshot);
    }
  }
  co_return ids;
}

co<result<prune_report>> snapshot_store_state::prune_some(std::vector<snapshot_info> all,
                                                          prune_snapshots bounds,
                                                          std::set<std::string> keep) {
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
    return std::tie(a.created_at_ms, a.id) > std::tie(b.created_at_ms, b.id);
  });
  const auto now = now_ms();
  int64_t count = 0;
  uint64_t bytes = 0;
  std::vector<snapshot_info> doomed;
  for (const auto& info : all) {
    ++count;
    bytes += info.size_bytes;
    bool beyond = (bounds.max_age_ms && now - info.created_at_ms > *bounds.max_age_ms)
                  || (bounds.max_count && count > *bounds.max_count)
                  || (bounds.max_bytes && bytes > static_cast<uint64_t>(*bounds.max_bytes));
    // Of a remote one, another server may have the session.
    bool elsewhere
      = info.id == info.session_id && info.base_path.starts_with(remote_dir(shared_.config) + '/');
    if (beyond && !elsewhere && !keep.contains(info.id))
      doomed.push_back(info);
  }
  prune_report report;
  for (auto i = doomed.rbegin(); i != doomed.rend() && report.removed.size() < most_at_once; ++i) {
    if (shared_.pins.keeps(i->id))
      continue;
    if (!bounds.dry_run) {
      remove_snapshot request{i->id, i->tenant};
      auto removed = co_await remove(std::move(request), false);
      if (!removed && removed.error().code != errc::not_found)
        co_return unexpected(std::move(removed.error()));
      std::fprintf(stderr, "troupe: snapshot %s of tenant %s removed: beyond its retention\n",
                   i->id.c_str(), i->tenant.c_str());
    }
    report.removed.push_back(i->id);
  }
  co_return report;
}

co<result<prune_report>> snapshot_store_state::prune(prune_snapshots x) {
  auto watch = shared_.pins.watch();
  auto all = co_await list_all(x.tenant);
  if (!all)
    co_return unexpected(std::move(all.error()));
  auto keep = co_await needed();
  if (!keep)
    co_return unexpected(std::move(keep.error()));
  co_return co_await prune_some(std::move(*all), std::move(x), std::move(*keep));
}

void snapshot_store_state::schedule_retention() {
  const auto& config = shared_.config;
  auto bounded
    = [](const retention_policy& x) { return x.max_age_ms || x.max_count || x.max_bytes; };
  bool some = bounded(config.retention) || !config.snapshot_stores.empty();
  for (const auto& [tenant, policy] : config.tenant_retention)
    some = some || bounded(policy);
  if (!some)
    return;
  auto turn = [this] {
    launch<void>(scope_, retain(), [this](const result<void>& done) {
      if (!done)
        std::fprintf(stderr, "troupe: retention: %s %s\n", done.error().message.c_str(),
                     done.error().context.c_str());
      schedule_retention();
    });
  };
  tell_later(self_, std::chrono::milliseconds{config.retention_interval_ms}, action{turn});
}

co<result<void>> snapshot_store_state::retain() {
  auto watch = shared_.pins.watch();
  auto all = co_await list_all("");
  if (!all)
    co_return unexpected(std::move(all.error()));
  auto keep = co_await needed();
  if (!keep)
    co_return unexpected(std::move(keep.error()));
  const auto& config = shared_.config;
  std::map<std::string, std::vector<snapshot_info>> by_tenant;
  for (auto& info : *all)
    by_tenant[info.tenant].push_back(std::move(info));
  result<void> outcome;
  for (const auto& [tenant, theirs] : by_tenant) {
    auto own = config.tenant_retention.find(tenant);
    const auto& policy = own == config.tenant_retention.end() ? config.retention : own->second;
    prune_snapshots bounds;
    bounds.tenant = tenant;
    bounds.max_age_ms = policy.max_age_ms;
    bounds.max_count = policy.max_count;
    bounds.max_bytes = policy.max_bytes;
    // What fails for one tenant is no reason to keep another's.
    auto pruned = co_await prune_some(theirs, bounds, *keep);
    if (!pruned)
      outcome = unexpected(std::move(pruned.error()));
  }
  auto look = [folder = remote_dir(config)]() -> result<std::vector<std::string>> {
    return snapshot::remote_base_paths(folder);
  };
  auto folders = co_await offload<std::vector<std::string>>(self_, shared_.io, "snapshots", look);
  if (!folders)
    co_return unexpected(std::move(folders.error()));
  for (const auto& folder : *folders) {
    auto turn = co_await transfers_.acquire();
    auto work
      = [&repository = shared_.snapshots, folder, stop = stop_.get_token()]() -> result<void> {
      return repository.collect_remote(folder, stop).map([](uint64_t) {});
    };
    auto collected = co_await offload<void>(self_, shared_.io, "snapshots", work);
    if (!collected)
      outcome = std::move(collected);
  }
  co_return outcome;
}

} // namespace troupe::actors
