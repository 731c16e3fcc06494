#include "snapshot/layer_cache.hpp"

#include "messages/ids.hpp"
#include "snapshot/layered.hpp"
#include "snapshot/leftover.hpp"
#include "workspace/tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr int directory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

/// A file takes a block and an inode, however small it is.
constexpr uint64_t entry_cost = 4096;

std::string boot_id() {
  std::string id;
  std::ifstream{"/proc/sys/kernel/random/boot_id"} >> id;
  return id.empty() ? "unknown" : id;
}

std::vector<std::string> names_in(int fd) {
  std::vector<std::string> names;
  int listing = ::openat(fd, ".", directory);
  DIR* dir = listing < 0 ? nullptr : ::fdopendir(listing);
  if (!dir)
    return names;
  while (auto* item = ::readdir(dir))
    if (item->d_name[0] != '.')
      names.emplace_back(item->d_name);
  ::closedir(dir);
  return names;
}

/// `{digest}.{bytes}`: what a layer takes is in its folder's name.
struct cached {
  std::string name;
  uint64_t bytes = 0;
  timespec used{};
};

uint64_t cost_of(const layer_info& x) {
  return x.file_bytes + x.entries * entry_cost;
}

std::string name_of(const layer_info& x) {
  return x.blob.digest + '.' + std::to_string(cost_of(x));
}

} // namespace

layer_cache::layer_cache(std::string folder, uint64_t max_bytes, uint32_t owner)
  : folder_(std::move(folder) + '/' + boot_id()), max_bytes_(max_bytes), owner_(owner) {}

result<void> layer_cache::open_folder() {
  std::lock_guard guard{mutex_};
  if (fd_)
    return {};
  auto opened = workspace::open_or_make_directory(folder_, 0700);
  if (!opened)
    return unexpected(std::move(opened.error()));
  fd_ = std::move(*opened);
  // Half-unpacked layers of dead processes, and all of other boots.
  remove_leftovers(fd_.get(), [](std::string_view name) { return name.starts_with(".new-"); });
  unique_fd parent{::openat(fd_.get(), "..", directory)};
  auto mine = folder_.substr(folder_.rfind('/') + 1);
  for (const auto& name : names_in(parent.get()))
    if (name != mine)
      (void) workspace::remove_tree(parent.get(), name);
  return {};
}

