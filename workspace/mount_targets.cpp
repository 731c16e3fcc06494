#include "workspace/mount_targets.hpp"

#include "workspace/path_policy.hpp"

#include <algorithm>
#include <tuple>

namespace troupe::workspace {

namespace {

bool any_mount(const std::vector<named_entry>& entries) {
  return std::ranges::any_of(entries, [](const named_entry& x) {
    return x.entry.is_mount() || any_mount(x.entry.children);
  });
}

result<void> collect(const std::vector<named_entry>& entries, const std::string& parent,
                     const std::string& root, std::vector<mount_target>& out) {
  for (const auto& x : entries) {
    if (!x.entry.is_mount() && x.entry.children.empty())
      continue;
    auto key = normalize_entry_path(x.path);
    if (!key)
      return unexpected(std::move(key.error()));
    auto place = join_path(parent, *key);
    if (!x.entry.is_mount()) {
      if (auto ok = collect(x.entry.children, place, root, out); !ok)
        return ok;
      continue;
    }
    const auto& mount = x.entry.mount[0];
    auto path = resolve_mount_path(mount.mount_path.value_or(place), root);
    if (!path)
      return unexpected(std::move(path.error()));
    std::string inside{path_below(*path, root).value_or("")};
    out.push_back({&mount, std::move(*path), std::move(inside)});
  }
  return {};
}

auto components(const std::string& path) {
  return path == "/" ? 0 : std::count(path.begin(), path.end(), '/');
}

bool overlaps(const std::string& a, const std::string& b) {
  return path_below(a, b) || path_below(b, a) || a == "." || b == ".";
}

} // namespace

bool has_mounts(const manifest& x) {
  return any_mount(x.entries);
}

result<std::vector<mount_target>> mount_targets(const manifest& x) {
  std::vector<mount_target> out;
  if (auto ok = collect(x.entries, ".", normalize_absolute(x.root), out); !ok)
    return unexpected(std::move(ok.error()));
  std::ranges::stable_sort(out, std::ranges::greater{},
                           [](const mount_target& y) { return components(y.path); });
  return out;
}

result<void> check_skip_path(const manifest& x, const std::string& path) {
  auto targets = mount_targets(x);
  if (!targets)
    return unexpected(std::move(targets.error()));
  const mount_target* nearest = nullptr;
  auto rank = [](const mount_target& y) {
    return std::tuple{y.inside == "." ? -1 : components(y.inside), std::string_view{y.inside}};
  };
  for (const auto& target : *targets)
    if (!target.inside.empty() && overlaps(path, target.inside)
        && (!nearest || rank(target) < rank(*nearest)))
      nearest = &target;
  if (!nearest)
    return {};
  return unexpected(make_error(errc::mount_config_invalid, op::materialize,
                               "persist workspace skip path must not overlap mount path")
                      .with("skip_path", path)
                      .with("mount_path", nearest->inside));
}

} // namespace troupe::workspace
