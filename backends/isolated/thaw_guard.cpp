#include "backends/isolated/thaw_guard.hpp"

#include "backends/isolated/launch.hpp"
#include "messages/unique_fd.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace troupe::backends::isolated {

namespace {

/// Our end of the pipe to a process that lets the group go on when that end is closed. Swept like
/// every child that nobody waits for.
unique_fd start_guard(const cgroup& group) {
  auto program = init_program();
  unique_fd control{::openat(group.directory()->get(), "cgroup.freeze", O_WRONLY | O_CLOEXEC)};
  int ends[2];
  if (program < 0 || !control || ::pipe2(ends, O_CLOEXEC) != 0)
    return {};
  unique_fd theirs{ends[0]};
  unique_fd ours{ends[1]};
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_adddup2(&files, theirs.get(), 0);
  // Nothing of ours shall stay open in it, also not what we print to.
  ::posix_spawn_file_actions_adddup2(&files, control.get(), 1);
  ::posix_spawn_file_actions_adddup2(&files, control.get(), 2);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
  char name[] = "troupe-thaw";
  char mode[] = "thaw";
  char* argv[] = {name, mode, nullptr};
  char* env[] = {nullptr};
  pid_t pid;
  auto path = "/proc/self/fd/" + std::to_string(program);
  auto failed = ::posix_spawn(&pid, path.c_str(), &files, &attributes, argv, env);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
  return failed == 0 ? std::move(ours) : unique_fd{};
}

/// A group that stands still.
class frozen {
public:
  frozen(std::shared_ptr<const cgroup> group, unique_fd guard)
    : group_(std::move(group)), guard_(std::move(guard)) {}
  ~frozen() {
    group_->freeze(false);
    // Only now, and so that it does not thaw what somebody else has frozen since.
    (void) !::write(guard_.get(), "", 1);
  }
  frozen(const frozen&) = delete;
  frozen& operator=(const frozen&) = delete;

private:
  std::shared_ptr<const cgroup> group_;
  unique_fd guard_;
};

} // namespace

std::shared_ptr<const void> freeze_guarded(std::shared_ptr<const cgroup> group) {
  auto guard = start_guard(*group);
  if (!guard)
    return nullptr;
  auto held = std::make_shared<frozen>(group, std::move(guard));
  return group->freeze(true) ? held : nullptr;
}

} // namespace troupe::backends::isolated
