#include "backends/isolated/seccomp.hpp"

#include "messages/unique_fd.hpp"

#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <set>
#include <string_view>
#include <vector>

namespace troupe::backends::isolated {

namespace {

/// Everything that programs do to files, memory, processes, sockets and time. Not in here on
/// purpose: mounts, old and new, namespaces, modules, bpf, io_uring, userfaultfd, keys, perf,
/// kexec, handles of files, other processes' memory, clocks, quotas, swap, fanotify.
/// What depends on arguments stands below.
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

/// Newer than the library may be; the same on every processor.
constexpr struct {
  const char* name;
  int number;
} newer[]
  = {{"cachestat", 451},     {"fchmodat2", 452}, {"futex_wake", 454},      {"futex_wait", 455},
     {"futex_requeue", 456}, {"mseal", 462},     {"map_shadow_stack", 453}};

/// What ordinary programs try too, and do without: refused without a word. Queues of
/// asynchronous I/O are bounded by one number for the whole machine, which one sandbox could use
/// up.
constexpr struct {
  const char* name;
  int error;
} quiet[] = {{"clone3", ENOSYS}, // its flags are behind a pointer; libc falls back to clone
             {"io_setup", ENOSYS},
             {"io_destroy", ENOSYS},
             {"io_submit", ENOSYS},
             {"io_cancel", ENOSYS},
             {"io_getevents", ENOSYS},
             {"io_pgetevents", ENOSYS},
             {"map_shadow_stack", ENOSYS},
             {"mbind", EPERM},
             {"migrate_pages", EPERM},
             {"move_pages", EPERM},
             {"set_mempolicy_home_node", EPERM}};

/// Of a kernel that is younger than this program: unknown, as on an older kernel, so that libc does
/// without.
constexpr int first_unknown = 457;
constexpr int last_unknown = 511;
/// But these are known, and nobody's who does not want out: `open_tree_attr`, `file_setattr`.
constexpr int known_attacks[] = {467, 469};

/// CLONE_PARENT makes a child of whoever started the caller, which would not end with it.
constexpr uint64_t refused_clone_flags = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC
                                         | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
                                         | 0x80 /* CLONE_NEWTIME */ | CLONE_PARENT;

/// Protocols over IP; others have the kernel load modules that nobody else here needs.
constexpr uint64_t ip_protocols[]
  = {0, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, 58, IPPROTO_UDPLITE, IPPROTO_RAW, 262 /* MPTCP */};

constexpr uint32_t no_second = ~0U;

/// Calls that are allowed but for one value of an argument, of which the kernel reads 32 bits.
struct exception {
  const char* call;
  uint32_t argument;
  uint32_t mask;
  uint32_t value;
  uint32_t action;
  uint32_t second = no_second; ///< an argument that must besides be zero, or must not
  bool second_is_zero = false;
};

constexpr uint32_t all_bits = ~0U;
constexpr uint32_t pretend = SECCOMP_RET_ERRNO; ///< success
constexpr uint32_t tell = SECCOMP_RET_USER_NOTIF;
constexpr uint32_t mfd_hugetlb = 4;

const exception exceptions[] = {
  // Types into, or takes over, a terminal of another; loads modules.
  {"ioctl", 1, all_bits, TIOCSTI, tell},
  {"ioctl", 1, all_bits, TIOCLINUX, tell},
  {"ioctl", 1, all_bits, TIOCSETD, tell},
  // Orphans of a command shall stay below it, to end with it.
  {"prctl", 0, all_bits, PR_SET_CHILD_SUBREAPER, tell, 1, true},
  // Keeps others off the core.
  {"prctl", 0, all_bits, 62 /* PR_SCHED_CORE */, tell},
  // 1 means that nobody outside is given a core dump, 0 does not (see core(5)).
  {"setrlimit", 0, all_bits, RLIMIT_CORE, pretend},
  {"prlimit64", 1, all_bits, RLIMIT_CORE, pretend, 2, false},
  // Init's own, which user 0 could set.
  {"prlimit64", 0, all_bits, 1, tell, 2, false},
  {"sched_setaffinity", 0, all_bits, 1, tell},
  {"sched_setattr", 0, all_bits, 1, tell},
  {"sched_setparam", 0, all_bits, 1, tell},
  {"sched_setscheduler", 0, all_bits, 1, tell},
  // Of no effect on init, but nobody does it by chance. Signal 0 asks whether it lives.
  {"kill", 0, all_bits, 1, tell, 1, false},
  {"tkill", 0, all_bits, 1, tell, 1, false},
  {"tgkill", 0, all_bits, 1, tell},
  {"rt_sigqueueinfo", 0, all_bits, 1, tell},
  {"rt_tgsigqueueinfo", 0, all_bits, 1, tell},
  {"ptrace", 1, all_bits, 1, tell},
  // Huge pages that were set aside on the machine count in no limit of memory.
  {"mmap", 3, MAP_HUGETLB, MAP_HUGETLB, SECCOMP_RET_ERRNO | ENOMEM},
  {"memfd_create", 1, mfd_hugetlb, mfd_hugetlb, SECCOMP_RET_ERRNO | ENOSYS},
};

constexpr uint32_t low_half(uint32_t argument) {
  return static_cast<uint32_t>(offsetof(seccomp_data, args) + argument * sizeof(uint64_t));
}

/// What stands before the library's program, which knows no "allowed, but for this".
std::vector<sock_filter> exceptions_program() {
  auto load = [](uint32_t at) { return sock_filter(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at)); };
  auto unless_equal = [](uint32_t value, size_t skip) {
    return sock_filter(
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, static_cast<unsigned char>(skip)));
  };
  std::vector<sock_filter> body;
  for (const auto& x : exceptions) {
    std::vector<sock_filter> test{load(low_half(x.argument)),
                                  BPF_STMT(BPF_ALU | BPF_AND | BPF_K, x.mask)};
    std::vector<sock_filter> second;
    if (x.second != no_second && x.second_is_zero)
      second = {load(low_half(x.second)), unless_equal(0, 3), load(low_half(x.second) + 4),
                unless_equal(0, 1)};
    else if (x.second != no_second) // either half
      second = {load(low_half(x.second)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2),
                load(low_half(x.second) + 4), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0)};
    test.push_back(unless_equal(x.value, second.size() + 1));
    test.insert(test.end(), second.begin(), second.end());
    test.push_back(BPF_STMT(BPF_RET | BPF_K, x.action));
    body.push_back(load(offsetof(seccomp_data, nr)));
    body.push_back(
      unless_equal(static_cast<uint32_t>(seccomp_syscall_resolve_name(x.call)), test.size()));
    body.insert(body.end(), test.begin(), test.end());
  }
  // Of another processor's calls the library's program says what becomes.
  std::vector<sock_filter> out{load(offsetof(seccomp_data, arch)),
                               BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, seccomp_arch_native(), 1, 0),
                               BPF_STMT(BPF_JMP | BPF_JA, static_cast<uint32_t>(body.size()))};
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

