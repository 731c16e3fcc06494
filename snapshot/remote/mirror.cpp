#include "snapshot/remote/mirror.hpp"

#include "snapshot/blob_store.hpp"
#include "snapshot/local_store.hpp"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

namespace troupe::snapshot {

namespace {

/// A snapshot that may be forgotten here.
struct candidate {
  size_t folder = 0;
  blob_store::named_snapshot reference;
};

/// How many references a folder has to each blob, and what they take.
class folder_use {
public:
  void add(const blob_store::named_snapshot& x) {
    for (const auto& blob : x.blobs)
      if (auto& [count, size] = blobs_[blob.digest]; count++ == 0)
        size = blob.size;
  }

  /// What is freed when that one goes, all things being as they were said.
  uint64_t take(const blob_store::named_snapshot& x) {
    uint64_t freed = 0;
    for (const auto& blob : x.blobs)
      if (auto& [count, size] = blobs_[blob.digest]; --count == 0)
        freed += size;
    return freed;
  }

private:
  std::unordered_map<std::string, std::pair<uint32_t, uint64_t>> blobs_;
};

uint64_t bytes_in(const std::vector<std::string>& folders) {
  uint64_t sum = 0;
  for (const auto& folder : folders)
    if (auto store = blob_store::open(folder, blob_store::use::shared, false); store && *store)
      sum += (*store)->blob_bytes();
  return sum;
}

} // namespace

bool trim_mirrors(const std::vector<std::string>& folders, uint64_t max_bytes,
                  const std::function<bool(const std::string& id)>& in_use) {
  if (bytes_in(folders) <= max_bytes)
    return true;
  auto may_go = [&](const std::string& id) { return !id.starts_with(held_prefix) && !in_use(id); };
  bool all_done = true;
  auto collect
    = [&](const std::string& folder, const std::vector<blob_store::named_snapshot>& gone) {
        auto store = blob_store::open(folder, blob_store::use::collecting, false);
        if (!store || !*store) {
          all_done = false;
          return;
        }
        // Asked with nobody at work here: who begins now finds what is left, and fetches the rest.
        for (const auto& x : gone)
          if (!may_go(x.id) || !(*store)->drop(x))
            all_done = false;
        (void) (*store)->collect();
      };
  // What nothing refers to goes first, and copies that are damaged.
  for (const auto& folder : folders) {
    std::vector<blob_store::named_snapshot> damaged;
    if (auto store = blob_store::open(folder, blob_store::use::shared, false); store && *store)
      damaged = (*store)->references();
    std::erase_if(damaged, [&](const auto& x) { return !x.blobs.empty() || !may_go(x.id); });
    collect(folder, damaged);
  }
  auto bytes = bytes_in(folders);
  if (bytes <= max_bytes)
    return true;
  all_done = true;
  std::vector<candidate> all;
  std::vector<folder_use> uses(folders.size());
  for (size_t i = 0; i < folders.size(); ++i) {
    auto store = blob_store::open(folders[i], blob_store::use::shared, false);
    if (!store || !*store)
      continue;
    for (auto& x : (*store)->references()) {
      uses[i].add(x);
      if (may_go(x.id))
        all.push_back({i, std::move(x)});
    }
  }
  std::ranges::sort(all, [](const candidate& a, const candidate& b) {
    const auto& x = a.reference.used;
    const auto& y = b.reference.used;
    return std::pair{x.tv_sec, x.tv_nsec} < std::pair{y.tv_sec, y.tv_nsec};
  });
  const auto enough = max_bytes - max_bytes / 8;
  std::map<size_t, std::vector<blob_store::named_snapshot>> gone;
  for (auto& x : all) {
    if (bytes <= enough)
      break;
    bytes -= std::min(bytes, uses[x.folder].take(x.reference));
    gone[x.folder].push_back(std::move(x.reference));
  }
  for (const auto& [folder, references] : gone)
    collect(folders[folder], references);
  return all_done && bytes <= max_bytes;
}

} // namespace troupe::snapshot
