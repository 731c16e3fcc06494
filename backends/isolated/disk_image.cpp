#include "backends/isolated/disk_image.hpp"

#include "messages/ids.hpp"
#include "messages/unique_fd.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/loop.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <vector>

namespace troupe::backends::isolated {

namespace {

namespace fs = std::filesystem;

/// Sizes of which an empty file system is kept; each takes some hundred KiB.
constexpr size_t max_templates = 32;
/// Below it, a journal would take most of the space.
constexpr int64_t smallest_with_journal = int64_t{64} << 20;

std::atomic<bool> own_mounts{false};
std::mutex making; ///< one template at a time

error cannot(const std::string& why) {
  return make_error(errc::sandbox_config_invalid, op::start,
                    "the wall `disk` cannot be had: " + why)
    .with("wall", "disk")
    .with("cause", why);
}

error cannot(const std::string& what, int code) {
  auto e = cannot(what + ": " + std::strerror(code));
  if (code == ENOSPC || code == EDQUOT || code == ENOMEM || code == EAGAIN)
    e.retryable = true;
  return e;
}

result<void> run_mkfs(spawner& starts, const std::string& image, const disk_size& size) {
  std::string program;
  for (auto path : {"/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"})
    if (program.empty() && ::access(path, X_OK) == 0)
      program = path;
  if (program.empty())
    return unexpected{cannot("there is no mkfs.ext4 (package e2fsprogs)")};
  spawn_request request;
  request.argv = {program, "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"};
  if (size.inodes > 0)
    request.argv.insert(request.argv.end(), {"-N", std::to_string(size.inodes)});
  if (size.bytes < smallest_with_journal)
    request.argv.insert(request.argv.end(), {"-O", "^has_journal"});
  request.argv.push_back(image);
  request.cwd = "/";
  request.env = {"PATH=/usr/sbin:/sbin:/usr/bin:/bin"};
  auto started = std::make_shared<std::promise<result<spawned>>>();
  auto process = started->get_future();
  if (!starts.submit(std::move(request),
                     [started](result<spawned> x) { started->set_value(std::move(x)); }))
    return unexpected{cannot("too many programs are waiting to start")};
  auto running = process.get();
  if (!running)
    return unexpected{cannot(running.error().message)};
  pollfd ended{running->pidfd.get(), POLLIN, 0};
  while (::poll(&ended, 1, -1) < 0 && errno == EINTR) {
  }
  if (auto code = starts.reap(*running); code.value_or(0) != 0)
    return unexpected{cannot("mkfs.ext4 failed for " + std::to_string(size.bytes) + " bytes and "
                             + std::to_string(size.inodes) + " inodes")};
  return {};
}

unique_fd new_file(const std::string& path, int64_t bytes) {
  unique_fd fd{::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  if (fd && ::ftruncate(fd.get(), bytes) != 0)
    fd.reset();
  return fd;
}

/// Without its holes.
bool copy_data_of(int from, int to) {
  for (off_t at = 0;;) {
    auto begin = ::lseek(from, at, SEEK_DATA);
    if (begin < 0)
      return errno == ENXIO;
    auto end = ::lseek(from, begin, SEEK_HOLE);
    if (end < 0)
      return false;
    off_t in = begin;
    off_t out = begin;
    while (in < end) {
      auto n = ::copy_file_range(from, &in, to, &out, static_cast<size_t>(end - in), 0);
      if (n <= 0 && errno != EINTR)
        return false;
    }
    at = end;
  }
}

/// The device that has this file already, if any.
unique_fd attached_device(const std::string& image, std::string& path) {
  struct stat wanted {};
  if (::stat(image.c_str(), &wanted) != 0)
    return {};
  std::error_code ignored;
  for (const auto& x : fs::directory_iterator{"/sys/block", ignored}) {
    auto name = x.path().filename().string();
    std::string backing;
    if (name.compare(0, 4, "loop") != 0
        || !std::getline(std::ifstream{x.path() / "loop/backing_file"}, backing)
        || fs::path{backing}.filename() != fs::path{image}.filename())
      continue;
    unique_fd device{::open(("/dev/" + name).c_str(), O_RDWR | O_CLOEXEC)};
    loop_info64 info{};
    if (device && ::ioctl(device.get(), LOOP_GET_STATUS64, &info) == 0
        && info.lo_inode == wanted.st_ino && info.lo_device == wanted.st_dev) {
      path = "/dev/" + name;
      return device;
    }
  }
  return {};
}

/// A device for the file, freed with its last mount.
result<unique_fd> attach(const std::string& image, std::string& path) {
  if (auto device = attached_device(image, path))
    return device;
  unique_fd file{::open(image.c_str(), O_RDWR | O_CLOEXEC)};
  unique_fd control{::open("/dev/loop-control", O_RDWR | O_CLOEXEC)};
  if (!file || !control)
    return unexpected{cannot(control ? image : "/dev/loop-control", errno)};
  for (int tries = 0; tries < 64; ++tries) {
    auto number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0)
      return unexpected{cannot("a free loop device", errno)};
    path = "/dev/loop" + std::to_string(number);
    unique_fd device{::open(path.c_str(), O_RDWR | O_CLOEXEC)};
    if (!device && errno == ENOENT) {
      constexpr unsigned loop_major = 7;
      if (::mknod(path.c_str(), S_IFBLK | 0600, makedev(loop_major, static_cast<unsigned>(number)))
            != 0
          && errno != EEXIST)
        return unexpected{cannot(path, errno)};
      device.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    }
    if (!device)
      return unexpected{cannot(path, errno)};
    loop_config config{};
    config.fd = static_cast<uint32_t>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0)
      return device;
    if (errno != EBUSY) // else somebody was faster
      return unexpected{cannot(path, errno)};
  }
  return unexpected{cannot("a free loop device", EAGAIN)};
}

} // namespace

