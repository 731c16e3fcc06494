#include "snapshot/repository.hpp"

#include "messages/ids.hpp"
#include "snapshot/archive_budget.hpp"
#include "snapshot/blob_store.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/free_space.hpp"
#include "snapshot/layer_cache.hpp"
#include "snapshot/layered.hpp"
#include "snapshot/local_store.hpp"
#include "snapshot/pack.hpp"
#include "snapshot/remote/mirror.hpp"
#include "snapshot/staging.hpp"
#include "snapshot/trailer.hpp"
#include "snapshot/unpack.hpp"
#include "snapshot/zstd_stream.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

namespace troupe::snapshot {

namespace {

error restore_error(const snapshot_ref& ref, const std::string& path, std::string_view reason) {
  return make_error(errc::snapshot_restore_error, op::snapshot_restore,
                    "failed to restore snapshot")
    .with("snapshot_id", ref.id)
    .with("path", path)
    .with("reason", reason);
}

/// Says which snapshot a `damaged(...)` error is about.
error about(const snapshot_ref& ref, const std::string& path, error x) {
  if (x.code != errc::snapshot_restore_error)
    return x;
  if (x.context.find("\"snapshot_id\"") == std::string::npos)
    x.with("snapshot_id", ref.id);
  if (x.context.find("\"path\"") == std::string::npos)
    x.with("path", path);
  return x;
}

std::string remote_path(const snapshot_ref& ref) {
  return "<remote:" + ref.client_dependency_key + '>';
}

// -- local snapshots ------------------------------------------------------------------------------

/// What no snapshot of ours comes near.
constexpr archive_limits stored_limits{std::nullopt, int64_t{1} << 40, 10'000'000};

/// Unpacks a stored archive and holds what came out against what was recorded when it was written.
result<void> unpack_stored(int fd, const std::optional<trailer>& ours, tree_writer& out,
                           const std::string& root, job& work) {
  auto raw = ours ? file_source{fd, ours->tar_size} : file_source{fd};
  auto tar = decoded(raw);
  if (!tar)
    return unexpected(std::move(tar.error()));
  tree_index index;
  if (auto ok = unpack_tree(**tar, out, root, name_policy::own, stored_limits,
                            ours ? &index : nullptr, work);
      !ok)
    return ok;
  if (ours && to_hex(index.finish()) != ours->tree)
    return unexpected(damaged("digest of the tree does not match"));
  return {};
}

/// The snapshot that an open `{id}.tar` refers to, and its store; nullopt: it is an archive.
result<std::optional<std::pair<blob_store, layered_snapshot>>> layered_at(const snapshot_ref& ref,
                                                                          int fd) {
  auto manifest = blob_store::parse_reference(fd);
  if (!manifest)
    return unexpected(std::move(manifest.error()));
  if (!*manifest)
    return std::nullopt;
  auto store = blob_store::open(ref.base_path, blob_store::use::shared, false);
  if (!store)
    return unexpected(std::move(store.error()));
  if (!*store)
    return unexpected(blob_damaged(**manifest, "blob is missing"));
  auto snapshot = (*store)->read(**manifest);
  if (!snapshot)
    return unexpected(std::move(snapshot.error()));
  return std::optional{std::pair{std::move(**store), std::move(*snapshot)}};
}

result<void> restore_local(const restore_request& request, std::stop_token stop,
                           const progress& report, zstd_pool& pool, layer_cache* cache) {
  const auto& ref = request.ref;
  auto path = local_path(ref, op::snapshot_restore);
  if (!path)
    return unexpected(std::move(path.error()));
  auto fd = open_local(ref, *path);
  if (!fd)
    return unexpected(std::move(fd.error()));
  auto layered = layered_at(ref, fd->get());
  if (!layered)
    return unexpected(about(ref, *path, std::move(layered.error())));
  if (*layered) {
    auto& [store, snapshot] = **layered;
    auto ok = restore_layered(store, snapshot, request, std::move(stop), report, pool, cache);
    return ok ? ok : unexpected(about(ref, *path, std::move(ok.error())));
  }
  auto ours = read_trailer(fd->get());
  if (!ours)
    return unexpected(about(ref, *path, std::move(ours.error())));
  auto place = staging::make(request.root);
  if (!place)
    return unexpected(std::move(place.error()));
  if (*ours)
    if (auto ok
        = check_space(place->fd(), space_for((*ours)->info), request.root, op::snapshot_restore);
        !ok)
      return ok;
  job work{op::snapshot_restore, std::move(stop), report};
  tree_writer out{place->fd()};
  if (auto ok = unpack_stored(fd->get(), *ours, out, request.root, work); !ok)
    return unexpected(about(ref, *path, std::move(ok.error())));
  if (auto last = work.step(); !last)
    return last;
  if (auto replaced = place->replace(out.root_named()); !replaced)
    return replaced;
  work.done();
  return {};
}

result<snapshot_info> inspect_local(const snapshot_ref& ref) {
  auto path = local_path(ref, op::snapshot_restore);
  if (!path)
    return unexpected(std::move(path.error()));
  auto fd = open_local(ref, *path);
  if (!fd)
    return unexpected(std::move(fd.error()));
  auto layered = layered_at(ref, fd->get());
  if (!layered)
    return unexpected(about(ref, *path, std::move(layered.error())));
  if (*layered) {
    auto about_it = std::move((*layered)->second.info);
    about_it.id = ref.id;
    about_it.base_path = ref.base_path;
    return about_it;
  }
  auto ours = read_trailer(fd->get());
  struct stat st;
  if (!ours)
    return unexpected(about(ref, *path, std::move(ours.error())));
  if (::fstat(fd->get(), &st) != 0)
    return unexpected(restore_error(ref, *path, std::strerror(errno)));
  snapshot_info info;
  if (*ours)
    info = std::move((*ours)->info);
  else
    info.created_at_ms = st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1'000'000;
  info.id = ref.id;
  info.base_path = ref.base_path;
  info.stored_bytes = static_cast<uint64_t>(st.st_size);
  return info;
}

// -- dispatch -------------------------------------------------------------------------------------

class every_repository final : public repository {
public:
  every_repository(unsigned workers, cache_options cache, remote_stores stores)
    : pool_(workers), stores_(std::move(stores)) {
    if (!cache.folder.empty())
      cache_.emplace(std::move(cache.folder), cache.max_bytes, cache.owner);
  }

