#include "workspace/manifest_plan.hpp"

#include "workspace/mount_targets.hpp"
#include "workspace/path_policy.hpp"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

namespace troupe::workspace {

namespace {

/// Orders paths by components: a path is directly before everything below it.
struct component_less {
  using is_transparent = void;

  bool operator()(std::string_view a, std::string_view b) const {
    auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    auto rank = [](auto at, auto end) {
      return at == end ? 0 : *at == '/' ? 1 : static_cast<unsigned char>(*at) + 2;
    };
    return rank(x, a.end()) < rank(y, b.end());
  }
};

/// Both may be "", the root.
bool contains(std::string_view parent, std::string_view path) {
  return parent.empty()
         || (path.starts_with(parent)
             && (path.size() == parent.size() || path[parent.size()] == '/'));
}

/// Destinations of a step that is being collected, no two of which touch.
class pending_paths {
public:
  /// Whether `path` equals, contains or is contained in one of them. As none contains another, only
  /// the neighbours can.
  bool touches(std::string_view path) const {
    path = rootless(path);
    auto next = paths_.lower_bound(path);
    if (next != paths_.end() && contains(path, *next))
      return true;
    return next != paths_.begin() && contains(*std::prev(next), path);
  }

  void add(std::string_view path) {
    paths_.emplace(rootless(path));
  }

  void clear() {
    paths_.clear();
  }

private:
  static std::string_view rootless(std::string_view path) {
    return path == "." ? std::string_view{} : path;
  }

  std::set<std::string, component_less> paths_;
};

/// Cuts the list into steps: a mount, or an entry that touches one before it, waits for those and
/// runs alone.
std::vector<plan_step> make_steps(std::vector<planned_entry> entries) {
  std::vector<plan_step> steps;
  plan_step batch;
  pending_paths pending;
  auto flush = [&] {
    if (!batch.empty())
      steps.push_back(std::exchange(batch, {}));
    pending.clear();
  };
  for (auto& x : entries) {
    const bool alone = x.entry->is_mount() || pending.touches(x.destination);
    if (alone)
      flush();
    else
      pending.add(x.destination);
    batch.push_back(std::move(x));
    if (alone)
      flush();
  }
  flush();
  return steps;
}

/// The destination of an entry whose key was checked.
std::string destination_of(const named_entry& x, std::string_view parent) {
  return join_path(parent, normalize_entry_path(x.path).value_or("."));
}

/// What is mounted is never the workspace's own, whatever the manifest says.
bool is_ephemeral(const entry& x) {
  return x.ephemeral || x.is_mount();
}

void collect_ephemeral(const std::vector<named_entry>& entries, std::string_view parent,
                       std::vector<planned_entry>& out) {
  for (const auto& x : entries) {
    if (is_ephemeral(x.entry))
      out.push_back({destination_of(x, parent), &x.entry});
    else if (!x.entry.children.empty())
      collect_ephemeral(x.entry.children, destination_of(x, parent), out);
  }
}

void collect_ephemeral_paths(const std::vector<named_entry>& entries, std::string_view parent,
                             std::vector<std::string>& out) {
  for (const auto& x : entries) {
    if (!is_ephemeral(x.entry) && x.entry.children.empty())
      continue;
    auto path = destination_of(x, parent);
    collect_ephemeral_paths(x.entry.children, path, out);
    if (is_ephemeral(x.entry) && path != ".")
      out.push_back(std::move(path));
  }
}

std::vector<planned_entry> all_of(const std::vector<named_entry>& entries,
                                  std::string_view parent) {
  std::vector<planned_entry> out;
  out.reserve(entries.size());
  for (const auto& x : entries)
    out.push_back({destination_of(x, parent), &x.entry});
  return out;
}

} // namespace

std::vector<plan_step> plan_manifest(const manifest& x, bool only_ephemeral) {
  if (!only_ephemeral)
    return make_steps(all_of(x.entries, "."));
  std::vector<planned_entry> out;
  collect_ephemeral(x.entries, ".", out);
  return make_steps(std::move(out));
}

std::vector<plan_step> plan_children(const entry& x, const std::string& destination) {
  return make_steps(all_of(x.children, destination));
}

std::vector<std::string> ephemeral_paths(const manifest& x) {
  std::vector<std::string> out;
  collect_ephemeral_paths(x.entries, ".", out);
  if (auto targets = mount_targets(x))
    for (auto& target : *targets)
      if (!target.inside.empty() && target.inside != ".")
        out.push_back(std::move(target.inside));
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

} // namespace troupe::workspace
