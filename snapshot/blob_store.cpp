#include "snapshot/blob_store.hpp"

#include "messages/ids.hpp"
#include "messages/json.hpp"
#include "snapshot/leftover.hpp"
#include "snapshot/local_store.hpp"
#include "workspace/tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr const char* layers_folder = ".layers";
constexpr std::string_view layout_file = R"({"imageLayoutVersion":"1.0.0"})";
constexpr const char* manifest_type = "application/vnd.oci.image.manifest.v1+json";
constexpr const char* config_type = "application/vnd.oci.image.config.v1+json";
constexpr const char* layer_type = "application/vnd.oci.image.layer.v1.tar+zstd";
constexpr size_t max_small_blob = 1024 * 1024;
constexpr size_t max_layers = 256;
constexpr uint64_t flush_every = 4 * 1024 * 1024;
constexpr std::string_view reference_suffix = ".tar";

bool is_digest(std::string_view x) {
  return x.size() == 64 && x.find_first_not_of("0123456789abcdef") == x.npos;
}

bool is_temporary(std::string_view name) {
  return name.starts_with('.') && name.ends_with(".tmp");
}

json descriptor(const char* type, const blob_id& x) {
  return json{{"mediaType", type}, {"digest", "sha256:" + x.digest}, {"size", x.size}};
}

blob_id parse_descriptor(const json& x) {
  blob_id id;
  auto digest = x.at("digest").get<std::string>();
  if (!digest.starts_with("sha256:") || !is_digest(std::string_view{digest}.substr(7)))
    throw std::invalid_argument{"digest"};
  id.digest = digest.substr(7);
  id.size = x.at("size").get<uint64_t>();
  return id;
}

std::string config_text(const layered_snapshot& x) {
  json diff_ids = json::array();
  json layers = json::array();
  for (const auto& layer : x.layers) {
    diff_ids.push_back("sha256:" + layer.diff_id);
    layers.push_back({{"entries", layer.entries},
                      {"file_bytes", layer.file_bytes},
                      {"index_bytes", layer.index_bytes}});
  }
  return dump_json(json{{"created", rfc3339_ms(x.info.created_at_ms)},
                        {"architecture", "amd64"},
                        {"os", "linux"},
                        {"config", json::object()},
                        {"rootfs", {{"type", "layers"}, {"diff_ids", std::move(diff_ids)}}},
                        {"troupe",
                         {{"format", layered_format},
                          {"session_id", x.info.session_id},
                          {"tenant", x.info.tenant},
                          {"created_at_ms", x.info.created_at_ms},
                          {"files", x.info.files},
                          {"size_bytes", x.info.size_bytes},
                          {"parent", x.info.parent},
                          {"name", x.info.name},
                          {"tree", x.tree},
                          {"layers", std::move(layers)}}}});
}

void parse_config(const json& value, layered_snapshot& x) {
  const auto& ours = value.at("troupe");
  if (ours.at("format").get<int>() != layered_format)
    throw std::invalid_argument{"format"};
  ours.at("session_id").get_to(x.info.session_id);
  ours.at("tenant").get_to(x.info.tenant);
  ours.at("created_at_ms").get_to(x.info.created_at_ms);
  ours.at("files").get_to(x.info.files);
  ours.at("size_bytes").get_to(x.info.size_bytes);
  ours.at("parent").get_to(x.info.parent);
  ours.at("name").get_to(x.info.name);
  ours.at("tree").get_to(x.tree);
  const auto& diff_ids = value.at("rootfs").at("diff_ids");
  const auto& layers = ours.at("layers");
  if (diff_ids.size() != x.layers.size() || layers.size() != x.layers.size())
    throw std::invalid_argument{"layers"};
  for (size_t i = 0; i < x.layers.size(); ++i) {
    x.layers[i].diff_id = diff_ids.at(i).get<std::string>().substr(7);
    layers.at(i).at("entries").get_to(x.layers[i].entries);
    layers.at(i).at("file_bytes").get_to(x.layers[i].file_bytes);
    layers.at(i).at("index_bytes").get_to(x.layers[i].index_bytes);
  }
}

