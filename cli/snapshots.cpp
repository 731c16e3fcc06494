#include "cli/snapshots.hpp"

#include "actors/registry_db.hpp"
#include "messages/json.hpp"
#include "messages/unique_fd.hpp"
#include "snapshot/oci_image.hpp"
#include "snapshot/repository.hpp"
#include "snapshot/staging.hpp"
#include "snapshot/unpack.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>
#include <tuple>

namespace troupe::cli {

namespace {

namespace fs = std::filesystem;

int fail(const error& x) {
  std::fprintf(stderr, "troupe: %s %s\n", x.message.c_str(), x.context.c_str());
  return 1;
}

void print(const snapshot_info& x) {
  std::printf("%s  %s  %u layers  %llu files  %llu bytes  %llu stored  %s\n", x.id.c_str(),
              rfc3339_ms(x.created_at_ms).c_str(), x.layers,
              static_cast<unsigned long long>(x.files),
              static_cast<unsigned long long>(x.size_bytes),
              static_cast<unsigned long long>(x.stored_bytes), x.name.c_str());
}

/// What others made becomes a snapshot by way of a tree: `unpack` makes it in a folder in the store
/// that goes afterwards (or, if this process dies, with the next sweep), and gives its path.
template <class Unpack>
result<snapshot_info> import_tree(snapshot::repository& repository, const snapshot_ref& ref,
                                  const Unpack& unpack) {
  auto place = snapshot::staging::make(ref.base_path + "/import");
  if (!place)
    return unexpected(std::move(place.error()));
  auto folder = place->path();
  auto taken = unpack(folder).and_then([&](const std::string& root) {
    unique_fd fd{::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    snapshot::persist_request request{ref, "", "default", fd.get(), {}, ""};
    return repository.persist(request, {}, {});
  });
  return taken.map([](snapshot_outcome x) { return std::move(x.info); });
}

result<snapshot_info> import_any(snapshot::repository& repository, const std::string& path,
                                 const snapshot_ref& ref) {
  if (fs::is_directory(path)) {
    if (snapshot::is_snapshot_layout(path))
      return repository.import_oci(path, ref, {});
    return import_tree(repository, ref, [&](const std::string& folder) {
      return snapshot::root_of_image(path, folder);
    });
  }
  unique_fd in{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!in)
    return unexpected(make_error(errc::snapshot_restore_error, op::read, "cannot read " + path));
  return import_tree(repository, ref, [&](const std::string& folder) {
    auto root = folder + "/tree";
    return snapshot::unpack_own(in.get(), root).map([&] { return root; });
  });
}

/// The registry of the server whose folder this is; null: it is no server's. Fails while the server
/// runs: it alone knows then what its sessions are about to need.
result<std::unique_ptr<actors::registry_db>> registry_of(const fs::path& store) {
  auto folder = store / ""; // with or without a slash at the end
  auto snapshots = folder.parent_path().parent_path();
  auto path = snapshots.parent_path() / "registry.sqlite";
  if (snapshots.filename() != "snapshots" || !fs::exists(path))
    return nullptr;
  auto registry = actors::registry_db::open(path);
  if (!registry)
    return unexpected(make_error(errc::conflict, op::remove,
                                 "the folder is a server's; ask the server to prune, or --force")
                        .with("cause", registry.error().message)
                        .with("path", path.string()));
  return registry;
}

int prune(snapshot::repository& repository, const snapshots_options& options) {
  auto all = repository.list(options.store);
  if (!all)
    return fail(all.error());
  std::unique_ptr<actors::registry_db> registry;
  std::set<std::string> needed;
  if (!options.force) {
    std::error_code failed;
    auto found = registry_of(fs::weakly_canonical(options.store, failed));
    if (!found)
      return fail(found.error());
    registry = std::move(*found);
  }
  if (registry) {
    auto sessions = registry->load(load_records{0, 1});
    if (!sessions)
      return fail(sessions.error());
    for (const auto& x : *sessions) {
      needed.insert(x.spec.state.snapshot.id);
      needed.insert(x.live.base_snapshot);
    }
  }
  std::sort(all->begin(), all->end(), [](const auto& a, const auto& b) {
    return std::tie(a.created_at_ms, a.id) > std::tie(b.created_at_ms, b.id);
  });
  auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::system_clock::now().time_since_epoch())
               .count();
  int64_t count = 0;
  uint64_t bytes = 0;
  for (const auto& info : *all) {
    ++count;
    bytes += info.size_bytes;
    bool beyond = (options.max_age_s && now - info.created_at_ms > *options.max_age_s * 1000)
                  || (options.max_count && count > *options.max_count)
                  || (options.max_bytes && bytes > static_cast<uint64_t>(*options.max_bytes));
    if (!beyond || needed.contains(info.id))
      continue;
    std::printf("%s\n", info.id.c_str());
    if (options.dry_run)
      continue;
    if (auto ok = repository.remove({snapshot_kind::local, info.id, options.store, {}}, false); !ok)
      return fail(ok.error());
    if (registry)
      if (auto ok = registry->drop(drop_snapshot_record{info.id}); !ok)
        return fail(ok.error());
  }
  repository.sweep(options.store);
  return 0;
}

} // namespace

int snapshots(const snapshots_options& options) {
  auto repository = snapshot::make_repository(2);
  snapshot_ref ref{snapshot_kind::local, options.id, fs::absolute(options.store), {}};
  auto done = [](const result<void>& x) { return x ? 0 : fail(x.error()); };
  if (options.action == "list") {
    auto all = repository->list(ref.base_path);
    if (!all)
      return fail(all.error());
    for (const auto& x : *all)
      print(x);
    return 0;
  }
  if (options.action == "prune")
    return prune(*repository, options);
  if (options.action == "verify")
    return done(repository->verify(ref, {}));
  if (options.action == "diff") {
    auto to = ref;
    to.id = options.other;
    auto found = repository->diff(ref, to, nullptr, options.text, {});
    if (!found)
      return fail(found.error());
    for (const auto& x : found->items)
      std::printf("%s %s\n%s", x.change.c_str(), x.path.c_str(), x.patch.c_str());
    return 0;
  }
  if (options.action == "export" && options.format == "oci")
    return done(repository->export_oci(ref, options.other));
  if (options.action == "export") {
    unique_fd out{options.other.empty() || options.other == "-"
                    ? ::dup(STDOUT_FILENO)
                    : ::open(options.other.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    if (!out)
      return fail(
        make_error(errc::snapshot_persist_error, op::write, "cannot write " + options.other));
    return done(repository->export_tar(ref, out.get(), {}));
  }
  auto info = options.action == "import" ? import_any(*repository, options.other, ref)
                                         : repository->inspect(ref);
  if (!info)
    return fail(info.error());
  print(*info);
  return 0;
}

} // namespace troupe::cli