/// Opens a layer and holds it; empty if it is not there.
unique_fd layer_cache::lock(const std::string& name) const {
  for (;;) {
    unique_fd fd{::openat(fd_.get(), name.c_str(), directory)};
    struct stat st;
    if (!fd || ::flock(fd.get(), LOCK_SH) != 0)
      return {};
    struct stat there;
    // It may have gone between the two.
    if (::fstat(fd.get(), &st) == 0
        && ::fstatat(fd_.get(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0
        && st.st_ino == there.st_ino)
      return fd;
  }
}

result<std::shared_ptr<const layer_lease>>
layer_cache::acquire(const blob_store& store, const std::vector<layer_info>& layers,
                     std::stop_token stop) {
  if (auto ok = open_folder(); !ok)
    return unexpected(std::move(ok.error()));
  auto lease = std::make_shared<layer_lease>();
  for (const auto& layer : layers) {
    auto name = name_of(layer);
    auto held = lock(name);
    if (!held) {
      std::lock_guard guard{mutex_};
      held = lock(name);
      if (!held) {
        if (auto ok = add(store, layer, lease->folders, stop); !ok)
          return unexpected(std::move(ok.error()));
        held = lock(name);
      }
    }
    if (!held)
      return unexpected(blob_damaged(layer.blob, "the unpacked layer cannot be held"));
    keep(*lease, layer, std::move(held));
  }
  trim();
  return lease;
}

bool layer_cache::can_clone_to(int folder_fd) {
  if (!open_folder())
    return false;
  constexpr int unnamed = O_TMPFILE | O_RDWR | O_CLOEXEC;
  unique_fd from{::openat(fd_.get(), ".", unnamed, 0600)};
  unique_fd to{::openat(folder_fd, ".", unnamed, 0600)};
  constexpr char block[entry_cost] = {};
  return from && to && workspace::write_all(from.get(), block, sizeof block) == 0
         && ::ioctl(to.get(), FICLONE, from.get()) == 0;
}

void layer_cache::keep(layer_lease& lease, const layer_info& layer, unique_fd held) const {
  // The time of the folder itself would show through the overlay; that of its access does not.
  timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  ::futimens(held.get(), times);
  lease.folders.push_back(folder_ + '/' + name_of(layer));
  lease.digests.push_back(layer.blob.digest);
  lease.locks.push_back(std::move(held));
}

std::shared_ptr<const layer_lease> layer_cache::pin(const std::vector<layer_info>& layers) {
  if (!open_folder())
    return nullptr;
  auto lease = std::make_shared<layer_lease>();
  for (const auto& layer : layers)
    if (auto held = lock(name_of(layer)))
      keep(*lease, layer, std::move(held));
  return lease;
}

result<void> layer_cache::give_away(int layer_fd) const {
  if (owner_ == 0 || ::geteuid() != 0)
    return {};
  int failed = 0;
  auto give = [&](int dir, const char* name, int flags) {
    if (::fchownat(dir, name, owner_, owner_, flags) != 0)
      failed = errno;
  };
  auto walked = workspace::walk(layer_fd, [&](const workspace::tree_item& item) {
    if (!S_ISCHR(item.info->st_mode))
      give(item.parent_fd, item.name, AT_SYMLINK_NOFOLLOW);
    return workspace::walk_next::enter;
  });
  give(layer_fd, "", AT_EMPTY_PATH);
  if (!walked || failed != 0)
    return unexpected(cannot_store(folder_, failed));
  return {};
}

result<void> layer_cache::add(const blob_store& store, const layer_info& layer,
                              const std::vector<std::string>& older, std::stop_token stop) {
  std::string temporary;
  int made = make_locked([&] {
    temporary = ".new-" + random_hex(16);
    if (::mkdirat(fd_.get(), temporary.c_str(), 0755) != 0)
      return -errno;
    int fd = ::openat(fd_.get(), temporary.c_str(), directory);
    return fd < 0 ? -errno : fd;
  });
  if (made < 0)
    return unexpected(cannot_store(folder_, -made));
  unique_fd fd{made};
  auto ok = unpack_layer(store, layer, fd.get(), older, std::move(stop)).and_then([&] {
    return give_away(fd.get());
  });
  if (ok
      && ::renameat2(fd_.get(), temporary.c_str(), fd_.get(), name_of(layer).c_str(),
                     RENAME_NOREPLACE)
           != 0
      && errno != EEXIST) // another process was faster
    ok = unexpected(cannot_store(folder_, errno));
  fd.reset();
  (void) workspace::remove_tree(fd_.get(), temporary);
  return ok;
}

void layer_cache::trim() {
  if (!open_folder())
    return;
  std::vector<cached> all;
  uint64_t sum = 0;
  for (const auto& name : names_in(fd_.get())) {
    cached x{name, 0, {}};
    auto dot = name.find('.');
    struct stat st;
    if (dot == name.npos || ::fstatat(fd_.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    std::from_chars(name.data() + dot + 1, name.data() + name.size(), x.bytes);
    x.used = st.st_atim;
    sum += x.bytes;
    all.push_back(std::move(x));
  }
  if (sum <= max_bytes_)
    return;
  std::ranges::sort(all, [](const cached& a, const cached& b) {
    return std::pair{a.used.tv_sec, a.used.tv_nsec} < std::pair{b.used.tv_sec, b.used.tv_nsec};
  });
  for (const auto& x : all) {
    if (sum <= max_bytes_)
      return;
    unique_fd fd{::openat(fd_.get(), x.name.c_str(), directory)};
    if (!fd || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
      continue;
    auto gone = ".new-" + random_hex(16);
    if (::renameat(fd_.get(), x.name.c_str(), fd_.get(), gone.c_str()) != 0)
      continue;
    (void) workspace::remove_tree(fd_.get(), gone);
    sum -= x.bytes;
  }
}

} // namespace troupe::snapshot
