#pragma once

#include "backends/isolated/seccomp.hpp"
#include "bench/support.hpp"

#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <linux/filter.h>

extern "C" int mount(const char*, const char*, const char*, unsigned long, const void*) noexcept;
extern "C" int umount2(const char*, int) noexcept;

// The same walls as an isolated sandbox's, with the fewest calls: the kernel's own price. What it
// starts is one program with two pipes, by a clone that borrows our memory.

namespace troupe::bench {

struct by_hand {
  std::string workspace; ///< empty directory, mounted at itself
  std::string stage;     ///< empty directory, to pivot on
  std::string filter;    ///< the sandbox's own
  const char* program = nullptr;
  int pipes[2] = {-1, -1}; ///< ends that the program writes to
  int failed = 0;          ///< line in this file

  /// Makes it, runs the program as a child of its first process, reads its output to the end.
  void run();

  /// In a child with new namespaces.
  bool enter();
  int start_and_wait() const;
};

namespace hand {

constexpr uint64_t namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC
                                | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;

inline bool put_text(const char* path, const char* text) {
  int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  auto n = ::write(fd, text, std::strlen(text));
  ::close(fd);
  return n > 0;
}

inline int tree(const char* path, unsigned flags = 0) {
  return static_cast<int>(
    ::syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags));
}

inline bool put(int fd, int at, const char* path) {
  auto ok = ::syscall(SYS_move_mount, fd, "", at, path, MOVE_MOUNT_F_EMPTY_PATH) == 0;
  ::close(fd);
  return ok;
}

inline int fresh(const char* type, unsigned attributes) {
  auto fs = static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
  ::syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
  auto out = static_cast<int>(::syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes));
  ::close(fs);
  return out;
}

inline bool landlock(const char* workspace) {
  landlock_ruleset_attr rights{};
  rights.handled_access_fs = (1ULL << 13) - 1;
  auto rules = static_cast<int>(
    ::syscall(SYS_landlock_create_ruleset, &rights, sizeof rights.handled_access_fs, 0));
  const uint64_t read
    = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
  for (auto [path, may] : std::initializer_list<std::pair<const char*, uint64_t>>{
         {"/", read}, {workspace, (1ULL << 13) - 1}, {"/dev", (1ULL << 13) - 1}, {"/proc", read}}) {
    landlock_path_beneath_attr one{};
    one.allowed_access = may;
    one.parent_fd = ::open(path, O_PATH | O_CLOEXEC);
    ::syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &one, 0);
    ::close(one.parent_fd);
  }
  auto ok = ::syscall(SYS_landlock_restrict_self, rules, 0) == 0;
  ::close(rules);
  return ok;
}

/// clone with our memory; we wait until its exec or end.
inline pid_t borrow(uint64_t flags, int (*entry)(void*), void* argument, char* stack, size_t size) {
  return ::clone(entry, stack + size, static_cast<int>(flags | CLONE_VM | CLONE_VFORK | SIGCHLD),
                 argument);
}

inline char outer_stack[256 * 1024];
inline char inner_stack[64 * 1024];

} // namespace hand

#define TROUPE_HAND(condition)                                                                     \
  if (!(condition)) {                                                                              \
    failed = __LINE__;                                                                             \
    return false;                                                                                  \
  }