result<void> leave_the_host_s_mounts() {
  if (::unshare(CLONE_NEWNS) != 0
      || ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return unexpected{cannot("mounts of the server's own", errno)};
  own_mounts = true;
  return {};
}

disk_image::disk_image(std::string folder, std::string templates)
  : folder_(std::move(folder)), templates_(std::move(templates)) {}

bool disk_image::is_mounted() const {
  struct stat inner {};
  struct stat outer {};
  return ::stat((folder_ + "/disk").c_str(), &inner) == 0 && ::stat(folder_.c_str(), &outer) == 0
         && inner.st_dev != outer.st_dev;
}

result<void> disk_image::make(spawner& starts, const disk_size& size) const {
  auto empty
    = templates_ + "/disk-" + std::to_string(size.bytes) + "-" + std::to_string(size.inodes);
  unique_fd from;
  {
    std::lock_guard guard{making};
    if (auto ok = workspace::open_or_make_directory(templates_, 0700); !ok)
      return unexpected{std::move(ok.error())};
    from.reset(::open(empty.c_str(), O_RDONLY | O_CLOEXEC));
    if (!from) {
      std::vector<fs::path> known;
      std::error_code ignored;
      for (const auto& x : fs::directory_iterator{templates_, ignored})
        if (x.path().filename().string().compare(0, 5, "disk-") == 0)
          known.push_back(x.path());
      if (known.size() >= max_templates)
        for (const auto& x : known)
          ::unlink(x.c_str());
      auto beside = empty + "." + random_hex(4);
      auto file = new_file(beside, size.bytes);
      auto made = file ? run_mkfs(starts, beside, size) : unexpected{cannot(beside, errno)};
      if (made && ::rename(beside.c_str(), empty.c_str()) != 0)
        made = unexpected{cannot(empty, errno)};
      if (!made) {
        ::unlink(beside.c_str());
        return made;
      }
      from = std::move(file);
    }
  }
  auto image = folder_ + "/disk.img";
  auto beside = image + ".new";
  ::unlink(beside.c_str());
  auto file = new_file(beside, size.bytes);
  if (!file || !copy_data_of(from.get(), file.get())
      || ::rename(beside.c_str(), image.c_str()) != 0)
    return unexpected{cannot(image, errno)};
  return {};
}

result<void> disk_image::open(spawner& starts, const disk_size& size) const {
  if (!own_mounts)
    return unexpected{cannot("only a server that runs as root and is configured for it "
                             "(`isolated.disk`: \"image\") holds one")};
  if (is_mounted())
    return {};
  auto image = folder_ + "/disk.img";
  if (::access(image.c_str(), F_OK) != 0)
    if (auto made = make(starts, size); !made)
      return made;
  auto place = folder_ + "/disk";
  if (::mkdir(place.c_str(), 0700) != 0 && errno != EEXIST)
    return unexpected{cannot(place, errno)};
  std::string path;
  auto device = attach(image, path);
  if (!device)
    return unexpected{std::move(device.error())};
  if (::mount(path.c_str(), place.c_str(), "ext4", MS_NOSUID | MS_NODEV, "errors=remount-ro") != 0)
    return unexpected{cannot("mounting " + image, errno)};
  // Whoever walks inside to the workspace needs no more than to pass.
  ::chmod(place.c_str(), 0711);
  return {};
}

void disk_image::unmount() const {
  if (own_mounts && is_mounted())
    ::umount2((folder_ + "/disk").c_str(), MNT_DETACH);
}

int64_t disk_image::used_bytes() const {
  struct statvfs info {};
  if (!is_mounted() || ::statvfs((folder_ + "/disk").c_str(), &info) != 0)
    return 0;
  return static_cast<int64_t>((info.f_blocks - info.f_bfree) * info.f_frsize);
}

} // namespace troupe::backends::isolated
