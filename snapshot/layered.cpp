#include "snapshot/layered.hpp"

#include "snapshot/capture.hpp"
#include "snapshot/free_space.hpp"
#include "snapshot/layer_cache.hpp"
#include "snapshot/layer_writer.hpp"
#include "snapshot/layered_reader.hpp"
#include "snapshot/local_store.hpp"
#include "snapshot/staging.hpp"
#include "snapshot/tree_index.hpp"
#include "snapshot/tree_writer.hpp"
#include "snapshot/unpack.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <utility>

namespace troupe::snapshot {

namespace {

/// How often a tree that changes meanwhile is looked at again.
constexpr int max_rounds = 5;

/// Contents that were read in vain, from where on it pays to remember how the files are now.
constexpr uint64_t worth_remembering = 256 * 1024;

/// A chain is long from here on; each layer costs every reader something.
constexpr size_t long_chain = 16;

/// So much of what layers have may be dead, however small the tree is.
constexpr uint64_t dead_bytes_allowed = 1024 * 1024;

constexpr size_t copy_size = 256 * 1024;

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

error named(const snapshot_ref& ref, error x) {
  if (x.context.find("\"snapshot_id\"") == std::string::npos
      && (x.code == errc::snapshot_persist_error || x.code == errc::snapshot_restore_error
          || x.code == errc::no_space))
    x.with("snapshot_id", ref.id);
  return x;
}

/// What the workspace was when it was last known.
struct known_tree {
  std::string id;
  layered_snapshot snapshot;
};

std::optional<known_tree> find_base(const blob_store& store, const persist_request& request) {
  std::optional<known_tree> known;
  auto look_for = [&](const std::string& id) {
    auto ref = request.ref;
    ref.id = id;
    auto found = find_layered(store, ref);
    if (found && *found)
      known = known_tree{id, std::move(**found)};
    return known.has_value();
  };
  for (const auto& id : {request.base, request.ref.id})
    if (!id.empty() && look_for(id))
      break;
  // It was made anew of other layers than those below the overlay.
  if (!request.held.empty() && (!known || !usable_upper(request, known->snapshot.layers)))
    look_for(request.held);
  return known;
}

result<capture_base> base_of(const blob_store& store, const std::optional<known_tree>& known,
                             bool upper, const persist_request& request) {
  capture_base base;
  if (!known)
    return base;
  if (!upper)
    base.ahead = look_ahead(request.root_fd, request.skip);
  auto fold = open_fold(store, known->snapshot.layers);
  if (!fold)
    return unexpected(std::move(fold.error()));
  base.index = std::move(*fold);
  if (!upper)
    base.stats = read_stats(store.stat_path(known->id));
  return base;
}

/// What a first save takes, about: most trees pack to a quarter or less. One that does not is met
/// while it is written.
uint64_t estimate(const persist_request& request) {
  constexpr uint64_t of_entry = 100; // in tar and index, packed
  constexpr uint64_t packing = 4;
  uint64_t bytes = 0;
  (void) workspace::walk(request.root_fd, [&](const workspace::tree_item& x) {
    if (std::ranges::find(request.skip, x.path) != request.skip.end())
      return workspace::walk_next::skip;
    if (S_ISREG(x.info->st_mode))
      bytes += static_cast<uint64_t>(x.info->st_blocks) * 512 / packing;
    bytes += of_entry;
    return workspace::walk_next::enter;
  });
  return bytes;
}

/// What is known of the files on this disk goes from one name to another.
void share_stats(const blob_store& store, const std::string& from, const std::string& to) {
  if (from == to)
    return;
  ::unlink(store.stat_path(to).c_str());
  (void) ::link(store.stat_path(from).c_str(), store.stat_path(to).c_str());
}

result<capture_outcome> capture_once(const blob_store& store, const persist_request& request,
                                     std::optional<known_tree>& known, zstd_pool& pool, job& work) {
  auto upper = usable_upper(request, known ? known->snapshot.layers : std::vector<layer_info>{});
  auto base = base_of(store, known, upper.has_value(), request);
  if (base) {
    layer_writer out{store, pool};
    auto taken = capture(request.root_fd, upper, request.skip, std::move(*base), &out, work);
    if (taken || !known || taken.error().code != errc::snapshot_restore_error)
      return taken;
  } else if (!known) {
    return unexpected(std::move(base.error()));
  }
  // What the base was cannot be read any more: the whole is written again.
  known.reset();
  return capture_once(store, request, known, pool, work);
}

} // namespace

result<std::optional<layered_snapshot>> find_layered(const blob_store& store,
                                                     const snapshot_ref& ref) {
  auto path = local_path(ref, op::snapshot_restore);
  if (!path)
    return unexpected(std::move(path.error()));
  auto fd = open_local(ref, *path);
  if (!fd)
    return unexpected(std::move(fd.error()));
  auto manifest = blob_store::parse_reference(fd->get());
  if (!manifest)
    return unexpected(std::move(manifest.error()));
  if (!*manifest)
    return std::nullopt;
  auto found = store.read(**manifest);
  if (!found)
    return unexpected(std::move(found.error()));
  return std::optional{std::move(*found)};
}

std::optional<upper_tree> usable_upper(const persist_request& request,
                                       const std::vector<layer_info>& layers) {
  const auto& lower = request.lower_layers;
  if (request.upper_fd < 0 || lower.size() > layers.size())
    return std::nullopt;
  for (size_t i = 0; i < lower.size(); ++i)
    if (layers[i].blob.digest != lower[i])
      return std::nullopt;
  return upper_tree{request.upper_fd, static_cast<uint32_t>(lower.size())};
}

// -- writing --------------------------------------------------------------------------------------

result<snapshot_outcome> persist_layered(const persist_request& request, std::stop_token stop,
                                         const progress& report, zstd_pool& pool) {
  const auto& ref = request.ref;
  auto fail = [&](error x) { return unexpected(named(ref, std::move(x))); };
  auto path = local_path(ref, op::snapshot_persist);
  if (!path)
    return fail(std::move(path.error()));
  auto opened = blob_store::open(ref.base_path, blob_store::use::shared, true);
  if (!opened)
    return fail(std::move(opened.error()));
  const auto& store = **opened;
  auto known = find_base(store, request);
  if (auto ok = check_space(store.blobs_fd(), known ? 0 : estimate(request), ref.base_path); !ok)
    return fail(std::move(ok.error()));
  auto begun = file_clock();
  // One that is only held is nobody's parent.
  const auto base_id = known && known->id != request.held ? known->id : std::string{};
  job work{op::snapshot_persist, stop, report};
  capture_outcome last;
  layered_snapshot now;
  std::vector<std::string> warnings;
  uint64_t new_bytes = 0;
  bool changed = false;
  for (int round = 0;; ++round) {
    work.files = 0;
    auto taken = capture_once(store, request, known, pool, work);
    if (!taken)
      return fail(std::move(taken.error()));
    last = std::move(*taken);
    if (!known)
      known = known_tree{ref.id, {}};
    if (last.layer) {
      known->snapshot.layers.push_back(*last.layer);
      new_bytes += last.layer->blob.size;
    }
    changed = changed || last.changed;
    if (round == 0)
      warnings = last.warnings;
    if (!request.settle || (round > 0 && !last.changed))
      break;
    if (round + 1 == max_rounds) {
      warnings.push_back("the workspace changed while it was looked at; what was written later may "
                         "be there without what was written earlier");
      break;
    }
  }
  if (auto ok = work.step(); !ok)
    return fail(std::move(ok.error()));
  auto& layers = known->snapshot.layers;
  auto fingerprint = fingerprint_of(last.tree, request.manifest_digest);
  if (changed || base_id != ref.id) {
    now.layers = layers;
    now.tree = to_hex(last.tree);
    now.info.session_id = request.session_id;
    now.info.tenant = request.tenant;
    now.info.created_at_ms = now_ms();
    now.info.files = last.files;
    now.info.size_bytes = last.bytes;
    now.info.name = request.name;
    now.info.parent = base_id == ref.id ? "" : base_id;
    auto ok = store.describe(now).and_then([&] { return store.refer(ref.id, now.manifest); });
    if (!ok)
      return fail(std::move(ok.error()));
    new_bytes += now.config.size + now.manifest.size;
    now.info.layers = static_cast<uint32_t>(layers.size());
    now.info.stored_bytes = now.config.size + now.manifest.size;
    for (const auto& layer : layers)
      now.info.stored_bytes += layer.blob.size;
    if (!base_id.empty())
      share_stats(store, base_id, ref.id);
  } else {
    now.info = known->snapshot.info;
  }
  if (last.hashed_again >= worth_remembering && request.upper_fd < 0)
    write_stats(request.root_fd, store.stat_path(ref.id), begun, pool);
  work.done();
  now.info.id = ref.id;
  now.info.base_path = ref.base_path;
  return snapshot_outcome{std::move(now.info), std::move(fingerprint), fingerprint_version,
                          std::move(warnings), new_bytes};
}

result<std::string> fingerprint_layered(const persist_request& request, std::stop_token stop) {
  progress silent;
  job work{op::persist_workspace, std::move(stop), silent};
  capture_base base;
  std::optional<upper_tree> upper;
  auto opened = blob_store::open(request.ref.base_path, blob_store::use::shared, false);
  if (opened && *opened) {
    auto known = find_base(**opened, request);
    if (known)
      upper = usable_upper(request, known->snapshot.layers);
    // A tree that is what it was has the digest that it had.
    if (auto found = base_of(**opened, known, upper.has_value(), request); known && found)
      if (auto other = differs(request.root_fd, upper, request.skip, std::move(*found), work);
          other && !*other)
        return fingerprint_of(known->snapshot.tree, request.manifest_digest);
    if (auto found = base_of(**opened, known, upper.has_value(), request))
      base = std::move(*found);
    else
      upper.reset();
  }
  auto taken = capture(request.root_fd, upper, request.skip, std::move(base), nullptr, work);
  if (!taken)
    return unexpected(std::move(taken.error()));
  return fingerprint_of(taken->tree, request.manifest_digest);
}

// -- reading --------------------------------------------------------------------------------------

namespace {

/// Puts one path of a snapshot on the disk.
tree_writer::outcome put_entry(const index_entry& x, tree_writer& out) {
  switch (x.type) {
    case entry_type::whiteout: return out.add_whiteout(x.path);
    case entry_type::directory: {
      auto fault = out.add_directory(x.path, x.path, x.mode, x.mtime);
      return fault ? fault : out.set_xattrs(decode_xattrs(x.xattrs));
    }
    case entry_type::symlink: return out.add_symlink(x.path, x.path, x.target, x.mtime);
    case entry_type::hard_link: return out.add_hard_link(x.path, x.path, x.target);
    default: return out.begin_file(x.path, x.path);
  }
}

void digest_entry(const index_entry& x, tree_index& tree) {
  switch (x.type) {
    case entry_type::directory:
      if (!x.path.empty())
        tree.add_directory(x.path, x.mode);
      break;
    case entry_type::symlink: tree.add_symlink(x.path, x.target); break;
    case entry_type::hard_link: tree.add_hard_link(x.path, x.target); break;
    case entry_type::file: tree.add_file(x.path, x.mode, x.size, x.content); break;
    default: break;
  }
}

/// Gives every path and every piece of a snapshot to `entry` and `piece`.
result<void> read_all(
  const blob_store& store, const layered_snapshot& snapshot, job& work,
  const std::function<result<void>(const index_entry&, const std::vector<extent>* map)>& entry,
  const std::function<result<void>(const index_entry&, const file_piece&)>& piece) {
  auto reader = layered_reader::open(store, snapshot);
  if (!reader)
    return unexpected(std::move(reader.error()));
  tree_index tree;
  index_entry x;
  for (;;) {
    if (auto ok = work.step(); !ok)
      return ok;
    auto more = reader->next(x);
    if (!more)
      return unexpected(std::move(more.error()));
    if (!*more)
      break;
    digest_entry(x, tree);
    if (auto ok = entry(x, reader->map()); !ok)
      return ok;
    if (x.type != entry_type::file)
      continue;
    for (;;) {
      if (auto ok = work.step(); !ok)
        return ok;
      auto data = reader->data();
      if (!data)
        return unexpected(std::move(data.error()));
      if (!data->data.empty() && data->offset + data->data.size() > x.size)
        return unexpected(damaged("more data than the member's size"));
      if (auto ok = piece(x, *data); !ok)
        return ok;
      if (data->data.empty())
        break;
      work.bytes += data->data.size();
    }
    ++work.files;
  }
  if (to_hex(tree.finish()) != snapshot.tree)
    return unexpected(damaged("digest of the tree does not match"));
  return {};
}

} // namespace

namespace {

result<void> written(const std::string& root, const index_entry& x,
                     const tree_writer::outcome& fault) {
  if (!fault)
    return {};
  if (fault->error != 0)
    return unexpected(cannot_write(root, fault->error).with("member", x.path));
  return unexpected(damaged(fault->reason).with("member", x.path));
}

tree_writer::outcome end_file(const index_entry& x, tree_writer& out) {
  auto fault = x.xattrs.empty() ? std::nullopt : out.set_xattrs(decode_xattrs(x.xattrs));
  return fault ? fault : out.end_file(x.size, x.mode, x.mtime);
}

result<void> unpack_layered(const blob_store& store, const layered_snapshot& snapshot,
                            const std::string& root, tree_writer& out, job& work) {
  auto entry
    = [&](const index_entry& x, const auto*) { return written(root, x, put_entry(x, out)); };
  auto piece = [&](const index_entry& x, const file_piece& data) -> result<void> {
    return written(root, x,
                   data.data.empty() ? end_file(x, out) : out.write_file(data.data, data.offset));
  };
  return read_all(store, snapshot, work, entry, piece).and_then([&] {
    return written(root, {}, out.finish());
  });
}

} // namespace

result<void> clone_layered(const blob_store& store, const layered_snapshot& snapshot,
                           const std::vector<std::string>& folders, tree_writer& out, job& work) {
  auto index = open_fold(store, snapshot.layers);
  if (!index)
    return unexpected(std::move(index.error()));
  std::vector<unique_fd> layers;
  for (const auto& folder : folders)
    layers.emplace_back(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  tree_index tree;
  index_entry x;
  for (;;) {
    auto more = work.step().and_then([&] { return (*index)->next(x); });
    if (!more)
      return unexpected(std::move(more.error()));
    if (!*more)
      break;
    digest_entry(x, tree);
    auto fault = put_entry(x, out);
    if (!fault && x.type == entry_type::file) {
      unique_fd from{workspace::open_beneath(layers.at(x.layer).get(), x.path,
                                             O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0,
                                             RESOLVE_NO_SYMLINKS)};
      struct stat st;
      if (!from || ::fstat(from.get(), &st) != 0 || !S_ISREG(st.st_mode)
          || static_cast<uint64_t>(st.st_size) != x.size)
        return unexpected(damaged("an unpacked layer is not what it was").with("member", x.path));
      fault = out.clone_file(from.get(), x.size);
      if (!fault)
        fault = end_file(x, out);
      ++work.files;
      work.bytes += x.size;
    }
    if (auto ok = written("workspace", x, fault); !ok)
      return ok;
  }
  if (to_hex(tree.finish()) != snapshot.tree)
    return unexpected(damaged("digest of the tree does not match"));
  return written("workspace", {}, out.finish());
}

result<void> restore_layered(const blob_store& store, const layered_snapshot& snapshot,
                             const restore_request& request, std::stop_token stop,
                             const progress& report, zstd_pool& pool, layer_cache* cache) {
  auto place = staging::make(request.root);
  if (!place)
    return unexpected(std::move(place.error()));
  job work{op::snapshot_restore, stop, report};
  bool has_root = false;
  bool done = false;
  if (cache && cache->can_clone_to(place->fd()))
    if (auto lease = cache->acquire(store, snapshot.layers, stop)) {
      tree_writer out{place->fd()};
      done = clone_layered(store, snapshot, (*lease)->folders, out, work).has_value();
      has_root = out.root_named();
    }
  if (!done) {
    (void) workspace::remove_contents(place->fd());
    if (auto ok
        = check_space(place->fd(), space_for(snapshot.info), request.root, op::snapshot_restore);
        !ok)
      return ok;
    tree_writer out{place->fd()};
    if (auto ok = unpack_layered(store, snapshot, request.root, out, work); !ok)
      return ok;
    has_root = out.root_named();
  }
  if (auto ok = work.step(); !ok)
    return ok;
  write_stats(place->fd(), store.stat_path(request.ref.id), file_clock(), pool);
  if (auto replaced = place->replace(has_root); !replaced)
    return replaced;
  work.bytes = snapshot.info.size_bytes;
  work.done();
  return {};
}

namespace {

/// Copies what `x` is another name of from the newest layer that has it. Its holes stay holes: they
/// may be larger than the disk.
tree_writer::outcome copy_linked(const index_entry& x, const std::vector<std::string>& older,
                                 tree_writer& out) {
  for (auto i = older.size(); i-- > 0;) {
    unique_fd folder{::open(older[i].c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    unique_fd from{workspace::open_beneath(
      folder.get(), x.target, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, RESOLVE_NO_SYMLINKS)};
    struct stat st;
    if (!from || ::fstat(from.get(), &st) != 0 || !S_ISREG(st.st_mode))
      continue;
    if (auto fault = out.begin_file(x.path, x.path))
      return fault;
    std::vector<char> buffer(copy_size);
    for (off_t at = 0; (at = ::lseek(from.get(), at, SEEK_DATA)) >= 0;)
      for (auto hole = ::lseek(from.get(), at, SEEK_HOLE); at < hole;) {
        auto wanted = std::min(buffer.size(), static_cast<size_t>(hole - at));
        auto n = ::pread(from.get(), buffer.data(), wanted, at);
        if (n <= 0)
          return write_fault{EIO, {}, {}};
        if (auto fault
            = out.write_file({buffer.data(), static_cast<size_t>(n)}, static_cast<uint64_t>(at)))
          return fault;
        at += n;
      }
    return out.end_file(static_cast<uint64_t>(st.st_size), st.st_mode & 07777, st.st_mtim);
  }
  return write_fault{ENOENT, {}, {}};
}

} // namespace

result<void> unpack_layer(const blob_store& store, const layer_info& layer, int folder_fd,
                          const std::vector<std::string>& older, std::stop_token stop) {
  progress silent;
  job work{op::snapshot_restore, std::move(stop), silent};
  tree_writer out{folder_fd};
  auto check = [&](const index_entry& x, const tree_writer::outcome& fault) -> result<void> {
    if (!fault)
      return {};
    auto failed = fault->error != 0 ? cannot_write("layer", fault->error) : damaged(fault->reason);
    return unexpected(failed.with("member", x.path).with("blob", "sha256:" + layer.blob.digest));
  };
  layered_snapshot alone;
  alone.layers = {layer};
  auto reader = layered_reader::open(store, alone, true);
  if (!reader)
    return unexpected(std::move(reader.error()));
  index_entry x;
  for (;;) {
    auto more = work.step().and_then([&] { return reader->next(x); });
    if (!more)
      return unexpected(std::move(more.error()));
    if (!*more)
      return check({}, out.finish());
    auto fault = put_entry(x, out);
    if (fault && x.type == entry_type::hard_link && !older.empty())
      fault = copy_linked(x, older, out);
    if (auto ok = check(x, fault); !ok)
      return ok;
    while (x.type == entry_type::file) {
      auto data = work.step().and_then([&] { return reader->data(); });
      if (!data)
        return unexpected(std::move(data.error()));
      if (!data->data.empty()) {
        if (auto ok = check(x, out.write_file(data->data, data->offset)); !ok)
          return ok;
        continue;
      }
      fault = out.set_xattrs(decode_xattrs(x.xattrs));
      if (auto ok = check(x, fault ? fault : out.end_file(x.size, x.mode, x.mtime)); !ok)
        return ok;
      break;
    }
  }
}

result<void> verify_layered(const blob_store& store, const layered_snapshot& snapshot,
                            std::stop_token stop) {
  progress silent;
  job work{op::snapshot_restore, std::move(stop), silent};
  sha256 hash;
  uint64_t end = 0;
  auto zeros = [&](uint64_t n) -> result<void> {
    static constexpr char none[64 * 1024] = {};
    for (; n > 0; n -= std::min<uint64_t>(n, sizeof none)) {
      if (auto ok = work.step(); !ok)
        return ok;
      hash.update(none, std::min<uint64_t>(n, sizeof none));
    }
    return {};
  };
  return read_all(
    store, snapshot, work,
    [&](const index_entry&, const auto*) -> result<void> {
      end = 0;
      return {};
    },
    [&](const index_entry& x, const file_piece& data) -> result<void> {
      if (auto ok = zeros((data.data.empty() ? x.size : data.offset) - end); !ok)
        return ok;
      if (data.data.empty()) {
        if (hash.finish() == x.content)
          return {};
        return unexpected(damaged("a file does not have its digest").with("member", x.path));
      }
      hash.update(data.data);
      end = data.offset + data.data.size();
      return {};
    });
}

result<void> export_tar_layered(const blob_store& store, const layered_snapshot& snapshot,
                                int out_fd, std::stop_token stop) {
  progress silent;
  job work{op::persist_workspace, std::move(stop), silent};
  tar_encoder out{[&](const char* data, size_t size) -> result<void> {
    if (int err = workspace::write_all(out_fd, data, size); err < 0)
      return unexpected(cannot_store("tar", -err));
    return {};
  }};
  uint64_t end = 0;
  auto fill_to = [&](uint64_t offset) -> result<void> {
    static constexpr char none[64 * 1024] = {};
    while (end < offset) {
      auto n = std::min<uint64_t>(offset - end, sizeof none);
      if (auto ok = out.data(none, n); !ok)
        return ok;
      end += n;
    }
    return {};
  };
  auto entry = [&](const index_entry& x, const auto*) {
    end = 0;
    return out.begin(x);
  };
  auto piece = [&](const index_entry& x, const file_piece& data) -> result<void> {
    if (data.data.empty())
      return fill_to(x.size).and_then([&] { return out.end_file(); });
    return fill_to(data.offset).and_then([&] {
      end += data.data.size();
      return out.data(data.data.data(), data.data.size());
    });
  };
  return read_all(store, snapshot, work, entry, piece).and_then([&] { return out.finish(); });
}

// -- flattening -----------------------------------------------------------------------------------

namespace {

uint64_t bytes_written(const layered_snapshot& x) {
  uint64_t written = 0;
  for (const auto& layer : x.layers)
    written += layer.file_bytes;
  return written;
}

/// Whether the layers are more, or more of them is dead, than readers should have to do with.
bool is_worn(const layered_snapshot& x) {
  return x.layers.size() >= long_chain
         || bytes_written(x) > 2 * x.info.size_bytes + dead_bytes_allowed;
}

/// What was written of a workspace when a snapshot of it was last flattened; a cache that goes with
/// what is held. Nullopt: none was yet.
std::optional<uint64_t> read_flattened(const blob_store& store, const std::string& held) {
  uint64_t written = 0;
  if (held.empty() || !(std::ifstream{store.stat_path(held)} >> written))
    return std::nullopt;
  return written;
}

/// Whether as much has come above held layers since then as makes a chain worn.
bool has_grown(const blob_store& store, const std::string& held, uint64_t written_before,
               const layered_snapshot& x) {
  auto below = find_layered(store, {snapshot_kind::local, held, store.base_path(), {}});
  auto layers_below = below && *below ? (*below)->layers.size() : 0;
  return x.layers.size() >= layers_below + long_chain
         || bytes_written(x) > written_before + x.info.size_bytes + dead_bytes_allowed;
}

} // namespace

result<bool> flatten_layered(const snapshot_ref& ref, const std::string& held, std::stop_token stop,
                             zstd_pool& pool) {
  auto opened = blob_store::open(ref.base_path, blob_store::use::shared, false);
  if (!opened || !*opened)
    return opened ? result<bool>{false} : unexpected(std::move(opened.error()));
  const auto& store = **opened;
  auto found = find_layered(store, ref);
  if (!found || !*found)
    return found ? result<bool>{false} : unexpected(std::move(found.error()));
  auto& old = **found;
  if (old.layers.size() < 2 || !is_worn(old))
    return false;
  const auto written = bytes_written(old);
  if (auto before = read_flattened(store, held); before && !has_grown(store, held, *before, old))
    return false;
  // One layer is at most what the many are.
  uint64_t stored = 0;
  for (const auto& layer : old.layers)
    stored += layer.blob.size;
  if (auto ok = check_space(store.blobs_fd(), stored, ref.base_path); !ok)
    return unexpected(std::move(ok.error()));
  progress silent;
  job work{op::snapshot_persist, std::move(stop), silent};
  layer_writer out{store, pool};
  const std::vector<extent>* map = nullptr;
  uint64_t end = 0; ///< of what was written of the current file
  auto fill_to = [&](uint64_t offset) -> result<void> {
    static constexpr char none[64 * 1024] = {};
    while (!map && end < offset) {
      auto n = std::min<uint64_t>(offset - end, sizeof none);
      if (auto ok = out.tar().data(none, n); !ok)
        return ok;
      end += n;
    }
    return {};
  };
  auto piece = [&](const index_entry& x, const file_piece& data) -> result<void> {
    auto ok = fill_to(data.data.empty() ? x.size : data.offset);
    if (!ok || data.data.empty())
      return ok.and_then([&] { return out.end_file(x); });
    end += data.data.size();
    return out.tar().data(data.data.data(), data.data.size());
  };
  auto entry = [&](const index_entry& x, const std::vector<extent>* runs) {
    map = runs;
    end = 0;
    return x.type == entry_type::file ? out.begin_file(x, map) : out.add(x);
  };
  if (auto ok = read_all(store, old, work, entry, piece); !ok)
    return unexpected(std::move(ok.error()));
  auto layer = out.finish();
  if (!layer)
    return unexpected(std::move(layer.error()));
  old.layers.assign(1, *layer);
  auto ok = store.describe(old).and_then([&] { return store.refer(ref.id, old.manifest); });
  if (!ok)
    return unexpected(std::move(ok.error()));
  if (!held.empty())
    std::ofstream{store.stat_path(held)} << written << '\n';
  return true;
}

} // namespace troupe::snapshot