  result<snapshot_outcome> persist(const persist_request& request, std::stop_token stop,
                                   const progress& report) override {
    switch (request.ref.kind) {
      case snapshot_kind::local: return persist_layered(request, std::move(stop), report, pool_);
      case snapshot_kind::remote:
        if (!store_of(request.ref))
          return unexpected(make_error(errc::snapshot_persist_error, op::snapshot_persist,
                                       "failed to persist snapshot")
                              .with("snapshot_id", request.ref.id)
                              .with("path", remote_path(request.ref))
                              .with("reason", "no client for remote snapshots"));
        return persist_layered(request, std::move(stop), report, pool_).map([&](auto done) {
          touch(request.ref);
          return done;
        });
      default: return snapshot_outcome{};
    }
  }

  result<void> restore(const restore_request& request, std::stop_token stop,
                       const progress& report) override {
    switch (request.ref.kind) {
      case snapshot_kind::local:
        return restore_local(request, std::move(stop), report, pool_, cache());
      case snapshot_kind::remote:
        if (!store_of(request.ref))
          return unexpected(no_client(request.ref));
        return restore_local(request, std::move(stop), report, pool_, cache());
      default: return unexpected(not_restorable(request.ref));
    }
  }

  result<bool> restorable(const snapshot_ref& ref) override {
    if (ref.kind == snapshot_kind::noop)
      return false;
    auto path = local_path(ref, op::snapshot_restore);
    if (!path)
      return unexpected(std::move(path.error()));
    if (auto store = store_of(ref))
      return store->exists(ref.id, {});
    if (ref.kind == snapshot_kind::remote)
      return unexpected(no_client(ref));
    struct stat st;
    return ::lstat(path->c_str(), &st) == 0 && S_ISREG(st.st_mode);
  }