/// Where a file system puts an inode follows its folder, and the places of files that were removed
/// lately are passed over one by one: what comes and goes is kept in many folders, apart on the
/// disk.
void spread(int above, const char* name) {
  unique_fd fd{::openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  workspace::spread_directories(fd.get());
}

/// Names in a folder.
std::vector<std::string> list_names(int folder) {
  std::vector<std::string> names;
  int listing = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = listing < 0 ? nullptr : ::fdopendir(listing);
  if (!dir)
    return names;
  while (auto* item = ::readdir(dir))
    if (item->d_name != std::string_view{"."} && item->d_name != std::string_view{".."})
      names.emplace_back(item->d_name);
  ::closedir(dir);
  return names;
}

} // namespace

error blob_damaged(const blob_id& x, std::string_view reason) {
  return make_error(errc::snapshot_restore_error, op::snapshot_restore,
                    "failed to restore snapshot")
    .with("blob", "sha256:" + x.digest)
    .with("reason", reason);
}

error cannot_store(const std::string& path, int err) {
  bool full = err == ENOSPC || err == EDQUOT;
  return make_error(full ? errc::no_space : errc::snapshot_persist_error, op::snapshot_persist,
                    "failed to persist snapshot")
    .with("path", path)
    .with("reason", std::strerror(err));
}

// -- the store ------------------------------------------------------------------------------------

