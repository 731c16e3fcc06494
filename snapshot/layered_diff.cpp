#include "snapshot/layered.hpp"

#include "snapshot/capture.hpp"
#include "snapshot/layered_reader.hpp"
#include "snapshot/text_diff.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/openat2.h>

#include <map>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t max_items = 10'000;
constexpr size_t max_patches = 200;
constexpr uint64_t max_text = 64 * 1024;

std::string_view type_name(entry_type x) {
  switch (x) {
    case entry_type::directory: return "directory";
    case entry_type::symlink: return "symlink";
    case entry_type::hard_link: return "hard_link";
    default: return "file";
  }
}

/// Gathers changes, and the paths whose texts are wanted.
class gatherer {
public:
  explicit gatherer(bool text) : text_(text) {}

  void add(const index_entry* now, const index_entry* before) {
    const auto& x = now ? *now : *before;
    // Of a directory, the time follows what is in it.
    bool only_time = now && before && now->type == entry_type::directory
                     && before->type == entry_type::directory && now->mode == before->mode
                     && now->xattrs == before->xattrs;
    if (x.path.empty() || only_time)
      return;
    if (out.items.size() == max_items) {
      out.truncated = true;
      return;
    }
    workspace_change change;
    change.path = x.path;
    change.change.push_back(now && before ? 'M' : now ? 'A' : 'D');
    change.type = type_name(x.type);
    change.size = now ? now->size : 0;
    change.old_size = before ? before->size : 0;
    auto small = [](const index_entry* y) {
      return !y || (y->type == entry_type::file && y->size <= max_text);
    };
    if (text_ && small(now) && small(before) && wanted.size() < max_patches)
      wanted.emplace(x.path, std::pair{before != nullptr, now != nullptr});
    out.items.push_back(std::move(change));
  }

  workspace_diff out;
  std::map<std::string, std::pair<bool, bool>> wanted; ///< there before, there now

private:
  bool text_;
};

using texts = std::map<std::string, std::string>;

/// The contents of some files of a snapshot.
result<texts> fetch(const blob_store& store, const layered_snapshot& snapshot,
                    const std::map<std::string, bool>& paths, job& work) {
  texts found;
  if (paths.empty())
    return found;
  auto reader = layered_reader::open(store, snapshot);
  if (!reader)
    return unexpected(std::move(reader.error()));
  index_entry x;
  while (found.size() < paths.size()) {
    auto more = work.step().and_then([&] { return reader->next(x); });
    if (!more)
      return unexpected(std::move(more.error()));
    if (!*more)
      break;
    if (!paths.contains(x.path) || x.type != entry_type::file || x.size > max_text)
      continue;
    auto& text = found[x.path];
    text.resize(x.size);
    for (;;) {
      auto piece = reader->data();
      if (!piece)
        return unexpected(std::move(piece.error()));
      if (piece->data.empty())
        break;
      if (piece->offset + piece->data.size() > text.size())
        return unexpected(damaged("more data than the member's size"));
      piece->data.copy(text.data() + piece->offset, piece->data.size());
    }
  }
  return found;
}

texts fetch_live(int root_fd, const std::map<std::string, bool>& paths) {
  texts found;
  for (const auto& [path, ignored] : paths) {
    unique_fd fd{workspace::open_beneath(root_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0,
                                         RESOLVE_NO_SYMLINKS)};
    struct stat st;
    if (!fd || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode))
      continue;
    file_source source{fd.get(), max_text};
    std::string text;
    for (auto chunk = source.next(); chunk && !chunk->empty(); chunk = source.next())
      text += *chunk;
    found.emplace(path, std::move(text));
  }
  return found;
}

result<void> compare(index_fold& from, index_fold& to, gatherer& out, job& work) {
  index_entry a;
  index_entry b;
  auto has_a = from.next(a);
  auto has_b = to.next(b);
  for (;;) {
    if (auto ok = work.step(); !ok)
      return ok;
    if (!has_a || !has_b)
      return unexpected(std::move(!has_a ? has_a.error() : has_b.error()));
    if (!*has_a && !*has_b)
      return {};
    int order = !*has_a ? 1 : !*has_b ? -1 : compare_paths(a.path, b.path);
    if (order < 0)
      out.add(nullptr, &a);
    else if (order > 0)
      out.add(&b, nullptr);
    else if (!same_entry(a, b))
      out.add(&b, &a);
    if (order <= 0)
      has_a = from.next(a);
    if (order >= 0)
      has_b = to.next(b);
  }
}

/// A snapshot with its store, which must live as long.
result<std::pair<blob_store, layered_snapshot>> find(const snapshot_ref& ref) {
  auto store = blob_store::open(ref.base_path, blob_store::use::shared, false);
  if (!store)
    return unexpected(std::move(store.error()));
  auto missing = [&] {
    return unexpected(make_error(errc::snapshot_not_restorable, op::snapshot_restore,
                                 "there is no layered snapshot of this id")
                        .with("snapshot_id", ref.id));
  };
  if (!*store)
    return missing();
  auto found = find_layered(**store, ref);
  if (!found)
    return unexpected(std::move(found.error()));
  if (!*found)
    return missing();
  return std::pair{std::move(**store), std::move(**found)};
}

} // namespace

result<workspace_diff> diff_layered(const snapshot_ref& from, const snapshot_ref& to,
                                    const persist_request* live, bool text, std::stop_token stop) {
  progress silent;
  job work{op::read, std::move(stop), silent};
  gatherer all{text};
  auto before = find(from);
  if (!before)
    return unexpected(std::move(before.error()));
  auto old_index = open_fold(before->first, before->second.layers);
  if (!old_index)
    return unexpected(std::move(old_index.error()));
  std::optional<std::pair<blob_store, layered_snapshot>> after;
  result<void> compared;
  if (live) {
    capture_base base;
    base.index = std::move(*old_index);
    auto upper = usable_upper(*live, before->second.layers);
    if (!upper)
      base.stats = read_stats(before->first.stat_path(from.id));
    compared = capture(live->root_fd, upper, live->skip, std::move(base), nullptr, work,
                       [&](const auto* now, const auto* was) { all.add(now, was); })
                 .map([](const auto&) {});
  } else {
    auto found = find(to);
    if (!found)
      return unexpected(std::move(found.error()));
    after = std::move(*found);
    auto new_index = open_fold(after->first, after->second.layers);
    if (!new_index)
      return unexpected(std::move(new_index.error()));
    compared = compare(**old_index, **new_index, all, work);
  }
  if (!compared)
    return unexpected(std::move(compared.error()));
  std::map<std::string, bool> old_paths;
  std::map<std::string, bool> new_paths;
  for (const auto& [path, there] : all.wanted) {
    if (there.first)
      old_paths.emplace(path, true);
    if (there.second)
      new_paths.emplace(path, true);
  }
  auto old_texts = fetch(before->first, before->second, old_paths, work);
  auto new_texts = live                ? result<texts>{fetch_live(live->root_fd, new_paths)}
                   : new_paths.empty() ? result<texts>{texts{}}
                                       : fetch(after->first, after->second, new_paths, work);
  if (!old_texts || !new_texts)
    return unexpected(std::move(!old_texts ? old_texts.error() : new_texts.error()));
  for (auto& item : all.out.items)
    if (all.wanted.contains(item.path))
      item.patch = unified_diff((*old_texts)[item.path], (*new_texts)[item.path]).value_or("");
  return std::move(all.out);
}

} // namespace troupe::snapshot
