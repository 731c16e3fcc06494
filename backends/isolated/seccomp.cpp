#include "backends/isolated/seccomp.hpp"

#include "messages/unique_fd.hpp"

#include <linux/sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

namespace troupe::backends::isolated {

namespace {

/// Everything that programs do to files, memory, processes, sockets and time. Not in here on
/// purpose: mounts, old and new, namespaces, modules, bpf, io_uring, userfaultfd, keys, perf,
/// kexec, handles of files, other processes' memory, clocks, quotas, swap, fanotify.
constexpr const char* allowed[] = {"accept",
                                   "accept4",
                                   "access",
                                   "alarm",
                                   "arch_prctl",
                                   "bind",
                                   "brk",
                                   "cachestat",
                                   "capget",
                                   "capset",
                                   "chdir",
                                   "chmod",
                                   "chown",
                                   "clock_getres",
                                   "clock_gettime",
                                   "clock_nanosleep",
                                   "close",
                                   "close_range",
                                   "connect",
                                   "copy_file_range",
                                   "creat",
                                   "dup",
                                   "dup2",
                                   "dup3",
                                   "epoll_create",
                                   "epoll_create1",
                                   "epoll_ctl",
                                   "epoll_ctl_old",
                                   "epoll_pwait",
                                   "epoll_pwait2",
                                   "epoll_wait",
                                   "eventfd",
                                   "eventfd2",
                                   "execve",
                                   "execveat",
                                   "exit",
                                   "exit_group",
                                   "faccessat",
                                   "faccessat2",
                                   "fadvise64",
                                   "fallocate",
                                   "fchdir",
                                   "fchmod",
                                   "fchmodat",
                                   "fchmodat2",
                                   "fchown",
                                   "fchownat",
                                   "fcntl",
                                   "fdatasync",
                                   "fgetxattr",
                                   "flistxattr",
                                   "flock",
                                   "fork",
                                   "fremovexattr",
                                   "fsetxattr",
                                   "fstat",
                                   "fstatfs",
                                   "fsync",
                                   "ftruncate",
                                   "futex",
                                   "futex_requeue",
                                   "futex_wait",
                                   "futex_waitv",
                                   "futex_wake",
                                   "futimesat",
                                   "get_mempolicy",
                                   "get_robust_list",
                                   "get_thread_area",
                                   "getcpu",
                                   "getcwd",
                                   "getdents",
                                   "getdents64",
                                   "getegid",
                                   "geteuid",
                                   "getgid",
                                   "getgroups",
                                   "getitimer",
                                   "getpeername",
                                   "getpgid",
                                   "getpgrp",
                                   "getpid",
                                   "getppid",
                                   "getpriority",
                                   "getrandom",
                                   "getresgid",
                                   "getresuid",
                                   "getrlimit",
                                   "getrusage",
                                   "getsid",
                                   "getsockname",
                                   "getsockopt",
                                   "gettid",
                                   "gettimeofday",
                                   "getuid",
                                   "getxattr",
                                   "inotify_add_watch",
                                   "inotify_init",
                                   "inotify_init1",
                                   "inotify_rm_watch",
                                   "io_cancel",
                                   "io_destroy",
                                   "io_getevents",
                                   "io_pgetevents",
                                   "io_setup",
                                   "io_submit",
                                   "ioprio_get",
                                   "ioprio_set",
                                   "kill",
                                   "landlock_add_rule",
                                   "landlock_create_ruleset",
                                   "landlock_restrict_self",
                                   "lchown",
                                   "lgetxattr",
                                   "link",
                                   "linkat",
                                   "listen",
                                   "listxattr",
                                   "llistxattr",
                                   "lremovexattr",
                                   "lseek",
                                   "lsetxattr",
                                   "lstat",
                                   "madvise",
                                   "membarrier",
                                   "memfd_create",
                                   "mincore",
                                   "mkdir",
                                   "mkdirat",
                                   "mknod",
                                   "mknodat",
                                   "mlock",
                                   "mlock2",
                                   "mlockall",
                                   "mmap",
                                   "mprotect",
                                   "mq_getsetattr",
                                   "mq_notify",
                                   "mq_open",
                                   "mq_timedreceive",
                                   "mq_timedsend",
                                   "mq_unlink",
                                   "mremap",
                                   "mseal",
                                   "msgctl",
                                   "msgget",
                                   "msgrcv",
                                   "msgsnd",
                                   "msync",
                                   "munlock",
                                   "munlockall",
                                   "munmap",
                                   "nanosleep",
                                   "newfstatat",
                                   "open",
                                   "openat",
                                   "openat2",
                                   "pause",
                                   "pidfd_open",
                                   "pidfd_send_signal",
                                   "pipe",
                                   "pipe2",
                                   "pkey_alloc",
                                   "pkey_free",
                                   "pkey_mprotect",
                                   "poll",
                                   "ppoll",
                                   "prctl",
                                   "pread64",
                                   "preadv",
                                   "preadv2",
                                   "prlimit64",
                                   "process_mrelease",
                                   "pselect6",
                                   "ptrace",
                                   "pwrite64",
                                   "pwritev",
                                   "pwritev2",
                                   "read",
                                   "readahead",
                                   "readlink",
                                   "readlinkat",
                                   "readv",
                                   "recvfrom",
                                   "recvmmsg",
                                   "recvmsg",
                                   "remap_file_pages",
                                   "removexattr",
                                   "rename",
                                   "renameat",
                                   "renameat2",
                                   "restart_syscall",
                                   "rmdir",
                                   "rseq",
                                   "rt_sigaction",
                                   "rt_sigpending",
                                   "rt_sigprocmask",
                                   "rt_sigqueueinfo",
                                   "rt_sigreturn",
                                   "rt_sigsuspend",
                                   "rt_sigtimedwait",
                                   "rt_tgsigqueueinfo",
                                   "sched_get_priority_max",
                                   "sched_get_priority_min",
                                   "sched_getaffinity",
                                   "sched_getattr",
                                   "sched_getparam",
                                   "sched_getscheduler",
                                   "sched_rr_get_interval",
                                   "sched_setaffinity",
                                   "sched_setattr",
                                   "sched_setparam",
                                   "sched_setscheduler",
                                   "sched_yield",
                                   "seccomp",
                                   "select",
                                   "semctl",
                                   "semget",
                                   "semop",
                                   "semtimedop",
                                   "sendfile",
                                   "sendmmsg",
                                   "sendmsg",
                                   "sendto",
                                   "set_mempolicy",
                                   "set_robust_list",
                                   "set_thread_area",
                                   "set_tid_address",
                                   "setfsgid",
                                   "setfsuid",
                                   "setgid",
                                   "setgroups",
                                   "setitimer",
                                   "setpgid",
                                   "setpriority",
                                   "setregid",
                                   "setresgid",
                                   "setresuid",
                                   "setreuid",
                                   "setrlimit",
                                   "setsid",
                                   "setsockopt",
                                   "setuid",
                                   "setxattr",
                                   "shmat",
                                   "shmctl",
                                   "shmdt",
                                   "shmget",
                                   "shutdown",
                                   "sigaltstack",
                                   "signalfd",
                                   "signalfd4",
                                   "socketpair",
                                   "splice",
                                   "stat",
                                   "statfs",
                                   "statx",
                                   "symlink",
                                   "symlinkat",
                                   "sync",
                                   "sync_file_range",
                                   "syncfs",
                                   "sysinfo",
                                   "tee",
                                   "tgkill",
                                   "time",
                                   "timer_create",
                                   "timer_delete",
                                   "timer_getoverrun",
                                   "timer_gettime",
                                   "timer_settime",
                                   "timerfd_create",
                                   "timerfd_gettime",
                                   "timerfd_settime",
                                   "times",
                                   "tkill",
                                   "truncate",
                                   "umask",
                                   "uname",
                                   "unlink",
                                   "unlinkat",
                                   "utime",
                                   "utimensat",
                                   "utimes",
                                   "vfork",
                                   "vmsplice",
                                   "wait4",
                                   "waitid",
                                   "write",
                                   "writev"};

/// What no program calls but to get out, or to do what only an administrator may: init is asked,
/// refuses it and tells of it. Everything else that is not allowed is refused by the kernel alone.
constexpr const char* told[] = {"acct",
                                "add_key",
                                "bpf",
                                "chroot",
                                "clock_adjtime",
                                "clock_settime",
                                "delete_module",
                                "fanotify_init",
                                "finit_module",
                                "fsconfig",
                                "fsmount",
                                "fsopen",
                                "fspick",
                                "init_module",
                                "io_uring_enter",
                                "io_uring_register",
                                "io_uring_setup",
                                "iopl",
                                "ioperm",
                                "kcmp",
                                "kexec_file_load",
                                "kexec_load",
                                "keyctl",
                                "mount",
                                "mount_setattr",
                                "move_mount",
                                "name_to_handle_at",
                                "open_by_handle_at",
                                "open_tree",
                                "perf_event_open",
                                "pidfd_getfd",
                                "pivot_root",
                                "process_madvise",
                                "process_vm_readv",
                                "process_vm_writev",
                                "quotactl",
                                "quotactl_fd",
                                "reboot",
                                "request_key",
                                "setdomainname",
                                "sethostname",
                                "setns",
                                "settimeofday",
                                "swapoff",
                                "swapon",
                                "syslog",
                                "umount2",
                                "unshare",
                                "userfaultfd",
                                "vhangup"};

constexpr uint64_t namespace_flags = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC
                                     | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
                                     | 0x80 /* CLONE_NEWTIME */;

/// Types into, or takes over, a terminal of another.
constexpr uint64_t tiocsti = 0x5412;
constexpr uint64_t tioclinux = 0x541C;

error failed(int code) {
  return make_error(errc::sandbox_config_invalid, op::start,
                    std::string{"cannot build the seccomp filter: "} + std::strerror(-code))
    .with("wall", "seccomp");
}

} // namespace

result<std::string> build_seccomp_filter() {
  std::unique_ptr<void, void (*)(void*)> owner{seccomp_init(SCMP_ACT_ERRNO(EPERM)),
                                               seccomp_release};
  auto filter = owner.get();
  if (filter == nullptr)
    return unexpected{failed(-ENOMEM)};
  int first_error = 0;
  auto add = [&](uint32_t action, const char* name, std::initializer_list<scmp_arg_cmp> when = {}) {
    auto number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR)
      return; // the library is older than the call: then it stays forbidden
    auto done = seccomp_rule_add_array(filter, action, number, static_cast<unsigned>(when.size()),
                                       when.begin());
    // Some calls do not exist on every processor.
    if (done != 0 && done != -EDOM && first_error == 0)
      first_error = done;
  };
  seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); // a search tree instead of a list
  seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0);
  for (auto name : allowed)
    add(SCMP_ACT_ALLOW, name);
  add(SCMP_ACT_ALLOW, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, namespace_flags, 0)});
  for (int bit = 0; bit < 32; ++bit)
    if (auto flag = namespace_flags & (1ULL << bit); flag != 0)
      add(SCMP_ACT_NOTIFY, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag)});
  for (auto name : told)
    add(SCMP_ACT_NOTIFY, name);
  for (auto request : {tiocsti, tioclinux})
    add(SCMP_ACT_NOTIFY, "ioctl", {SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffULL, request)});
  // Its flags are behind a pointer; libc falls back to clone.
  add(SCMP_ACT_ERRNO(ENOSYS), "clone3");
  // libseccomp has no "neither of these", and the kernel looks at the low half only: every prefix
  // of bits that neither has.
  std::function<void(int, uint64_t)> allow_others = [&](int bit, uint64_t prefix) {
    auto mask = 0xffffffffULL & ~((1ULL << bit) - 1);
    auto leads_to = [&](uint64_t x) { return (x & mask) == prefix; };
    if (!leads_to(tiocsti) && !leads_to(tioclinux))
      add(SCMP_ACT_ALLOW, "ioctl", {SCMP_A1(SCMP_CMP_MASKED_EQ, mask, prefix)});
    else if (bit > 0)
      for (auto next : {uint64_t{0}, uint64_t{1}})
        allow_others(bit - 1, prefix | (next << (bit - 1)));
  };
  allow_others(32, 0);
  for (auto family : {AF_UNIX, AF_INET, AF_INET6})
    add(SCMP_ACT_ALLOW, "socket", {SCMP_A0(SCMP_CMP_EQ, static_cast<uint64_t>(family))});
  add(SCMP_ACT_ALLOW, "socket",
      {SCMP_A0(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2(SCMP_CMP_EQ, 0 /* NETLINK_ROUTE */)});
  for (uint64_t persona : {0UL, 0x0008UL, 0x20000UL, 0x20008UL, 0x40000UL, 0xffffffffUL})
    add(SCMP_ACT_ALLOW, "personality", {SCMP_A0(SCMP_CMP_EQ, persona)});
  if (first_error != 0)
    return unexpected{failed(first_error)};

  unique_fd file{::memfd_create("seccomp", MFD_CLOEXEC)};
  if (!file)
    return unexpected{failed(-errno)};
  if (auto done = seccomp_export_bpf(filter, file.get()); done != 0)
    return unexpected{failed(done)};
  std::string out(static_cast<size_t>(::lseek(file.get(), 0, SEEK_END)), '\0');
  if (::pread(file.get(), out.data(), out.size(), 0) != static_cast<ssize_t>(out.size()))
    return unexpected{failed(-EIO)};
  return out;
}

std::string name_of_call(int number) {
  std::unique_ptr<char, void (*)(void*)> name{
    seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number), std::free};
  return name ? name.get() : std::to_string(number);
}

} // namespace troupe::backends::isolated