  result<void> fetch(const snapshot_ref& ref, std::stop_token stop) override {
    auto path = local_path(ref, op::snapshot_restore);
    if (!path)
      return unexpected(std::move(path.error()));
    auto store = store_of(ref);
    return store ? store->fetch(ref.id, std::move(stop)) : result<void>{};
  }

  bool is_here(const snapshot_ref& ref) override {
    auto found = layered_of(ref);
    if (!found)
      return false;
    const auto& [store, snapshot] = *found;
    for (const auto& layer : snapshot.layers)
      if (!store.open_blob(layer.blob))
        return false;
    touch(ref);
    return true;
  }

  bool trim_mirrors(const std::function<bool(const std::string& id)>& in_use) override {
    auto folders = remote_base_paths(stores_.folder);
    // What has no store any more could not be fetched again.
    std::erase_if(folders, [&](const auto& x) {
      return !store_of({snapshot_kind::local, "", x, {}});
    });
    return snapshot::trim_mirrors(folders, stores_.max_bytes, in_use);
  }

  result<void> publish(const snapshot_ref& ref, std::stop_token stop) override {
    auto store = store_of(ref);
    return store ? store->publish(ref.id, std::move(stop)) : result<void>{};
  }

  result<uint64_t> collect_remote(const std::string& base_path, std::stop_token stop) override {
    auto store = store_of({snapshot_kind::local, "", base_path, {}});
    return store ? store->collect(std::move(stop)) : uint64_t{0};
  }

  result<void> remove(const snapshot_ref& ref, bool collect) override {
    if (ref.kind == snapshot_kind::noop)
      return {};
    auto path = local_path(ref, op::remove);
    if (!path)
      return unexpected(std::move(path.error()));
    if (auto store = store_of(ref)) {
      if (auto ok = store->remove(ref.id, {}); !ok)
        return ok;
    } else if (ref.kind == snapshot_kind::remote) {
      return unexpected(no_client(ref));
    }
    if (::unlink(path->c_str()) != 0 && errno != ENOENT)
      return unexpected(
        make_error(errc::snapshot_persist_error, op::remove, "failed to remove snapshot")
          .with("snapshot_id", ref.id)
          .with("path", *path)
          .with("reason", std::strerror(errno)));
    // The blobs go when nobody else needs them; if someone works here now, with the next sweep.
    if (!collect)
      return {};
    if (auto store = blob_store::open(ref.base_path, blob_store::use::collecting, false);
        store && *store) {
      (*store)->forget(ref.id);
      (void) (*store)->collect();
    }
    return {};
  }

  result<std::string> fingerprint(const persist_request& request, std::stop_token stop) override {
    return fingerprint_layered(request, std::move(stop));
  }

  result<snapshot_info> link(const snapshot_ref& from, const snapshot_ref& to) override {
    auto source = layered_of(from);
    if (!source)
      return unexpected(std::move(source.error()));
    auto path = local_path(to, op::snapshot_persist);
    if (!path)
      return unexpected(std::move(path.error()));
    if (auto ok = source->first.refer(to.id, source->second.manifest); !ok)
      return unexpected(std::move(ok.error()));
    auto info = std::move(source->second.info);
    info.id = to.id;
    info.base_path = to.base_path;
    return info;
  }

  result<void> link_all(const snapshot_ref& from, const std::vector<std::string>& ids) override {
    auto source = layered_of(from);
    if (!source)
      return unexpected(std::move(source.error()));
    return source->first.refer_again(from.id, ids);
  }