inline bool by_hand::enter() {
  using namespace hand;
  TROUPE_HAND(put_text("/proc/self/setgroups", "deny") && put_text("/proc/self/uid_map", "0 0 1")
              && put_text("/proc/self/gid_map", "0 0 1"));
  int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq lo{};
  std::strcpy(lo.ifr_name, "lo");
  lo.ifr_flags = IFF_UP | IFF_RUNNING;
  TROUPE_HAND(::ioctl(socket, SIOCSIFFLAGS, &lo) == 0);
  ::close(socket);
  TROUPE_HAND(::sethostname("sandbox", 7) == 0);
  TROUPE_HAND(::mount(nullptr, "/", nullptr, 16384 | (1 << 18), nullptr) == 0); // private
  auto inside = tree(workspace.c_str());
  int devices[6];
  const char* names[6] = {"null", "zero", "full", "random", "urandom", "tty"};
  for (int i = 0; i < 6; ++i)
    devices[i] = tree((std::string{"/dev/"} + names[i]).c_str());
  auto root = tree("/", AT_RECURSIVE);
  mount_attr read_only{};
  read_only.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
  TROUPE_HAND(::syscall(SYS_mount_setattr, root, "", AT_EMPTY_PATH | AT_RECURSIVE, &read_only,
                        sizeof read_only)
              == 0);
  TROUPE_HAND(::syscall(SYS_move_mount, root, "", AT_FDCWD, stage.c_str(), MOVE_MOUNT_F_EMPTY_PATH)
              == 0);
  TROUPE_HAND(put(inside, root, workspace.c_str() + 1));
  TROUPE_HAND(put(fresh("proc", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV), root, "proc"));
  auto dev = fresh("tmpfs", MOUNT_ATTR_NOSUID);
  TROUPE_HAND(::syscall(SYS_move_mount, dev, "", root, "dev", MOVE_MOUNT_F_EMPTY_PATH) == 0);
  for (int i = 0; i < 6; ++i) {
    ::close(::openat(dev, names[i], O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
    TROUPE_HAND(put(devices[i], dev, names[i]));
  }
  ::mkdirat(dev, "shm", 0777);
  ::mkdirat(dev, "pts", 0755);
  TROUPE_HAND(put(fresh("devpts", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), dev, "pts"));
  TROUPE_HAND(put(fresh("tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV), dev, "shm"));
  TROUPE_HAND(put(fresh("tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV), root, "mnt"));
  ::close(dev);
  TROUPE_HAND(::fchdir(root) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0
              && ::umount2(".", 2) == 0 && ::chdir("/") == 0);
  ::close(root);
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  TROUPE_HAND(hand::landlock("/mnt"));
  sock_fprog code{static_cast<unsigned short>(filter.size() / sizeof(sock_filter)),
                  reinterpret_cast<sock_filter*>(filter.data())};
  TROUPE_HAND(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &code) == 0);
  return true;
}

#undef TROUPE_HAND

inline int by_hand::start_and_wait() const {
  auto child = hand::borrow(
    0,
    [](void* argument) {
      auto& x = *static_cast<const by_hand*>(argument);
      ::dup2(x.pipes[0], 1);
      ::dup2(x.pipes[1], 2);
      char* argv[] = {const_cast<char*>(x.program), nullptr};
      char* env[] = {nullptr};
      ::execve(x.program, argv, env);
      return 127;
    },
    const_cast<by_hand*>(this), hand::inner_stack, sizeof hand::inner_stack);
  int status = -1;
  ::waitpid(child, &status, 0);
  return status == 0 ? 0 : 1;
}

inline void by_hand::run() {
  int out[2];
  int err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0)
    die("pipe2");
  pipes[0] = out[1];
  pipes[1] = err[1];
  auto child = hand::borrow(
    hand::namespaces,
    [](void* argument) {
      auto& x = *static_cast<by_hand*>(argument);
      return x.enter() ? x.start_and_wait() : 1;
    },
    this, hand::outer_stack, sizeof hand::outer_stack);
  ::close(out[1]);
  ::close(err[1]);
  std::array<unique_fd, 2> ends{unique_fd{out[0]}, unique_fd{err[0]}};
  read_to_end(ends);
  int status = -1;
  ::waitpid(child, &status, 0);
  if (child < 0 || status != 0)
    die("a sandbox by hand, line " + std::to_string(failed));
}

/// A process inside such walls that starts programs when it is told to over a socket, with the ends
/// of the pipes.
class hand_helper {
public:
  explicit hand_helper(by_hand walls) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
      die("socketpair");
    clone_args args{};
    args.flags = hand::namespaces;
    args.exit_signal = SIGCHLD;
    pid_ = static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
    if (pid_ == 0) {
      ::close(ends[0]);
      ::_exit(walls.enter() ? serve(walls, ends[1]) : 1);
    }
    ::close(ends[1]);
    socket_.reset(ends[0]);
  }
  hand_helper(const hand_helper&) = delete;
  hand_helper& operator=(const hand_helper&) = delete;
  ~hand_helper() {
    socket_.reset();
    ::waitpid(pid_, nullptr, 0);
  }

  /// Has the program run, and reads both outputs to the end.
  void run() {
    int out[2];
    int err[2];
    if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0)
      die("pipe2");
    int fds[] = {out[1], err[1]};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)]{};
    char go = 1;
    iovec part{&go, 1};
    msghdr m{};
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    auto c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fds);
    std::memcpy(CMSG_DATA(c), fds, sizeof fds);
    if (::sendmsg(socket_.get(), &m, MSG_NOSIGNAL) != 1)
      die("the helper by hand");
    ::close(out[1]);
    ::close(err[1]);
    std::array<unique_fd, 2> ends{unique_fd{out[0]}, unique_fd{err[0]}};
    read_to_end(ends);
    char answer = 0;
    if (::recv(socket_.get(), &answer, 1, 0) != 1 || answer != 0)
      die("the program of the helper by hand");
  }

private:
  static int serve(by_hand& walls, int socket) {
    for (;;) {
      alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))];
      char go = 0;
      iovec part{&go, 1};
      msghdr m{};
      m.msg_iov = &part;
      m.msg_iovlen = 1;
      m.msg_control = control;
      m.msg_controllen = sizeof control;
      if (::recvmsg(socket, &m, MSG_CMSG_CLOEXEC) != 1)
        return 0;
      std::memcpy(walls.pipes, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof walls.pipes);
      auto answer = static_cast<char>(walls.start_and_wait());
      ::close(walls.pipes[0]);
      ::close(walls.pipes[1]);
      ::send(socket, &answer, 1, MSG_NOSIGNAL);
    }
  }

  pid_t pid_ = -1;
  unique_fd socket_;
};

} // namespace troupe::bench