error failed(int code) {
  return make_error(errc::sandbox_config_invalid, op::start,
                    std::string{"cannot build the seccomp filter: "} + std::strerror(-code))
    .with("wall", "seccomp");
}

} // namespace

result<std::string> build_seccomp_filter() {
  // What stands nowhere below is refused by init, which tells of it.
  std::unique_ptr<void, void (*)(void*)> owner{seccomp_init(SCMP_ACT_NOTIFY), seccomp_release};
  auto filter = owner.get();
  if (filter == nullptr)
    return unexpected{failed(-ENOMEM)};
  int first_error = 0;
  std::set<int> ruled;
  auto add_number
    = [&](uint32_t action, int number, std::initializer_list<scmp_arg_cmp> when = {}) {
        ruled.insert(number);
        auto done = seccomp_rule_add_array(filter, action, number,
                                           static_cast<unsigned>(when.size()), when.begin());
        // Some calls do not exist on every processor.
        if (done != 0 && done != -EDOM && first_error == 0)
          first_error = done;
      };
  auto add = [&](uint32_t action, const char* name, std::initializer_list<scmp_arg_cmp> when = {}) {
    auto number = seccomp_syscall_resolve_name(name);
    for (const auto& x : newer)
      if (number == __NR_SCMP_ERROR && std::string_view{x.name} == name)
        number = x.number;
    if (number != __NR_SCMP_ERROR) // or the library is older than the call: then it is refused
      add_number(action, number, when);
  };
  seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); // a search tree instead of a list
  seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0);
  for (auto name : allowed)
    add(SCMP_ACT_ALLOW, name);
  for (const auto& x : quiet)
    add(SCMP_ACT_ERRNO(static_cast<uint32_t>(x.error)), x.name);
  add(SCMP_ACT_ALLOW, "ioctl");
  add(SCMP_ACT_ALLOW, "clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, refused_clone_flags, 0)});
  // Devices are refused by the kernel in any case, but for the one that is an overlay's whiteout.
  for (uint64_t type : {0U, 0U + S_IFREG, 0U + S_IFIFO, 0U + S_IFSOCK}) {
    add(SCMP_ACT_ALLOW, "mknod", {SCMP_A1(SCMP_CMP_MASKED_EQ, S_IFMT, type)});
    add(SCMP_ACT_ALLOW, "mknodat", {SCMP_A2(SCMP_CMP_MASKED_EQ, S_IFMT, type)});
  }
  for (auto call : {"socket", "socketpair"})
    add(SCMP_ACT_ALLOW, call, {SCMP_A0(SCMP_CMP_EQ, AF_UNIX)});
  for (uint64_t family : {AF_INET, AF_INET6})
    for (auto protocol : ip_protocols)
      // Streams, datagrams and raw ones, which need a right that nobody has.
      add(SCMP_ACT_ALLOW, "socket",
          {SCMP_A0(SCMP_CMP_EQ, family), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xc, 0),
           SCMP_A2(SCMP_CMP_EQ, protocol)});
  add(SCMP_ACT_ALLOW, "socket",
      {SCMP_A0(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2(SCMP_CMP_EQ, 0 /* NETLINK_ROUTE */)});
  // Tools of users, of devices and of sockets ask for these, and do without.
  add(SCMP_ACT_ERRNO(EPERM), "socket", {SCMP_A0(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2(SCMP_CMP_NE, 0)});
  for (uint64_t persona : {0UL, 0x0008UL, 0x20000UL, 0x20008UL, 0x40000UL, 0xffffffffUL})
    add(SCMP_ACT_ALLOW, "personality", {SCMP_A0(SCMP_CMP_EQ, persona)});
  ruled.insert(std::begin(known_attacks), std::end(known_attacks));
  for (int number = first_unknown; number <= last_unknown; ++number)
    if (!ruled.contains(number))
      add_number(SCMP_ACT_ERRNO(ENOSYS), number);
  if (first_error != 0)
    return unexpected{failed(first_error)};

  unique_fd file{::memfd_create("seccomp", MFD_CLOEXEC)};
  if (!file)
    return unexpected{failed(-errno)};
  if (auto done = seccomp_export_bpf(filter, file.get()); done != 0)
    return unexpected{failed(done)};
  std::string made(static_cast<size_t>(::lseek(file.get(), 0, SEEK_END)), '\0');
  if (::pread(file.get(), made.data(), made.size(), 0) != static_cast<ssize_t>(made.size()))
    return unexpected{failed(-EIO)};
  auto before = exceptions_program();
  return std::string{reinterpret_cast<const char*>(before.data()),
                     before.size() * sizeof(sock_filter)}
         + made;
}

std::string name_of_call(int number) {
  std::unique_ptr<char, void (*)(void*)> name{
    seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number), std::free};
  return name ? name.get() : std::to_string(number);
}

} // namespace troupe::backends::isolated
