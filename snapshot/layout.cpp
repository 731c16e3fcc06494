#include "messages/json.hpp"
#include "snapshot/layered.hpp"
#include "snapshot/local_store.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

// Snapshots as OCI image layouts of their own: on their way to other stores, and from them.

namespace troupe::snapshot {

namespace {

constexpr size_t max_document = 1024 * 1024;

result<std::string> read_small(const std::string& path) {
  unique_fd fd{::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  std::string text(max_document, '\0');
  auto n = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
  if (n < 0)
    return unexpected(make_error(errc::snapshot_restore_error, op::read, "cannot read " + path)
                        .with("path", path)
                        .with("reason", std::strerror(errno)));
  text.resize(static_cast<size_t>(n));
  return text;
}

result<void> copy_blob(unique_fd from, const blob_id& id, const blob_store& to) {
  auto file = new_blob::create(to);
  if (!file)
    return unexpected(std::move(file.error()));
  blob_source source{std::move(from), id};
  for (;;) {
    auto chunk = source.next();
    if (!chunk)
      return unexpected(std::move(chunk.error()));
    if (chunk->empty())
      return file->commit().map([](const auto&) {});
    if (auto ok = file->write(chunk->data(), chunk->size()); !ok)
      return ok;
  }
}

std::string path_in(const std::string& folder, const blob_id& id) {
  return folder + "/blobs/sha256/" + id.digest;
}

/// Opens a blob of any layout.
result<unique_fd> open_in(const std::string& folder, const blob_id& id) {
  unique_fd fd{::open(path_in(folder, id).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  if (!fd)
    return unexpected(blob_damaged(id, std::strerror(errno)));
  return fd;
}

} // namespace

result<void> export_layout(const blob_store& store, const layered_snapshot& snapshot,
                           const std::string& folder) {
  auto made = workspace::open_or_make_directory(folder + "/blobs/sha256", 0755);
  if (!made)
    return unexpected(std::move(made.error()));
  std::vector<blob_id> blobs{snapshot.manifest, snapshot.config};
  for (const auto& layer : snapshot.layers)
    blobs.push_back(layer.blob);
  auto put = [&](const std::string& name, int from_fd, std::string_view text) -> result<void> {
    auto path = folder + '/' + name;
    unique_fd out{
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644)};
    int err = !out           ? -errno
              : from_fd >= 0 ? workspace::copy_data(from_fd, out.get())
                             : workspace::write_all(out.get(), text.data(), text.size());
    return err < 0 ? unexpected(cannot_store(path, -err)) : result<void>{};
  };
  for (const auto& blob : blobs) {
    auto fd = store.open_blob(blob);
    if (!fd)
      return unexpected(std::move(fd.error()));
    if (auto ok = put("blobs/sha256/" + blob.digest, fd->get(), {}); !ok)
      return ok;
  }
  return put("oci-layout", -1, blob_store::layout_text()).and_then([&] {
    return put("index.json", -1, blob_store::reference_text(snapshot.manifest));
  });
}

bool is_snapshot_layout(const std::string& folder) {
  auto document = [&](const blob_id& id) { return read_small(path_in(folder, id)); };
  auto manifest = read_small(folder + "/index.json")
                    .and_then([](const std::string& x) { return blob_store::first_manifest(x); })
                    .and_then(document);
  auto named = manifest ? blob_store::named_in(*manifest) : std::nullopt;
  if (!named)
    return false;
  auto text = document(named->front());
  auto config = text ? parse_json(*text) : result<json>{};
  return config && config->is_object() && config->contains("troupe");
}

result<snapshot_info> import_layout(const std::string& folder, const snapshot_ref& ref,
                                    std::stop_token stop) {
  auto path = local_path(ref, op::snapshot_persist);
  if (!path)
    return unexpected(std::move(path.error()));
  auto text = read_small(folder + "/index.json");
  if (!text)
    return unexpected(std::move(text.error()));
  auto manifest = blob_store::first_manifest(*text);
  if (!manifest)
    return unexpected(std::move(manifest.error()));
  auto opened = blob_store::open(ref.base_path, blob_store::use::shared, true);
  if (!opened)
    return unexpected(std::move(opened.error()));
  const auto& store = **opened;
  auto take = [&](const blob_id& id) {
    return open_in(folder, id).and_then([&](unique_fd fd) {
      return copy_blob(std::move(fd), id, store);
    });
  };
  if (auto ok = take(*manifest); !ok)
    return unexpected(std::move(ok.error()));
  // The manifest says the configuration, which `read` needs.
  auto config = store.config_of(*manifest);
  if (!config)
    return unexpected(std::move(config.error()));
  if (auto ok = take(*config); !ok)
    return unexpected(std::move(ok.error()));
  auto snapshot = store.read(*manifest);
  if (!snapshot)
    return unexpected(std::move(snapshot.error()));
  for (const auto& layer : snapshot->layers)
    if (auto ok = take(layer.blob); !ok)
      return unexpected(std::move(ok.error()));
  auto ok = verify_layered(store, *snapshot, std::move(stop)).and_then([&] {
    return store.refer(ref.id, *manifest);
  });
  if (!ok)
    return unexpected(std::move(ok.error()));
  auto info = std::move(snapshot->info);
  info.id = ref.id;
  info.base_path = ref.base_path;
  return info;
}

} // namespace troupe::snapshot
