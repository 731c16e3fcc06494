#include "snapshot/remote/remote_store.hpp"

#include "snapshot/blob_store.hpp"
#include "snapshot/free_space.hpp"
#include "snapshot/layered.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <unordered_set>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t max_reference = 1024;
constexpr size_t max_small_blob = 1024 * 1024;

std::string blob_key(const std::string& digest) {
  return "blobs/sha256/" + digest;
}

std::string reference_key(const std::string& id) {
  return "refs/" + id;
}

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

std::vector<blob_id> blobs_of(const layered_snapshot& x) {
  std::vector<blob_id> all;
  for (const auto& layer : x.layers)
    all.push_back(layer.blob);
  all.push_back(x.config);
  all.push_back(x.manifest);
  return all;
}

error reference_damaged() {
  return damaged("the reference is damaged");
}

result<blob_id> manifest_of(const std::string& reference) {
  auto id = blob_store::first_manifest(reference);
  if (id && blob_store::reference_text(*id) == reference)
    return id;
  return unexpected(reference_damaged());
}

/// Brings one blob into a folder, verified; nothing is there before it is whole.
result<void> fetch_blob(s3_client& client, const blob_store& store, std::mutex& mutex,
                        const blob_id& id) {
  if (store.open_blob(id))
    return {};
  std::optional<new_blob> file;
  uint64_t seen = 0;
  s3_sink sink;
  sink.restart = [&]() -> result<void> {
    file.reset();
    seen = 0;
    auto made = new_blob::create(store);
    if (!made)
      return unexpected(std::move(made.error()));
    file.emplace(std::move(*made));
    return {};
  };
  sink.take = [&](std::string_view bytes) -> result<void> {
    seen += bytes.size();
    if (seen > id.size)
      return unexpected(blob_damaged(id, "blob is longer than it should be"));
    return file->write(bytes.data(), bytes.size());
  };
  auto found = client.get(blob_key(id.digest), sink);
  if (!found)
    return unexpected(std::move(found.error()));
  if (!*found)
    return unexpected(blob_damaged(id, "blob is missing"));
  if (seen != id.size)
    return unexpected(blob_damaged(id, "blob is cut"));
  std::lock_guard lock{mutex};
  return file->commit_as(id);
}

/// The blobs that a snapshot in the store is made of; only the two small ones are read.
result<std::vector<blob_id>> reached_from(s3_client& client, const blob_id& manifest) {
  auto text = client.get(blob_key(manifest.digest), max_small_blob);
  if (!text)
    return unexpected(std::move(text.error()));
  if (!*text)
    return unexpected(blob_damaged(manifest, "blob is missing"));
  sha256 hash;
  hash.update(**text);
  if (to_hex(hash.finish()) != manifest.digest)
    return unexpected(blob_damaged(manifest, "blob does not have its digest"));
  auto named = blob_store::named_in(**text);
  if (!named)
    return unexpected(blob_damaged(manifest, "manifest does not parse"));
  named->push_back(manifest);
  return std::move(*named);
}

} // namespace

remote_store::remote_store(const remote_options& options, std::string name,
                           const std::string& tenant, std::string mirror)
  : s3_(options.s3), grace_(options.grace), name_(std::move(name)), mirror_(std::move(mirror)) {
  s3_.prefix = s3_.prefix.empty() ? tenant : s3_.prefix + '/' + tenant;
}

result<std::unique_ptr<s3_client>> remote_store::connect(std::stop_token stop) const {
  return s3_client::make(s3_, std::move(stop));
}

error remote_store::about(const std::string& id, error x, bool restoring) const {
  if (restoring && x.code == errc::snapshot_persist_error) {
    x.code = errc::snapshot_restore_error;
    x.operation = op::snapshot_restore;
  }
  if (x.context.find("\"snapshot_id\"") == std::string::npos)
    x.with("snapshot_id", id);
  if (x.context.find("\"path\"") == std::string::npos)
    x.with("path", "<remote:" + name_ + '>');
  return x;
}

result<bool> remote_store::exists(const std::string& id, std::stop_token stop) const {
  auto found = connect(std::move(stop)).and_then([&](auto client) {
    return client->head(reference_key(id));
  });
  if (!found)
    return unexpected(about(id, std::move(found.error()), true));
  return found->has_value();
}

// -- fetching -------------------------------------------------------------------------------------

result<void> remote_store::fetch(const std::string& id, std::stop_token stop) const {
  auto done
    = connect(std::move(stop)).and_then([&](auto client) { return fetch_from(*client, id); });
  return done ? done : unexpected(about(id, std::move(done.error()), true));
}

result<void> remote_store::fetch_from(s3_client& client, const std::string& id) const {
  auto text = client.get(reference_key(id), max_reference);
  if (!text)
    return unexpected(std::move(text.error()));
  if (!*text)
    return unexpected(damaged("there is no such snapshot in the store"));
  auto manifest = manifest_of(**text);
  if (!manifest)
    return unexpected(std::move(manifest.error()));
  auto opened = blob_store::open(mirror_, blob_store::use::shared, true);
  if (!opened)
    return unexpected(std::move(opened.error()));
  const auto& store = **opened;
  std::mutex mutex;
  auto take = [&](const blob_id& x) { return fetch_blob(client, store, mutex, x); };
  if (auto ok = take(*manifest); !ok)
    return ok;
  auto config = store.config_of(*manifest);
  if (!config)
    return unexpected(std::move(config.error()));
  if (auto ok = take(*config); !ok)
    return ok;
  auto snapshot = store.read(*manifest);
  if (!snapshot)
    return unexpected(std::move(snapshot.error()));
  uint64_t missing = 0;
  for (const auto& layer : snapshot->layers)
    if (!store.open_blob(layer.blob))
      missing += layer.blob.size;
  if (auto ok = check_space(store.blobs_fd(), missing, mirror_); !ok)
    return ok;
  auto all = client.each(snapshot->layers.size(),
                         [&](size_t i) { return take(snapshot->layers[i].blob); });
  return all.and_then([&] { return store.refer(id, *manifest); });
}