  result<std::vector<std::string>> layers(const snapshot_ref& ref) override {
    std::vector<std::string> digests;
    auto found = layered_of(ref);
    if (!found)
      return unexpected(std::move(found.error()));
    for (const auto& layer : found->second.layers)
      digests.push_back(layer.blob.digest);
    return digests;
  }

  result<std::shared_ptr<const layer_lease>> lease(const snapshot_ref& ref,
                                                   std::stop_token stop) override {
    if (!cache_)
      return unexpected(make_error(errc::backend_unavailable, op::snapshot_restore,
                                   "there is no folder for unpacked layers"));
    auto found = layered_of(ref);
    if (!found)
      return unexpected(std::move(found.error()));
    auto held = cache_->acquire(found->first, found->second.layers, std::move(stop));
    return held ? held
                : unexpected(about(ref, *local_path(ref, op::snapshot_restore), held.error()));
  }

  std::shared_ptr<const layer_lease> pin(const snapshot_ref& ref) override {
    auto found = layered_of(ref);
    return cache_ && found ? cache_->pin(found->second.layers) : nullptr;
  }

  result<std::optional<std::string>> hold(const snapshot_ref& ref,
                                          const std::string& session_id) override {
    if (ref.kind != snapshot_kind::local)
      return std::nullopt;
    auto path = local_path(ref, op::snapshot_restore);
    if (!path)
      return unexpected(std::move(path.error()));
    auto fd = open_local(ref, *path);
    if (!fd)
      return unexpected(std::move(fd.error()));
    auto manifest = blob_store::parse_reference(fd->get());
    if (!manifest)
      return unexpected(about(ref, *path, std::move(manifest.error())));
    if (!*manifest)
      return std::nullopt;
    // References are replaced, never written to: a second name stays what it is.
    auto held = std::string{held_prefix} + session_id + '-' + random_hex(8);
    if (::linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd->get())).c_str(), AT_FDCWD,
                 (ref.base_path + '/' + held + ".tar").c_str(), AT_SYMLINK_FOLLOW)
        != 0)
      return unexpected(restore_error(ref, *path, std::strerror(errno)));
    return held;
  }

  void release(const snapshot_ref& held) override {
    if (auto path = local_path(held, op::remove); path && held.id.starts_with(held_prefix))
      ::unlink(path->c_str());
  }

  void release_others(const std::string& folder, const std::set<std::string>& wanted) override {
    for (const auto& id : held_ids(folder))
      if (!wanted.contains(id))
        release({snapshot_kind::local, id, folder, {}});
  }

  result<void> verify(const snapshot_ref& ref, std::stop_token stop) override {
    auto found = layered_of(ref);
    if (!found)
      return unexpected(std::move(found.error()));
    auto ok = verify_layered(found->first, found->second, std::move(stop));
    return ok ? ok : unexpected(about(ref, *local_path(ref, op::snapshot_restore), ok.error()));
  }

  result<workspace_diff> diff(const snapshot_ref& from, const snapshot_ref& to,
                              const persist_request* live, bool text,
                              std::stop_token stop) override {
    return diff_layered(from, to, live, text, std::move(stop));
  }

  result<void> export_tar(const snapshot_ref& ref, int out_fd, std::stop_token stop) override {
    auto found = layered_of(ref);
    if (!found)
      return unexpected(std::move(found.error()));
    return export_tar_layered(found->first, found->second, out_fd, std::move(stop));
  }

  result<void> export_oci(const snapshot_ref& ref, const std::string& folder) override {
    auto found = layered_of(ref);
    if (!found)
      return unexpected(std::move(found.error()));
    return export_layout(found->first, found->second, folder);
  }

  result<snapshot_info> import_oci(const std::string& folder, const snapshot_ref& ref,
                                   std::stop_token stop) override {
    return import_layout(folder, ref, std::move(stop));
  }

  result<bool> flatten(const snapshot_ref& ref, std::stop_token stop,
                       const std::string& held) override {
    if (ref.kind == snapshot_kind::noop)
      return false;
    return flatten_layered(ref, held, std::move(stop), pool_);
  }

  result<snapshot_info> inspect(const snapshot_ref& ref) override {
    switch (ref.kind) {
      case snapshot_kind::local: return inspect_local(ref);
      case snapshot_kind::remote:
        return store_of(ref) ? inspect_local(ref) : unexpected(no_client(ref));
      default: return unexpected(not_restorable(ref));
    }
  }

  result<std::vector<snapshot_info>> list(const std::string& base_path) override {
    std::vector<snapshot_info> found;
    for (const auto& id : local_ids(base_path))
      if (auto info = inspect_local({snapshot_kind::local, id, base_path, {}}))
        found.push_back(std::move(*info));
    return found;
  }

  void sweep(const std::string& folder) override {
    sweep_local(folder);
    auto store = blob_store::open(folder, blob_store::use::collecting, false);
    if (!store || !*store)
      return;
    if (auto done = (*store)->collect())
      for (const auto& x : done->damaged)
        std::fprintf(stderr,
                     "troupe: a snapshot in %s cannot be followed; what it may name is kept: %s\n",
                     folder.c_str(), x.context.c_str());
  }

