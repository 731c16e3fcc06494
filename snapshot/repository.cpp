#include "snapshot/repository.hpp"

#include "snapshot/archive_budget.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/local_store.hpp"
#include "snapshot/pack.hpp"
#include "snapshot/staging.hpp"
#include "snapshot/trailer.hpp"
#include "snapshot/unpack.hpp"
#include "snapshot/zstd_stream.hpp"
#include "workspace/tree.hpp"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

namespace troupe::snapshot {

namespace {

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

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
  return std::move(x.with("snapshot_id", ref.id).with("path", path));
}

std::string remote_path(const snapshot_ref& ref) {
  return "<remote:" + ref.client_dependency_key + '>';
}

// -- local snapshots ------------------------------------------------------------------------------

result<snapshot_outcome> persist_local(const persist_request& request, std::stop_token stop,
                                       const progress& report, zstd_pool& pool) {
  auto path = local_path(request.ref, op::snapshot_persist);
  if (!path)
    return unexpected(std::move(path.error()));
  auto file = local_file::create(request.ref, *path);
  if (!file)
    return unexpected(std::move(file.error()));
  job work{op::snapshot_persist, std::move(stop), report};
  tree_index index;
  zstd_writer compressor{pool,
                         [&](const char* data, size_t size) { return file->write(data, size); }};
  tar_writer tar{[&](const char* data, size_t size) { return compressor.write(data, size); }};
  auto warnings = pack_tree(request.root_fd, request.skip, &tar, &index, work);
  if (!warnings)
    return unexpected(std::move(warnings.error()));
  trailer about_it;
  about_it.info.session_id = request.session_id;
  about_it.info.tenant = request.tenant;
  about_it.info.created_at_ms = now_ms();
  about_it.info.files = work.files;
  about_it.info.size_bytes = work.bytes;
  auto tree = index.finish();
  about_it.tree = to_hex(tree);
  about_it.fingerprint = fingerprint_of(tree, request.manifest_digest);
  about_it.fingerprint_version = fingerprint_version;
  auto ok = tar.finish()
              .and_then([&] { return compressor.finish(); })
              .and_then([&] {
                auto end = encode_trailer(about_it);
                return file->write(end.data(), end.size());
              })
              .and_then([&] { return work.step(); })
              .and_then([&] { return file->commit(); });
  if (!ok)
    return unexpected(std::move(ok.error()));
  work.done();
  about_it.info.id = request.ref.id;
  about_it.info.base_path = request.ref.base_path;
  about_it.info.stored_bytes = file->size();
  return snapshot_outcome{std::move(about_it.info), std::move(about_it.fingerprint),
                          fingerprint_version, std::move(*warnings)};
}

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

result<void> restore_local(const restore_request& request, std::stop_token stop,
                           const progress& report) {
  const auto& ref = request.ref;
  auto path = local_path(ref, op::snapshot_restore);
  if (!path)
    return unexpected(std::move(path.error()));
  auto fd = open_local(ref, *path);
  if (!fd)
    return unexpected(std::move(fd.error()));
  auto ours = read_trailer(fd->get());
  if (!ours)
    return unexpected(about(ref, *path, std::move(ours.error())));
  auto place = staging::make(request.root);
  if (!place)
    return unexpected(std::move(place.error()));
  struct statvfs disk;
  if (*ours && ::fstatvfs(place->fd(), &disk) == 0
      && (*ours)->info.size_bytes / disk.f_frsize > disk.f_bavail)
    return unexpected(cannot_write(request.root, ENOSPC));
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
  explicit every_repository(unsigned workers) : pool_(workers) {}

  result<snapshot_outcome> persist(const persist_request& request, std::stop_token stop,
                                   const progress& report) override {
    switch (request.ref.kind) {
      case snapshot_kind::local: return persist_local(request, std::move(stop), report, pool_);
      case snapshot_kind::remote:
        return unexpected(make_error(errc::snapshot_persist_error, op::snapshot_persist,
                                     "failed to persist snapshot")
                            .with("snapshot_id", request.ref.id)
                            .with("path", remote_path(request.ref))
                            .with("reason", "no client for remote snapshots"));
      default: return snapshot_outcome{};
    }
  }

  result<void> restore(const restore_request& request, std::stop_token stop,
                       const progress& report) override {
    switch (request.ref.kind) {
      case snapshot_kind::local: return restore_local(request, std::move(stop), report);
      case snapshot_kind::remote: return unexpected(no_client(request.ref));
      default: return unexpected(not_restorable(request.ref));
    }
  }

  result<bool> restorable(const snapshot_ref& ref) override {
    if (ref.kind == snapshot_kind::noop)
      return false;
    if (ref.kind == snapshot_kind::remote)
      return unexpected(no_client(ref));
    auto path = local_path(ref, op::snapshot_restore);
    if (!path)
      return unexpected(std::move(path.error()));
    struct stat st;
    return ::lstat(path->c_str(), &st) == 0 && S_ISREG(st.st_mode);
  }

  result<void> remove(const snapshot_ref& ref) override {
    if (ref.kind == snapshot_kind::noop)
      return {};
    if (ref.kind == snapshot_kind::remote)
      return unexpected(no_client(ref));
    auto path = local_path(ref, op::remove);
    if (!path)
      return unexpected(std::move(path.error()));
    if (::unlink(path->c_str()) != 0 && errno != ENOENT)
      return unexpected(
        make_error(errc::snapshot_persist_error, op::remove, "failed to remove snapshot")
          .with("snapshot_id", ref.id)
          .with("path", *path)
          .with("reason", std::strerror(errno)));
    return {};
  }

  result<snapshot_info> inspect(const snapshot_ref& ref) override {
    switch (ref.kind) {
      case snapshot_kind::local: return inspect_local(ref);
      case snapshot_kind::remote: return unexpected(no_client(ref));
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
  }

private:
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

std::unique_ptr<repository> make_repository(unsigned workers) {
  return std::make_unique<every_repository>(workers);
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

result<void> hydrate(int in_fd, const std::string& root, bool merge, const archive_limits& limits,
                     std::stop_token stop) {
  auto place = staging::make(root);
  if (!place)
    return unexpected(std::move(place.error()));
  progress silent;
  job work{op::hydrate_workspace, std::move(stop), silent};
  tree_writer out{place->fd()};
  file_source file{in_fd};
  limited_source raw{file, archive_budget{limits, root}};
  auto ok = decoded(raw).and_then([&](auto tar) {
    return unpack_tree(*tar, out, root, name_policy::portable, limits, nullptr, work);
  });
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

} // namespace troupe::snapshot