// -- sending --------------------------------------------------------------------------------------

result<void> remote_store::publish(const std::string& id, std::stop_token stop) const {
  auto done
    = connect(std::move(stop)).and_then([&](auto client) { return publish_to(*client, id); });
  return done ? done : unexpected(about(id, std::move(done.error()), false));
}

result<void> remote_store::publish_to(s3_client& client, const std::string& id) const {
  auto opened = blob_store::open(mirror_, blob_store::use::shared, false);
  if (!opened)
    return unexpected(std::move(opened.error()));
  if (!*opened)
    return unexpected(damaged("there is nothing to send"));
  const auto& store = **opened;
  auto found = find_layered(store, {snapshot_kind::local, id, mirror_, {}});
  if (!found)
    return unexpected(std::move(found.error()));
  if (!*found)
    return unexpected(damaged("an archive has no layers"));
  const auto& snapshot = **found;
  const auto reference = blob_store::reference_text(snapshot.manifest);
  auto before = client.get(reference_key(id), max_reference);
  if (!before)
    return unexpected(std::move(before.error()));
  if (*before == reference)
    return {};
  // What the reference reaches already is safe from any collection until it is replaced; of the
  // rest, what is old might be collected before we refer to it: that is written again.
  std::unordered_set<std::string> held;
  if (*before)
    if (auto manifest = manifest_of(**before))
      if (auto reached = reached_from(client, *manifest))
        for (const auto& x : *reached)
          held.insert(x.digest);
  const auto fresh_from = now_ms() - grace_.count() / 2;
  auto send_one = [&](const blob_id& x, int64_t not_before) -> result<void> {
    auto there = client.head(blob_key(x.digest));
    if (!there)
      return unexpected(std::move(there.error()));
    if (*there && (*there)->size == x.size
        && (held.contains(x.digest) || (*there)->modified_ms >= not_before))
      return {};
    auto fd = store.open_blob(x);
    if (!fd)
      return unexpected(std::move(fd.error()));
    return client.put(blob_key(x.digest), fd->get(), x.size, x.digest);
  };
  auto blobs = blobs_of(snapshot);
  // Large ones use all connections for their parts.
  auto large = std::ranges::stable_partition(
    blobs, [&](const blob_id& x) { return x.size <= client.options().part_bytes; });
  auto ok = client.each(static_cast<size_t>(large.begin() - blobs.begin()),
                        [&](size_t i) { return send_one(blobs[i], fresh_from); });
  for (const auto& x : large)
    ok = ok.and_then([&] { return send_one(x, fresh_from); });
  ok = ok.and_then([&] { return client.put(reference_key(id), reference); });
  // One that was collected between the look at it and now is sent once more.
  return ok.and_then(
    [&] { return client.each(blobs.size(), [&](size_t i) { return send_one(blobs[i], 0); }); });
}

// -- removing -------------------------------------------------------------------------------------

result<void> remote_store::remove(const std::string& id, std::stop_token stop) const {
  auto done = connect(std::move(stop)).and_then([&](auto client) {
    return client->remove(reference_key(id));
  });
  return done ? done : unexpected(about(id, std::move(done.error()), false));
}

result<uint64_t> remote_store::collect(std::stop_token stop) const {
  auto done = connect(std::move(stop)).and_then([&](auto client) { return collect_in(*client); });
  return done ? done : unexpected(about("", std::move(done.error()), false));
}

result<uint64_t> remote_store::collect_in(s3_client& client) const {
  // Blobs first: one that is younger than the listing of the references is none of those found.
  std::vector<s3_object> old;
  const auto before = now_ms() - grace_.count();
  auto is_old = [&](const s3_object& x) { return x.modified_ms > 0 && x.modified_ms < before; };
  auto ok = client.list("blobs/sha256/", [&](s3_object x) {
    if (is_old(x))
      old.push_back(std::move(x));
  });
  if (!ok)
    return unexpected(std::move(ok.error()));
  if (old.empty())
    return uint64_t{0};
  std::vector<std::string> references;
  ok = client.list("refs/", [&](s3_object x) { references.push_back(std::move(x.key)); });
  if (!ok)
    return unexpected(std::move(ok.error()));
  std::unordered_set<std::string> used;
  for (const auto& key : references) {
    auto text = client.get(key, max_reference);
    if (!text)
      return unexpected(std::move(text.error()));
    if (!*text)
      continue; // removed meanwhile
    auto manifest = manifest_of(**text);
    if (!manifest)
      return unexpected(std::move(manifest.error().with("key", key)));
    if (used.contains(manifest->digest))
      continue;
    auto reached = reached_from(client, *manifest);
    if (!reached)
      return unexpected(std::move(reached.error().with("key", key)));
    for (const auto& x : *reached)
      used.insert(x.digest);
  }
  std::erase_if(old, [&](const s3_object& x) { return used.contains(x.key.substr(13)); });
  std::atomic<uint64_t> freed{0};
  ok = client.each(old.size(), [&](size_t i) -> result<void> {
    auto now = client.head(old[i].key);
    if (!now)
      return unexpected(std::move(now.error()));
    if (!*now || !is_old(**now)) // written again by someone who needs it
      return {};
    auto removed = client.remove(old[i].key);
    if (removed)
      freed += old[i].size;
    return removed;
  });
  if (!ok)
    return unexpected(std::move(ok.error()));
  return freed.load();
}

} // namespace troupe::snapshot