private:
  /// A snapshot that has layers, and its store.
  result<std::pair<blob_store, layered_snapshot>> layered_of(const snapshot_ref& ref) const {
    if (ref.kind == snapshot_kind::noop)
      return unexpected(not_restorable(ref));
    if (ref.kind == snapshot_kind::remote && !store_of(ref))
      return unexpected(no_client(ref));
    auto path = local_path(ref, op::snapshot_restore);
    if (!path)
      return unexpected(std::move(path.error()));
    auto fd = open_local(ref, *path);
    if (!fd)
      return unexpected(std::move(fd.error()));
    auto found = layered_at(ref, fd->get());
    if (!found)
      return unexpected(about(ref, *path, std::move(found.error())));
    if (!*found)
      return unexpected(restore_error(ref, *path, "an archive has no layers"));
    return std::move(**found);
  }

  /// The remote store behind a folder; nullopt: it is only a folder.
  std::optional<remote_store> store_of(const snapshot_ref& ref) const {
    auto start = stores_.folder + '/';
    if (stores_.by_name.empty() || !ref.base_path.starts_with(start))
      return std::nullopt;
    auto rest = ref.base_path.substr(start.size());
    auto slash = rest.find('/');
    auto found
      = slash == rest.npos ? stores_.by_name.end() : stores_.by_name.find(rest.substr(0, slash));
    if (found == stores_.by_name.end())
      return std::nullopt;
    return remote_store{found->second, found->first, rest.substr(slash + 1), ref.base_path};
  }

  layer_cache* cache() {
    return cache_ ? &*cache_ : nullptr;
  }

  /// Notes that what is here of a remote snapshot is used now.
  static void touch(const snapshot_ref& ref) {
    if (auto path = local_path(ref, op::snapshot_restore))
      ::utimensat(AT_FDCWD, path->c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
  }

  static error no_client(const snapshot_ref& ref) {
    return restore_error(ref, remote_path(ref), "no client for remote snapshots");
  }

  static error not_restorable(const snapshot_ref& ref) {
    return make_error(errc::snapshot_not_restorable, op::snapshot_restore,
                      "snapshot is not restorable")
      .with("snapshot_id", ref.id)
      .with("path", "<noop>");
  }

  zstd_pool pool_;
  remote_stores stores_;
  std::optional<layer_cache> cache_;
};

} // namespace

namespace {

/// Fails when more comes in than an archive may have.
class limited_source final : public byte_source {
public:
  limited_source(byte_source& input, archive_budget budget)
    : input_(input), budget_(std::move(budget)) {}

