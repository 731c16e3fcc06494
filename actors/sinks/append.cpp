#include "actors/sinks/append.hpp"

#include "messages/unique_fd.hpp"
#include "workspace/file_errors.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

namespace troupe::actors {

namespace {

constexpr int flags = O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC;

/// 0, or errno.
int lock(int fd) {
  constexpr int tries = 100;
  for (int i = 0; i < tries; ++i) {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0)
      return 0;
    if (errno != EWOULDBLOCK && errno != EINTR)
      return 0; // this file system has no locks; O_APPEND has to do
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
  }
  return EWOULDBLOCK;
}

/// 0, or errno. Leaves no torn line behind.
int append_whole(int fd, off_t size_before, std::string_view text) {
  int written = workspace::write_all(fd, text.data(), text.size());
  if (written >= 0)
    return 0;
  (void) ::ftruncate(fd, size_before);
  return -written;
}

} // namespace

result<void> append_to_file(const std::string& path, std::string_view text) {
  std::error_code failed;
  if (auto parent = std::filesystem::path{path}.parent_path(); !parent.empty())
    std::filesystem::create_directories(parent, failed);
  if (failed)
    return unexpected(workspace::write_failure(failed.value(), path, path));
  unique_fd fd{::open(path.c_str(), flags, 0600)};
  struct stat info;
  if (!fd || ::fstat(fd.get(), &info) != 0)
    return unexpected(workspace::write_failure(errno, path, path));
  if (!S_ISREG(info.st_mode))
    return unexpected(workspace::write_failure(ENXIO, path, path));
  if (int err = lock(fd.get()); err != 0)
    return unexpected(workspace::write_failure(err, path, path));
  if (::fstat(fd.get(), &info) != 0)
    return unexpected(workspace::write_failure(errno, path, path));
  if (int err = append_whole(fd.get(), info.st_size, text); err != 0)
    return unexpected(workspace::write_failure(err, path, path));
  return {};
}

result<void> append_beneath(int root_fd, const std::string& path, std::string_view text) {
  auto [parent, name] = workspace::split_last(path);
  unique_fd folder;
  int opened = workspace::open_or_make_beneath(root_fd, parent);
  if (opened >= 0) {
    folder.reset(opened);
    opened = workspace::open_beneath(opened, name, flags | O_NOFOLLOW, 0644);
  }
  if (opened < 0)
    return unexpected(workspace::write_failure(-opened, path, path));
  unique_fd fd{opened};
  struct stat info;
  if (::fstat(fd.get(), &info) != 0)
    return unexpected(workspace::write_failure(errno, path, path));
  // A second name may be a file outside that the agent must not be able to have us write to.
  if (!S_ISREG(info.st_mode) || info.st_nlink > 1)
    return unexpected(workspace::write_failure(ENXIO, path, path));
  if (int err = append_whole(fd.get(), info.st_size, text); err != 0)
    return unexpected(workspace::write_failure(err, path, path));
  return {};
}

} // namespace troupe::actors
