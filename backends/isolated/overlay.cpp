#include "backends/isolated/overlay.hpp"

#include "backends/backend.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <set>
#include <utility>

namespace troupe::backends::isolated {

namespace {

/// The tree that is not the session's: not yet, or not any more.
constexpr const char* spare_dir = ".overlay";

error no_layers(const std::string& what, int code) {
  auto cause = what + ": " + std::strerror(code);
  auto e = make_error(code == ENOSPC || code == EDQUOT ? errc::no_space : errc::backend_unavailable,
                      op::start, "the workspace cannot lie on layers: " + cause);
  return e.with("wall", "layers").with("cause", cause);
}

std::string in_proc(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

/// One layer as the sandbox's user sees it.
result<unique_fd> mapped_layer(const std::string& folder, int user_ns) {
  unique_fd fd{static_cast<int>(
    ::syscall(SYS_open_tree, AT_FDCWD, folder.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC))};
  if (!fd)
    return unexpected{no_layers("opening a layer", errno)};
  mount_attr attr{};
  attr.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY;
  attr.userns_fd = static_cast<uint64_t>(user_ns);
  if (::syscall(SYS_mount_setattr, fd.get(), "", AT_EMPTY_PATH, &attr, sizeof attr) != 0)
    return unexpected{no_layers("mapping the ids of a layer", errno)};
  return fd;
}

bool rename_in(const std::string& dir, const char* from, const char* to, unsigned how) {
  return ::renameat2(AT_FDCWD, (dir + '/' + from).c_str(), AT_FDCWD, (dir + '/' + to).c_str(), how)
         == 0;
}

} // namespace

result<unique_fd> mount_overlay(const overlay_plan& plan, int user_ns) {
  unique_fd fs{static_cast<int>(::syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC))};
  if (!fs)
    return unexpected{no_layers("overlay file system", errno)};
  auto set = [&](const char* key, const std::string& value) {
    return ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
  };
  std::vector<unique_fd> layers;
  std::set<std::string> laid;
  for (auto i = plan.folders.rbegin(); i != plan.folders.rend(); ++i) {
    // What changes there and back makes the same layer twice, which no overlay takes. Whatever the
    // older one says, the newer says over all between them.
    if (!laid.insert(*i).second)
      continue;
    auto layer = mapped_layer(*i, user_ns);
    if (!layer)
      return layer;
    if (!set("lowerdir+", in_proc(layer->get())))
      return unexpected{no_layers("laying one layer upon another", errno)};
    layers.push_back(std::move(*layer));
  }
  for (auto [key, value] : {std::pair{"upperdir", &plan.upper}, std::pair{"workdir", &plan.work}})
    if (!set(key, *value))
      return unexpected{no_layers(*value, errno)};
  // Off, whatever the module's defaults: what they note down would not be in a snapshot.
  // With `off`, redirections that a layer brings along would be followed.
  for (auto [key, value] : {std::pair{"redirect_dir", "nofollow"}, std::pair{"metacopy", "off"},
                            std::pair{"index", "off"}, std::pair{"xino", "off"}})
    if (!set(key, value))
      return unexpected{no_layers(key, errno)};
  // Otherwise the end of each sandbox waits until all that anybody wrote is on the disk.
  if (::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_FLAG, "volatile", nullptr, 0) != 0
      || ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return unexpected{no_layers("mounting the overlay", errno)};
  unique_fd mount{static_cast<int>(
    ::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV))};
  if (!mount)
    return unexpected{no_layers("mounting the overlay", errno)};
  return mount;
}

// -- on the disk ---------------------------------------------------------------------------------

std::optional<held_layers> layers_below(const std::string& private_dir) {
  std::array<char, PATH_MAX> text;
  auto n
    = ::readlink((private_dir + '/' + overlay_dir + "/lower").c_str(), text.data(), text.size());
  if (n <= 0)
    return std::nullopt;
  std::string_view all{text.data(), static_cast<size_t>(n)};
  auto colon = all.find(':');
  if (colon == all.npos)
    return std::nullopt;
  return held_layers{std::string{all.substr(colon + 1)}, std::string{all.substr(0, colon)}};
}

result<overlay_swap> overlay_swap::make(const std::string& private_dir, const held_layers& below,
                                        unsigned mode) {
  sweep_overlay(private_dir);
  auto spare = private_dir + '/' + spare_dir;
  auto failed = [&] { return unexpected{no_layers(spare, errno)}; };
  if (::mkdir(spare.c_str(), 0700) != 0 || ::mkdir((spare + "/upper").c_str(), 0700) != 0
      || ::chmod((spare + "/upper").c_str(), mode & 07777) != 0
      || ::symlink((below.id + ':' + below.base_path).c_str(), (spare + "/lower").c_str()) != 0)
    return failed();
  overlay_swap out;
  out.replaced_ = rename_in(private_dir, spare_dir, overlay_dir, RENAME_EXCHANGE);
  if (!out.replaced_ && !rename_in(private_dir, spare_dir, overlay_dir, RENAME_NOREPLACE))
    return failed();
  out.dir_ = private_dir;
  return out;
}

overlay_swap::overlay_swap(overlay_swap&& other) noexcept
  : dir_(std::exchange(other.dir_, {})), replaced_(other.replaced_) {}

overlay_swap::~overlay_swap() {
  if (dir_.empty())
    return;
  rename_in(dir_, overlay_dir, spare_dir, replaced_ ? RENAME_EXCHANGE : RENAME_NOREPLACE);
  sweep_overlay(dir_);
}

void overlay_swap::keep() {
  sweep_overlay(std::exchange(dir_, {}));
}

result<void> drop_overlay(const std::string& private_dir) {
  sweep_overlay(private_dir);
  if (!rename_in(private_dir, overlay_dir, spare_dir, RENAME_NOREPLACE) && errno != ENOENT)
    return unexpected{no_layers(private_dir, errno)};
  sweep_overlay(private_dir);
  return {};
}

result<void> prepare_overlay(const std::string& private_dir) {
  // A new one each time: the kernel does not take that of an overlay that was volatile.
  auto work = private_dir + '/' + overlay_dir + "/work";
  if (auto gone = workspace::remove_tree_at(work); !gone)
    return gone;
  if (::mkdir(work.c_str(), 0700) != 0)
    return unexpected{no_layers(work, errno)};
  return {};
}

void sweep_overlay(const std::string& private_dir) {
  (void) workspace::remove_tree_at(private_dir + '/' + spare_dir);
}

} // namespace troupe::backends::isolated