  result<std::string_view> next() override {
    auto chunk = input_.next();
    if (!chunk)
      return chunk;
    return budget_.add_input(chunk->size()).map([&] { return *chunk; });
  }

private:
  byte_source& input_;
  archive_budget budget_;
};

} // namespace

std::unique_ptr<repository> make_repository(unsigned workers, cache_options cache,
                                            remote_stores stores) {
  return std::make_unique<every_repository>(workers, std::move(cache), std::move(stores));
}

std::string remote_base_path(const std::string& folder, const std::string& name,
                             const std::string& tenant) {
  return folder + '/' + name + '/' + tenant;
}

std::vector<std::string> remote_base_paths(const std::string& folder) {
  std::vector<std::string> out;
  std::error_code ignored;
  for (const auto& store : std::filesystem::directory_iterator{folder, ignored})
    for (const auto& tenant : std::filesystem::directory_iterator{store.path(), ignored})
      out.push_back(tenant.path().string());
  return out;
}

result<std::string> fingerprint(int root_fd, const std::vector<std::string>& skip,
                                const std::string& manifest_digest, std::stop_token stop) {
  progress silent;
  job work{op::persist_workspace, std::move(stop), silent};
  tree_index index;
  auto warnings = pack_tree(root_fd, skip, nullptr, &index, work);
  if (!warnings)
    return unexpected(std::move(warnings.error()));
  return fingerprint_of(index.finish(), manifest_digest);
}

result<std::vector<std::string>> write_tar(int root_fd, const std::vector<std::string>& skip,
                                           int out_fd, std::stop_token stop) {
  progress silent;
  job work{op::persist_workspace, std::move(stop), silent};
  tar_writer tar{[&](const char* data, size_t size) -> result<void> {
    if (int err = workspace::write_all(out_fd, data, size); err < 0)
      return unexpected(make_error(err == -ENOSPC || err == -EDQUOT
                                     ? errc::no_space
                                     : errc::workspace_archive_read_error,
                                   op::persist_workspace, "cannot write tar")
                          .with("reason", std::strerror(-err)));
    return {};
  }};
  auto warnings = pack_tree(root_fd, skip, &tar, nullptr, work);
  if (!warnings)
    return warnings;
  if (auto ok = tar.finish(); !ok)
    return unexpected(std::move(ok.error()));
  return warnings;
}

namespace {

result<void> unpack_into(int in_fd, const std::string& root, bool merge, name_policy names,
                         const archive_limits& limits, std::stop_token stop) {
  auto place = staging::make(root);
  if (!place)
    return unexpected(std::move(place.error()));
  progress silent;
  job work{op::hydrate_workspace, std::move(stop), silent};
  tree_writer out{place->fd()};
  file_source file{in_fd};
  limited_source raw{file, archive_budget{limits, root}};
  auto ok = decoded(raw).and_then(
    [&](auto tar) { return unpack_tree(*tar, out, root, names, limits, nullptr, work); });
  if (!ok) {
    if (ok.error().code != errc::snapshot_restore_error)
      return ok;
    return unexpected(make_error(errc::workspace_archive_write_error, op::write,
                                 "failed to write archive for path: " + root)
                        .with("path", root)
                        .with_json("cause", ok.error().context));
  }
  if (auto last = work.step(); !last)
    return last;
  return merge ? place->merge(out.implied()) : place->replace(out.root_named());
}

} // namespace

result<void> hydrate(int in_fd, const std::string& root, bool merge, const archive_limits& limits,
                     std::stop_token stop) {
  return unpack_into(in_fd, root, merge, name_policy::portable, limits, std::move(stop));
}

result<void> unpack_own(int in_fd, const std::string& root) {
  constexpr archive_limits unlimited{std::nullopt, std::nullopt, std::nullopt};
  return unpack_into(in_fd, root, false, name_policy::own, unlimited, {});
}

} // namespace troupe::snapshot