result<std::optional<blob_store>> blob_store::open(const std::string& base_path, use how,
                                                   bool make) {
  constexpr int folder = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  blob_store x;
  x.base_path_ = base_path;
  if (make) {
    auto base = workspace::open_or_make_directory(base_path, 0700);
    if (!base)
      return unexpected(make_error(base.error().code == errc::no_space
                                     ? errc::no_space
                                     : errc::snapshot_persist_error,
                                   op::snapshot_persist, "failed to persist snapshot")
                          .with("path", base_path)
                          .with("reason", base.error().message));
    x.base_ = std::move(*base);
  } else {
    x.base_.reset(::open(base_path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  auto open_all = [&] {
    x.layers_.reset(::openat(x.base_.get(), layers_folder, folder));
    if (x.layers_)
      x.blobs_.reset(::openat(x.layers_.get(), "blobs/sha256", folder));
    if (x.blobs_)
      x.lock_.reset(::openat(x.layers_.get(), "oci-layout", O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    return static_cast<bool>(x.lock_);
  };
  if (!x.base_ || (!open_all() && !make))
    return std::nullopt;
  if (!x.lock_) {
    ::mkdirat(x.base_.get(), layers_folder, 0700);
    x.layers_.reset(::openat(x.base_.get(), layers_folder, folder));
    for (auto* name : {"blobs", "blobs/sha256", "views", "stats"})
      if (::mkdirat(x.layers_.get(), name, 0700) != 0 && errno != EEXIST)
        return unexpected(cannot_store(base_path, errno));
    spread(x.layers_.get(), "views");
    unique_fd layout{
      ::openat(x.layers_.get(), "oci-layout", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600)};
    if (!layout || workspace::write_all(layout.get(), layout_file.data(), layout_file.size()) < 0
        || ::fsync(layout.get()) != 0 || ::fsync(x.layers_.get()) != 0
        || ::fsync(x.base_.get()) != 0)
      return unexpected(cannot_store(base_path, errno));
    if (!open_all())
      return unexpected(cannot_store(base_path, errno));
  }
  int lock = how == use::shared ? LOCK_SH : LOCK_EX | LOCK_NB;
  while (::flock(x.lock_.get(), lock) != 0) {
    if (errno == EWOULDBLOCK)
      return std::nullopt;
    if (errno != EINTR)
      return unexpected(cannot_store(base_path, errno));
  }
  return std::optional{std::move(x)};
}

result<unique_fd> blob_store::make_file(std::string& name) const {
  if (!fresh_) {
    auto folder = "new/" + random_hex(1);
    auto open = [&] {
      fresh_.reset(
        ::openat(layers_.get(), folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      return static_cast<bool>(fresh_);
    };
    auto make = [&](const char* path) {
      return ::mkdirat(layers_.get(), path, 0700) == 0 || errno == EEXIST;
    };
    if (!open()) {
      bool made = make("new");
      if (made)
        spread(layers_.get(), "new");
      if (!made || !make(folder.c_str()) || !open())
        return unexpected(cannot_store(base_path_, errno));
    }
  }
  int made = make_locked([&] {
    name = random_hex(16);
    int fd = ::openat(fresh_.get(), name.c_str(),
                      O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
  });
  if (made < 0)
    return unexpected(cannot_store(base_path_, -made));
  return unique_fd{made};
}

result<unique_fd> blob_store::open_blob(const blob_id& x) const {
  unique_fd fd{
    ::openat(blobs_.get(), x.digest.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  struct stat st;
  if (!fd || ::fstat(fd.get(), &st) != 0)
    return unexpected(blob_damaged(x, errno == ENOENT ? "blob is missing" : std::strerror(errno)));
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != x.size)
    return unexpected(blob_damaged(x, "blob is cut"));
  return fd;
}

result<std::string> blob_store::read_blob(const blob_id& x) const {
  if (x.size > max_small_blob)
    return unexpected(blob_damaged(x, "blob is too large"));
  auto fd = open_blob(x);
  if (!fd)
    return unexpected(std::move(fd.error()));
  blob_source source{std::move(*fd), x};
  std::string bytes;
  for (;;) {
    auto chunk = source.next();
    if (!chunk)
      return unexpected(std::move(chunk.error()));
    if (chunk->empty())
      return bytes;
    bytes += *chunk;
  }
}

result<blob_id> blob_store::write_blob(std::string_view bytes) const {
  auto file = new_blob::create(*this);
  if (!file)
    return unexpected(std::move(file.error()));
  return file->write(bytes.data(), bytes.size()).and_then([&] { return file->commit(); });
}

/// A slow disk flushes once for many that wait; for a fast one threads cost more than they save.
int blob_store::sync(int reference) const {
  constexpr std::chrono::milliseconds slow{1};
  auto sync_one = [](int fd) { return ::fsync(fd) == 0 ? 0 : errno; };
  auto begun = std::chrono::steady_clock::now();
  int err = sync_one(reference);
  auto how
    = std::chrono::steady_clock::now() - begun > slow ? std::launch::async : std::launch::deferred;
  std::vector<std::future<int>> others;
  for (const auto& fd : unsynced_)
    others.push_back(std::async(how, sync_one, fd.get()));
  if (!unsynced_.empty())
    others.push_back(std::async(how, sync_one, blobs_.get()));
  for (auto& x : others)
    if (int failed = x.get(); failed != 0)
      err = failed;
  unsynced_.clear();
  return err;
}

result<void> blob_store::describe(layered_snapshot& x) const {
  auto config = write_blob(config_text(x));
  if (!config)
    return unexpected(std::move(config.error()));
  x.config = *config;
  json layers = json::array();
  for (const auto& layer : x.layers)
    layers.push_back(descriptor(layer_type, layer.blob));
  auto manifest = write_blob(dump_json(json{{"schemaVersion", 2},
                                            {"mediaType", manifest_type},
                                            {"config", descriptor(config_type, x.config)},
                                            {"layers", std::move(layers)}}));
  if (!manifest)
    return unexpected(std::move(manifest.error()));
  x.manifest = *manifest;
  return {};
}

result<layered_snapshot> blob_store::read(const blob_id& manifest) const {
  layered_snapshot x;
  x.manifest = manifest;
  auto text = read_blob(manifest);
  if (!text)
    return unexpected(std::move(text.error()));
  try {
    auto value = parse_json(*text);
    if (!value)
      return unexpected(blob_damaged(manifest, "manifest does not parse"));
    x.config = parse_descriptor(value->at("config"));
    for (const auto& layer : value->at("layers"))
      x.layers.push_back({parse_descriptor(layer), {}, 0, 0, 0});
    if (x.layers.size() > max_layers)
      return unexpected(blob_damaged(manifest, "too many layers"));
    auto config = read_blob(x.config);
    if (!config)
      return unexpected(std::move(config.error()));
    value = parse_json(*config);
    if (!value)
      return unexpected(blob_damaged(x.config, "configuration does not parse"));
    parse_config(*value, x);
  } catch (const std::exception&) {
    return unexpected(blob_damaged(manifest, "manifest is not one of ours"));
  }
  x.info.layers = static_cast<uint32_t>(x.layers.size());
  x.info.stored_bytes = x.manifest.size + x.config.size;
  for (const auto& layer : x.layers)
    x.info.stored_bytes += layer.blob.size;
  return x;
}

// -- references -----------------------------------------------------------------------------------

std::string blob_store::reference_text(const blob_id& manifest) {
  auto only = descriptor(manifest_type, manifest);
  only["annotations"] = json{{"org.opencontainers.image.ref.name", "latest"}};
  return dump_json(json{{"schemaVersion", 2},
                        {"mediaType", "application/vnd.oci.image.index.v1+json"},
                        {"manifests", json::array({std::move(only)})}})
         + '\n';
}

std::string_view blob_store::layout_text() {
  return layout_file;
}

result<blob_id> blob_store::first_manifest(std::string_view index) {
  try {
    if (auto value = parse_json(index))
      return parse_descriptor(value->at("manifests").at(0));
  } catch (const std::exception&) {
  }
  return unexpected(damaged("there is no OCI image index"));
}

result<blob_id> blob_store::config_of(const blob_id& manifest) const {
  auto text = read_blob(manifest);
  if (!text)
    return unexpected(std::move(text.error()));
  try {
    if (auto value = parse_json(*text))
      return parse_descriptor(value->at("config"));
  } catch (const std::exception&) {
  }
  return unexpected(blob_damaged(manifest, "manifest does not parse"));
}

std::optional<std::vector<blob_id>> blob_store::named_in(std::string_view manifest) {
  try {
    if (auto value = parse_json(manifest)) {
      std::vector<blob_id> all{parse_descriptor(value->at("config"))};
      for (const auto& layer : value->at("layers"))
        all.push_back(parse_descriptor(layer));
      return all;
    }
  } catch (const std::exception&) {
  }
  return std::nullopt;
}

result<std::optional<blob_id>> blob_store::parse_reference(int fd) {
  char text[1024];
  auto n = ::pread(fd, text, sizeof text, 0);
  if (n < 0)
    return unexpected(damaged(std::strerror(errno)));
  std::string_view bytes{text, static_cast<size_t>(n)};
  bool begins = bytes.starts_with('{');
  text[0] = '{';
  auto id = first_manifest(bytes);
  bool whole = id && reference_text(*id) == bytes;
  // What begins otherwise is an archive, unless nothing but that is wrong with it.
  if (!begins && !whole)
    return std::nullopt;
  // Not a byte may differ: anything else there is damage.
  if (begins && whole)
    return *id;
  return unexpected(damaged("the reference is damaged"));
}

result<void> blob_store::refer(const std::string& id, const blob_id& manifest) const {
  auto target = id + std::string{reference_suffix};
  auto text = reference_text(manifest);
  std::string name;
  auto fd = make_file(name);
  if (!fd)
    return unexpected(std::move(fd.error()));
  int err = -std::min(workspace::write_all(fd->get(), text.data(), text.size()), 0);
  if (err == 0)
    err = sync(fd->get());
  if (err == 0 && ::renameat(fresh_.get(), name.c_str(), base_.get(), target.c_str()) != 0)
    err = errno;
  if (err != 0) {
    ::unlinkat(fresh_.get(), name.c_str(), 0);
    return unexpected(cannot_store(base_path_ + '/' + target, err));
  }
  if (::fsync(base_.get()) != 0)
    return unexpected(cannot_store(base_path_ + '/' + target, errno));
  make_view(id);
  return {};
}

/// A convenience: without it the snapshot is none the less whole.
void blob_store::make_view(const std::string& id) const {
  auto target = id + std::string{reference_suffix};
  auto view = "views/" + id;
  if (::mkdirat(layers_.get(), view.c_str(), 0700) == 0) {
    (void) ::symlinkat("../../blobs", layers_.get(), (view + "/blobs").c_str());
    (void) ::symlinkat("../../oci-layout", layers_.get(), (view + "/oci-layout").c_str());
    (void) ::symlinkat(("../../../" + target).c_str(), layers_.get(),
                       (view + "/index.json").c_str());
  }
}

result<void> blob_store::refer_again(const std::string& id,
                                     const std::vector<std::string>& ids) const {
  auto name = [](const std::string& x) { return x + std::string{reference_suffix}; };
  // References are replaced, never written to: what has several names stays what it is.
  for (const auto& x : ids)
    if (::linkat(base_.get(), name(id).c_str(), base_.get(), name(x).c_str(), 0) != 0)
      return unexpected(cannot_store(base_path_ + '/' + name(x), errno));
  if (::fsync(base_.get()) != 0)
    return unexpected(cannot_store(base_path_, errno));
  for (const auto& x : ids)
    make_view(x);
  return {};
}

void blob_store::forget(const std::string& id) const {
  unique_fd views{::openat(layers_.get(), "views", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (views)
    (void) workspace::remove_tree(views.get(), id);
  ::unlinkat(layers_.get(), ("stats/" + id).c_str(), 0);
}

std::string blob_store::stat_path(const std::string& id) const {
  return base_path_ + '/' + layers_folder + "/stats/" + id;
}

uint64_t blob_store::blob_bytes() const {
  uint64_t sum = 0;
  struct stat st;
  for (const auto& name : list_names(blobs_.get()))
    if (::fstatat(blobs_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
      sum += static_cast<uint64_t>(st.st_size);
  return sum;
}

// -- cleaning -------------------------------------------------------------------------------------

namespace {

bool is_reference(std::string_view name) {
  return (!name.starts_with('.') || name.starts_with(held_prefix))
         && name.ends_with(reference_suffix);
}

/// Only a regular file is one; else nothing.
unique_fd open_reference(int dir, const std::string& name, struct stat& st) {
  unique_fd fd{::openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  if (fd && (::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)))
    fd.reset();
  return fd;
}

/// Every digest that stands in a text, be the rest of it what it may.
std::vector<std::string> digests_in(std::string_view text) {
  constexpr std::string_view start = "sha256:";
  std::vector<std::string> all;
  for (size_t at = 0; (at = text.find(start, at)) != text.npos;) {
    at += start.size();
    auto digest = text.substr(at, 64);
    if (is_digest(digest))
      all.emplace_back(digest);
  }
  return all;
}

} // namespace

bool blob_store::has_blob(const std::string& digest) const {
  struct stat st;
  return ::fstatat(blobs_.get(), digest.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/// The beginning of a blob, as much as a manifest may have.
result<std::string> blob_store::blob_text(const std::string& digest) const {
  unique_fd fd{
    ::openat(blobs_.get(), digest.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  std::string text(max_small_blob, '\0');
  auto n = fd ? ::pread(fd.get(), text.data(), text.size(), 0) : -1;
  if (n < 0)
    return unexpected(cannot_store("blob sha256:" + digest, errno));
  text.resize(static_cast<size_t>(n));
  return text;
}

result<void> blob_store::keep_what_may_be_named(std::string_view reference,
                                                std::unordered_set<std::string>& used) const {
  auto keep_named = [&](const std::string& manifest) -> result<size_t> {
    auto text = blob_text(manifest);
    if (!text)
      return unexpected(std::move(text.error()));
    auto named = digests_in(*text);
    used.insert(manifest);
    used.insert(named.begin(), named.end());
    return named.size();
  };
  size_t found = 0;
  for (const auto& digest : digests_in(reference))
    if (has_blob(digest)) {
      auto named = keep_named(digest);
      if (!named)
        return unexpected(std::move(named.error()));
      found += *named;
    }
  if (found > 0)
    return {};
  for (const auto& name : list_names(blobs_.get())) {
    struct stat st;
    if (!is_digest(name) || ::fstatat(blobs_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0
        || static_cast<uint64_t>(st.st_size) > max_small_blob)
      continue;
    auto text = blob_text(name);
    if (!text)
      return unexpected(std::move(text.error()));
    if (named_in(*text))
      if (auto named = keep_named(name); !named)
        return unexpected(std::move(named.error()));
  }
  return {};
}

std::vector<blob_store::named_snapshot> blob_store::references() const {
  std::vector<named_snapshot> all;
  for (const auto& name : list_names(base_.get())) {
    if (!is_reference(name))
      continue;
    struct stat st;
    auto fd = open_reference(base_.get(), name, st);
    if (!fd)
      continue;
    named_snapshot x{name.substr(0, name.size() - reference_suffix.size()), st.st_mtim, {}};
    auto manifest = parse_reference(fd.get());
    if (manifest && !*manifest)
      continue; // an archive
    if (manifest)
      if (auto text = read_blob(**manifest))
        if (auto named = named_in(*text)) {
          x.blobs = std::move(*named);
          x.blobs.push_back(**manifest);
        }
    all.push_back(std::move(x));
  }
  return all;
}

bool blob_store::drop(const named_snapshot& x) const {
  auto name = x.id + std::string{reference_suffix};
  struct stat st;
  return ::fstatat(base_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0
         && st.st_mtim.tv_sec == x.used.tv_sec && st.st_mtim.tv_nsec == x.used.tv_nsec
         && ::unlinkat(base_.get(), name.c_str(), 0) == 0;
}

result<blob_store::collection> blob_store::collect() const {
  std::unordered_set<std::string> used;
  std::unordered_set<std::string> ids;
  collection done;
  for (const auto& name : list_names(base_.get())) {
    if (!is_reference(name))
      continue;
    struct stat st;
    auto fd = open_reference(base_.get(), name, st);
    if (!fd)
      continue;
    auto id = name.substr(0, name.size() - reference_suffix.size());
    char text[4096];
    auto n = ::pread(fd.get(), text, sizeof text, 0);
    if (n < 0)
      return unexpected(cannot_store(base_path_ + '/' + name, errno));
    auto manifest = parse_reference(fd.get());
    if (manifest && !*manifest)
      continue;
    ids.insert(id);
    if (manifest && !used.insert((*manifest)->digest).second)
      continue;
    auto snapshot = manifest.and_then([&](const auto& x) { return read(*x); });
    if (snapshot) {
      used.insert(snapshot->config.digest);
      for (const auto& layer : snapshot->layers)
        used.insert(layer.blob.digest);
      continue;
    }
    done.damaged.push_back(std::move(snapshot.error().with("snapshot_id", id)));
    // A manifest that is not there may be another one in truth: its name may be what is damaged.
    if (auto ok = keep_what_may_be_named({text, static_cast<size_t>(n)}, used); !ok)
      return unexpected(std::move(ok.error()));
  }
  for (const auto& name : list_names(blobs_.get())) {
    struct stat st;
    if (used.contains(name) || is_temporary(name)
        || ::fstatat(blobs_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    if (::unlinkat(blobs_.get(), name.c_str(), 0) == 0)
      done.freed += static_cast<uint64_t>(st.st_size);
  }
  unique_fd fresh{::openat(layers_.get(), "new", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  remove_leftovers(blobs_.get(), is_temporary); // as versions before `new` wrote
  for (const auto& name : list_names(fresh.get())) {
    unique_fd folder{
      ::openat(fresh.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
    remove_leftovers(folder.get(), [](std::string_view x) { return !x.starts_with('.'); });
  }
  for (auto* folder : {"views", "stats"}) {
    unique_fd fd{::openat(layers_.get(), folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    for (const auto& id : list_names(fd.get()))
      if (!ids.contains(id))
        (void) workspace::remove_tree(fd.get(), id);
  }
  return done;
}

// -- blobs ----------------------------------------------------------------------------------------

result<new_blob> new_blob::create(const blob_store& store) {
  new_blob x;
  x.store_ = &store;
  auto fd = store.make_file(x.name_);
  if (!fd)
    return unexpected(std::move(fd.error()));
  x.fd_ = std::move(*fd);
  return x;
}

new_blob::~new_blob() {
  if (fd_)
    ::unlinkat(store_->fresh_.get(), name_.c_str(), 0);
}

result<void> new_blob::write(const char* data, size_t size) {
  hash_.update(data, size);
  if (int err = workspace::write_all(fd_.get(), data, size); err < 0)
    return unexpected(cannot_store("blob", -err));
  size_ += size;
  if (size_ - flushed_ >= flush_every) {
    ::sync_file_range(fd_.get(), static_cast<off_t>(flushed_), static_cast<off_t>(size_ - flushed_),
                      SYNC_FILE_RANGE_WRITE);
    flushed_ = size_;
  }
  return {};
}

result<blob_id> new_blob::commit() {
  return put_in_place({to_hex(hash_.finish()), size_});
}

result<void> new_blob::commit_as(const blob_id& expected) {
  blob_id id{to_hex(hash_.finish()), size_};
  if (id != expected)
    return unexpected(blob_damaged(expected, "blob does not have its digest"));
  return put_in_place(std::move(id)).map([](const auto&) {});
}

result<blob_id> new_blob::put_in_place(blob_id id) {
  if (::renameat(store_->fresh_.get(), name_.c_str(), store_->blobs_fd(), id.digest.c_str()) != 0)
    return unexpected(cannot_store("blob sha256:" + id.digest, errno));
  store_->unsynced_.push_back(std::move(fd_));
  return id;
}

result<std::string_view> blob_source::next() {
  if (verified_)
    return std::string_view{};
  auto chunk = file_.next();
  if (!chunk)
    return unexpected(blob_damaged(id_, "blob cannot be read"));
  seen_ += chunk->size();
  if (!chunk->empty()) {
    hash_.update(*chunk);
    return chunk;
  }
  if (seen_ != id_.size || to_hex(hash_.finish()) != id_.digest)
    return unexpected(blob_damaged(id_, "blob does not have its digest"));
  verified_ = true;
  return chunk;
}

} // namespace troupe::snapshot
