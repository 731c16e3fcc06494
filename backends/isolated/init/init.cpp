// PID 1 of a sandbox. Started in its new namespaces with the descriptors that it needs, it builds
// the file system, gives up its own rights and then starts commands for whoever holds the control
// socket. It ends with everything in here: the kernel kills what has no init.
//
// No C library (see sys.hpp), no allocation but for long arguments, every table bounded.

#include "parse.hpp"
#include "protocol.hpp"
#include "sys.hpp"

#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/ioctl.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/sockios.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include <linux/wait.h>

extern "C" {
void* memset(void* to, int value, size_t n) {
  auto p = static_cast<volatile unsigned char*>(to);
  for (size_t i = 0; i < n; ++i)
    p[i] = static_cast<unsigned char>(value);
  return to;
}
void* memcpy(void* to, const void* from, size_t n) {
  auto p = static_cast<volatile unsigned char*>(to);
  auto q = static_cast<const unsigned char*>(from);
  for (size_t i = 0; i < n; ++i)
    p[i] = q[i];
  return to;
}
}

namespace {

using namespace troupe::backends::isolated;
using sys::arg;
using sys::call;

// -- what the kernel's headers of older systems lack ---------------------------------------------

constexpr uint64_t landlock_truncate = 1ULL << 14;
constexpr uint64_t landlock_ioctl_dev = 1ULL << 15;
constexpr uint64_t landlock_read
  = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
constexpr uint64_t landlock_of_files = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE
                                       | LANDLOCK_ACCESS_FS_READ_FILE | landlock_truncate
                                       | landlock_ioctl_dev;
struct landlock_attributes {
  uint64_t fs;
  uint64_t net;
  uint64_t scoped;
};
constexpr uint64_t landlock_scoped_sockets_and_signals = 3;

constexpr int sol_socket = 1;
constexpr int so_peercred = 17;
constexpr int scm_rights = 1;
constexpr int msg_dontwait = 0x40;
constexpr int msg_nosignal = 0x4000;
constexpr int msg_cmsg_cloexec = 0x40000000;
constexpr int msg_trunc = 0x20;
constexpr int msg_ctrunc = 8;
constexpr int sock_nonblock = 04000;
constexpr int sock_cloexec = 02000000;

struct kernel_rusage {
  __kernel_old_timeval user;
  __kernel_old_timeval system;
  long rest[14];
};

struct message_header {
  void* name;
  int name_size;
  iovec* parts;
  size_t part_count;
  void* control;
  size_t control_size;
  unsigned flags;
};

struct control_header {
  size_t size;
  int level;
  int type;
};

struct peer {
  int pid;
  uint32_t uid;
  uint32_t gid;
};

struct interface_request {
  char name[16];
  short flags;
  char rest[22];
};

struct internet_address {
  uint16_t family;
  uint16_t port;
  uint32_t address;
  unsigned char zero[8];
};

internet_address loopback_address(uint32_t port) {
  internet_address a{};
  a.family = 2;
  a.port = static_cast<uint16_t>((port >> 8) | (port << 8));
  a.address = 0x0100007f;
  return a;
}

// -- state ---------------------------------------------------------------------------------------

struct command {
  uint64_t id;
  int pid;
  bool ended;
  bool orphan; ///< its controller is gone
  int status;
  uint64_t user_us;
  uint64_t system_us;
  uint64_t max_rss_kib;
};

/// The end of a command's stream that its controller reads, for when that is gone.
struct spool {
  int fd;   ///< -1: at its end
  int file; ///< what was read; -1: nothing yet
  uint64_t command;
  uint32_t stream;
  uint32_t bytes; ///< in the file
  uint64_t dropped;
  bool orphan; ///< we read it
  bool ended;  ///< its command has; others may still hold the other end
  bool drop;   ///< nobody will ask for what comes
};

struct state {
  int control = -1; ///< -1: no controller
  int listener = -1;
  int null = -1;
  int proxy = -1;   ///< where the server's proxy listens
  int denials = -1; ///< where the kernel reports refused calls, and waits for our word
  uint32_t landlock_abi = 0;
  uint32_t peer_uid = 0;
  uint32_t grace_seconds = 300;
  int64_t alone_since = 0;
  char workspace[256] = {};
  uint32_t commands = 0;
  uint32_t ended = 0; ///< of these, to be reported
  uint32_t spools = 0;
  uint32_t spooled = 0;    ///< bytes, of all
  uint64_t open_files = 0; ///< limit of a command
};

constinit state me;
command table[max_commands];
spool spools[max_spools];
alignas(16) char datagram[max_datagram];
alignas(16) char child_stack[16 * 1024];
constexpr size_t max_pointers = 4096;
char* pointers[max_pointers]; ///< arguments and environment of an ordinary command

[[noreturn]] void leave(int code) {
  for (;;)
    call(__NR_exit_group, code);
}

int64_t now_ms() {
  __kernel_timespec t{};
  call(__NR_clock_gettime, 1, arg(&t));
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// -- messages ------------------------------------------------------------------------------------

/// False if it cannot be taken now.
bool post(void* message, uint32_t size, const int* fds = nullptr, int count = 0) {
  static_cast<header*>(message)->size = size;
  alignas(8) char control[sizeof(control_header) + 8 * max_descriptors];
  iovec part{message, size};
  message_header m{};
  m.parts = &part;
  m.part_count = 1;
  if (count > 0) {
    auto h = reinterpret_cast<control_header*>(control);
    h->size = sizeof *h + static_cast<size_t>(count) * sizeof(int);
    h->level = sol_socket;
    h->type = scm_rights;
    memcpy(h + 1, fds, static_cast<size_t>(count) * sizeof(int));
    m.control = control;
    m.control_size = sizeof *h + ((static_cast<size_t>(count) * sizeof(int) + 7) & ~size_t{7});
  }
  return call(__NR_sendmsg, me.control, arg(&m), msg_nosignal | msg_dontwait) >= 0;
}

[[noreturn]] void fail(setup_step step, long code, uint32_t index = 0) {
  failed_message m{{message_type::failed, 0, 0}, step, static_cast<int32_t>(-code), index, 0};
  post(&m, sizeof m);
  leave(1);
}

void check(setup_step step, long code, uint32_t index = 0) {
  if (code < 0)
    fail(step, code, index);
}

struct received {
  long size = 0;
  int fds[max_descriptors];
  int count = 0;
};

void close_all(received& r) {
  for (int i = 0; i < r.count; ++i)
    if (r.fds[i] >= 0)
      call(__NR_close, r.fds[i]);
  r.count = 0;
}

/// One datagram into `datagram`. The size is that of the message, or an error.
received take(int flags) {
  received r;
  alignas(8) char control[sizeof(control_header) + 8 * max_descriptors];
  iovec part{datagram, sizeof datagram};
  message_header m{};
  m.parts = &part;
  m.part_count = 1;
  m.control = control;
  m.control_size = sizeof control;
  r.size = call(__NR_recvmsg, me.control, arg(&m), msg_cmsg_cloexec | flags);
  if (r.size < 0)
    return r;
  auto h = reinterpret_cast<control_header*>(control);
  if (m.control_size >= sizeof *h && h->level == sol_socket && h->type == scm_rights) {
    r.count = static_cast<int>((h->size - sizeof *h) / sizeof(int));
    if (r.count > max_descriptors)
      r.count = max_descriptors; // cannot be: the kernel cuts at the buffer
    memcpy(r.fds, h + 1, static_cast<size_t>(r.count) * sizeof(int));
  }
  if ((m.flags & (msg_trunc | msg_ctrunc)) != 0
      || (r.size > 0 && !is_datagram(datagram, static_cast<size_t>(r.size)))) {
    close_all(r);
    r.size = -EBADMSG;
  }
  return r;
}

// -- set-up --------------------------------------------------------------------------------------

/// Descriptors that the server left open over exec: the control socket, the listening socket, then
/// the mounts that it hands over.
struct inherited {
  int fds[max_mounts + 2];
  uint32_t count = 0;
};

int hex_digit(char c) {
  return c >= 'a' ? c - 'a' + 10 : c - '0';
}

/// They are written as eight hexadecimal digits each: the child that wrote them had no more to
/// write with.
inherited read_inherited(const char* text) {
  inherited x;
  while (x.count < max_mounts + 2 && text[0] != '\0') {
    int fd = 0;
    for (int i = 0; i < 8; ++i)
      fd = fd * 16 + hex_digit(*text++);
    call(__NR_fcntl, fd, F_SETFD, 1);
    x.fds[x.count++] = fd;
  }
  return x;
}

void set_string(setup_step step, long fs, const char* key, const char* value) {
  check(step, call(__NR_fsconfig, fs, FSCONFIG_SET_STRING, arg(key), arg(value), 0));
}

char* write_number(char* end, uint64_t value) {
  *--end = '\0';
  do
    *--end = static_cast<char>('0' + value % 10);
  while ((value /= 10) != 0);
  return end;
}

unsigned attributes(uint32_t flags) {
  unsigned out = MOUNT_ATTR_NOSUID;
  if ((flags & mount_with_devices) == 0)
    out |= MOUNT_ATTR_NODEV;
  if ((flags & mount_read_only) != 0)
    out |= MOUNT_ATTR_RDONLY;
  if ((flags & mount_no_exec) != 0)
    out |= MOUNT_ATTR_NOEXEC;
  return out;
}

long new_mount(const mount_entry& x, uint32_t index) {
  const auto step = setup_step::mount_entry;
  const char* type = x.kind == mount_kind::proc     ? "proc"
                     : x.kind == mount_kind::devpts ? "devpts"
                                                    : "tmpfs";
  auto fs = call(__NR_fsopen, arg(type), FSOPEN_CLOEXEC);
  check(step, fs, index);
  char number[24];
  if (x.kind == mount_kind::proc) {
    set_string(step, fs, "hidepid", "invisible");
  } else if (x.kind == mount_kind::devpts) {
    set_string(step, fs, "ptmxmode", "0666");
    set_string(step, fs, "mode", "0620");
    set_string(step, fs, "max", "256");
  } else {
    set_string(step, fs, "mode", "1777");
    set_string(step, fs, "size", write_number(number + sizeof number, x.bytes));
    set_string(step, fs, "nr_inodes", write_number(number + sizeof number, x.inodes));
  }
  check(step, call(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0), index);
  auto mounted = call(__NR_fsmount, fs, FSMOUNT_CLOEXEC, attributes(x.flags));
  check(step, mounted, index);
  call(__NR_close, fs);
  return mounted;
}

struct landlock_builder {
  int ruleset = -1;
  uint64_t handled = 0;

  void allow(long fd, uint64_t rights) const {
    landlock_path_beneath_attr rule{};
    rule.allowed_access = rights & handled;
    rule.parent_fd = static_cast<int>(fd);
    check(setup_step::landlock,
          call(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, arg(&rule), 0));
  }
};

long landlock_abi() {
  auto abi = call(__NR_landlock_create_ruleset, 0, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return abi < 0 ? 0 : abi;
}

landlock_builder make_landlock(long abi) {
  landlock_builder x;
  landlock_attributes a{};
  a.fs = (1ULL << 13) - 1;
  if (abi >= 2)
    a.fs |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= 3)
    a.fs |= landlock_truncate;
  if (abi >= 5)
    a.fs |= landlock_ioctl_dev;
  if (abi >= 6)
    a.scoped = landlock_scoped_sockets_and_signals;
  x.handled = a.fs;
  auto size = abi >= 6 ? sizeof a : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
  x.ruleset
    = static_cast<int>(call(__NR_landlock_create_ruleset, arg(&a), static_cast<long>(size), 0));
  check(setup_step::landlock, x.ruleset);
  return x;
}

bool is_directory(long fd) {
  // Only what is a directory opens with O_DIRECTORY.
  auto again = call(__NR_openat, fd, arg("."), O_PATH | O_CLOEXEC | O_DIRECTORY);
  if (again < 0)
    return false;
  call(__NR_close, again);
  return true;
}

void loopback_up() {
  auto s = call(__NR_socket, 2, 2 | sock_cloexec, 0);
  check(setup_step::loopback, s);
  interface_request request{};
  memcpy(request.name, "lo", 3);
  request.flags = 0x41; // IFF_UP | IFF_RUNNING
  check(setup_step::loopback, call(__NR_ioctl, s, SIOCSIFFLAGS, arg(&request)));
  call(__NR_close, s);
}

/// Where a program inside finds the server's proxy. Kept, so that a later controller gets it too.
int listen_for_proxy(uint32_t port) {
  auto s = call(__NR_socket, 2, 1 | sock_cloexec | sock_nonblock, 0);
  check(setup_step::proxy, s);
  auto a = loopback_address(port);
  check(setup_step::proxy, call(__NR_bind, s, arg(&a), sizeof a));
  check(setup_step::proxy, call(__NR_listen, s, 128));
  return static_cast<int>(s);
}

constexpr int limit_of_files = 7; // RLIMIT_NOFILE

void limit(int what, uint64_t value) {
  rlimit64 x{value, value};
  check(setup_step::limits, call(__NR_prlimit64, 0, what, arg(&x), 0));
}

/// Init holds streams of many commands; these get the limit that was asked for (see run_child).
void limit_own_files() {
  constexpr uint64_t enough = 16 * 1024;
  rlimit64 now{};
  check(setup_step::limits, call(__NR_prlimit64, 0, limit_of_files, 0, arg(&now)));
  limit(limit_of_files, now.rlim_max < enough ? now.rlim_max : enough);
}

/// What init keeps: to start commands as other users. Nothing comes back by exec.
void drop_rights() {
  const auto step = setup_step::rights;
  for (unsigned cap = 0; cap < 64; ++cap)
    if (call(__NR_prctl, PR_CAPBSET_DROP, cap) == -EINVAL)
      break;
  call(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  check(step, call(__NR_prctl, PR_SET_SECUREBITS,
                   SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS_LOCKED
                     | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED));
  __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
  const uint32_t kept = (1U << CAP_SETUID) | (1U << CAP_SETGID);
  __user_cap_data_struct data[2] = {{kept, kept, 0}, {0, 0, 0}};
  check(step, call(__NR_capset, arg(&head), arg(data)));
  // Nobody in here may look into this memory, which children share until their exec.
  check(step, call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
  check(step, call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/// `self`: a pidfd, for who did not start us.
bool say_ready(long workspace, long terminals, long self = -1) {
  ready_message m{};
  m.head.type = message_type::ready;
  m.landlock_abi = me.landlock_abi;
  int fds[max_descriptors];
  int count = 0;
  auto give = [&](long fd, uint32_t what) {
    if (fd < 0)
      return;
    m.given |= what;
    fds[count++] = static_cast<int>(fd);
  };
  give(workspace, given_root);
  give(terminals, given_terminals);
  give(me.proxy, given_proxy);
  give(self, given_self);
  return post(&m, sizeof m, fds, count);
}

void set_up(const inherited& handed) {
  auto got = take(0);
  setup_view view;
  if (got.size < 0)
    fail(setup_step::message, got.size);
  if (!parse_setup(datagram, static_cast<size_t>(got.size), sizeof me.workspace, view))
    fail(setup_step::message, -EBADMSG);
  const auto& m = view.message;
  me.peer_uid = m.peer_uid;
  me.grace_seconds = m.grace_seconds;
  me.open_files = m.open_files;
  memcpy(me.workspace, view.workspace, m.workspace_size);
  auto host_name = view.host_name;
  auto masked = view.masked;

  check(setup_step::host_name, call(__NR_sethostname, arg(host_name), m.host_name_size - 1));
  if (m.network != 0)
    loopback_up();
  if (m.proxy_port != 0)
    me.proxy = listen_for_proxy(m.proxy_port);

  // Nothing that is mounted here shall show outside, nor the other way round.
  check(setup_step::mount_root,
        call(__NR_mount, 0, arg("/"), 0, (1L << 18) | (1L << 14) /* MS_PRIVATE | MS_REC */, 0));
  auto abi = landlock_abi();
  landlock_builder walls;
  if (m.landlock != 0) {
    if (abi == 0)
      fail(setup_step::landlock, -ENOSYS);
    walls = make_landlock(abi);
  }
  uint32_t next_handed = 2;
  int next_sent = 0;
  long root = -1;
  long terminals = -1;
  for (uint32_t i = 0; i < m.mounts; ++i) {
    const auto& x = view.mounts[i].entry;
    auto target = view.mounts[i].target;
    long fd;
    if (x.kind == mount_kind::handed || x.kind == mount_kind::sent) {
      bool is_sent = x.kind == mount_kind::sent;
      if (is_sent ? next_sent >= got.count : next_handed >= handed.count)
        fail(setup_step::message, -EBADMSG, i);
      fd = is_sent ? got.fds[next_sent++] : handed.fds[next_handed++];
      mount_attr attr{};
      attr.attr_set = attributes(x.flags);
      check(setup_step::mount_entry,
            call(__NR_mount_setattr, fd, arg(""), AT_EMPTY_PATH | AT_RECURSIVE, arg(&attr),
                 sizeof attr),
            i);
    } else {
      fd = new_mount(x, i);
    }
    if (i == 0) {
      root = fd;
      check(setup_step::mount_root,
            call(__NR_move_mount, fd, arg(""), AT_FDCWD, arg("/"), MOVE_MOUNT_F_EMPTY_PATH));
    } else {
      check(setup_step::mount_entry,
            call(__NR_move_mount, fd, arg(""), root, arg(target), MOVE_MOUNT_F_EMPTY_PATH), i);
    }
    if (walls.ruleset >= 0) {
      auto rights = (x.flags & mount_landlock_write) == 0 ? landlock_read
                    : is_directory(fd)
                      ? ~(LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)
                      : landlock_of_files;
      if (i == 0 || (x.flags & mount_landlock_write) != 0)
        walls.allow(fd, rights);
    }
    if (x.kind == mount_kind::devpts)
      terminals = fd;
    else if (i != 0)
      call(__NR_close, fd);
  }
  check(setup_step::pivot, call(__NR_fchdir, root));
  check(setup_step::pivot, call(__NR_pivot_root, arg("."), arg(".")));
  check(setup_step::pivot, call(__NR_umount2, arg("."), 2 /* MNT_DETACH */));
  check(setup_step::pivot, call(__NR_chdir, arg("/")));
  call(__NR_close, root);

  for (uint32_t at = 0; masked != nullptr && at < m.masked_size;
       at += static_cast<uint32_t>(sys::length(masked + at)) + 1) {
    auto cover
      = call(__NR_open_tree, AT_FDCWD, arg("/dev/null"), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    check(setup_step::masks, cover);
    auto done
      = call(__NR_move_mount, cover, arg(""), AT_FDCWD, arg(masked + at), MOVE_MOUNT_F_EMPTY_PATH);
    if (done != -ENOENT) // not every kernel has all of them
      check(setup_step::masks, done);
    call(__NR_close, cover);
  }

  limit_own_files();
  limit(4 /* RLIMIT_CORE */, 0);
  limit(8 /* RLIMIT_MEMLOCK */, 64 * 1024);
  limit(12 /* RLIMIT_MSGQUEUE */, 0);
  if (m.processes != 0)
    limit(6 /* RLIMIT_NPROC */, m.processes);
  if (m.file_size != 0)
    limit(1 /* RLIMIT_FSIZE */, m.file_size);

  auto workspace_fd
    = call(__NR_openat, AT_FDCWD, arg(me.workspace), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  check(setup_step::workspace, workspace_fd);

  drop_rights();
  if (walls.ruleset >= 0) {
    check(setup_step::landlock, call(__NR_landlock_restrict_self, walls.ruleset, 0));
    call(__NR_close, walls.ruleset);
  }
  if (m.filter_size > 0) {
    // Init goes behind the filter too: then its children have it without a call of their own, and
    // the kernel compiles it once.
    sock_fprog program{static_cast<unsigned short>(m.filter_size / sizeof(sock_filter)),
                       reinterpret_cast<sock_filter*>(view.filter)};
    auto listener = call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                         arg(&program));
    // Whoever runs us listens already, and there can be one only: refused calls are then refused as
    // unknown ones, and nobody is told.
    if (listener == -EBUSY)
      check(setup_step::seccomp, call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, arg(&program)));
    else
      check(setup_step::seccomp, me.denials = static_cast<int>(listener));
  }
  me.landlock_abi = static_cast<uint32_t>(abi);
  if (!say_ready(workspace_fd, terminals))
    leave(1);
  call(__NR_close, workspace_fd);
  if (terminals >= 0)
    call(__NR_close, terminals);
}

// -- commands ------------------------------------------------------------------------------------

struct child_plan {
  const spawn_message* request;
  const uint32_t* groups;
  int streams[3];
  char* cwd;
  char** argv;
  char** env;

  // -- written by the child, which shares our memory until it has exec'ed
  spawn_stage failed;
  long error;
};

const char* path_variable(char** env) {
  for (; *env != nullptr; ++env) {
    auto x = *env;
    if (x[0] == 'P' && x[1] == 'A' && x[2] == 'T' && x[3] == 'H' && x[4] == '=')
      return x + 5;
  }
  return "/usr/local/bin:/usr/bin:/bin";
}

long try_exec(const char* path, child_plan& plan) {
  auto e = call(__NR_execve, arg(path), arg(plan.argv), arg(plan.env));
  if (e != -ENOEXEC)
    return e;
  // A script without an interpreter line goes to the shell, as execvp does; the slot before the
  // arguments is free for it.
  auto shell = plan.argv - 1;
  auto name = plan.argv[0];
  shell[0] = const_cast<char*>("sh");
  shell[1] = const_cast<char*>(path);
  e = call(__NR_execve, arg("/bin/sh"), arg(shell), arg(plan.env));
  plan.argv[0] = name;
  return e;
}

long exec_first(child_plan& plan) {
  auto name = plan.argv[0];
  auto size = sys::length(name);
  for (size_t i = 0; i < size; ++i)
    if (name[i] == '/')
      return try_exec(name, plan);
  if (size == 0)
    return -ENOENT;
  char path[4096];
  long last = -ENOENT;
  for (auto at = path_variable(plan.env);;) {
    size_t n = 0;
    while (at[n] != '\0' && at[n] != ':')
      ++n;
    if (n + size + 2 <= sizeof path) {
      memcpy(path, at, n);
      auto end = path + n;
      if (n > 0)
        *end++ = '/';
      memcpy(end, name, size + 1);
      auto e = try_exec(path, plan);
      if (e == -EACCES)
        last = e;
      else if (e != -ENOENT && e != -ENOTDIR)
        return e;
    }
    if (at[n] == '\0')
      return last;
    at += n + 1;
  }
}

int run_child(void* argument) {
  auto& plan = *static_cast<child_plan*>(argument);
  const auto& rq = *plan.request;
  for (int i = 0; i < 3; ++i)
    call(__NR_dup3, plan.streams[i], i, 0);
  uint64_t none = 0;
  call(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, arg(&none), 0, 8);
  call(__NR_setsid);
  plan.failed = spawn_stage::rights;
  rlimit64 files{me.open_files, me.open_files};
  if ((plan.error = call(__NR_prlimit64, 0, limit_of_files, arg(&files), 0)) < 0)
    return 127;
  if ((rq.flags & spawn_controlling_terminal) != 0
      && (plan.error = call(__NR_ioctl, 0, 0x540E /* TIOCSCTTY */, 0)) < 0)
    return 127;
  call(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  call(__NR_umask, 022);
  // With a single id there is no other user, and no right to change groups.
  plan.error = call(__NR_setgroups, rq.groups, arg(plan.groups));
  if (plan.error < 0 && (rq.uid != 0 || plan.error != -EPERM))
    return 127;
  if ((plan.error = call(__NR_setresgid, rq.gid, rq.gid, rq.gid)) < 0
      || (plan.error = call(__NR_setresuid, rq.uid, rq.uid, rq.uid)) < 0)
    return 127;
  __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if ((plan.error = call(__NR_capset, arg(&head), arg(data))) < 0)
    return 127;
  plan.failed = spawn_stage::directory;
  if ((plan.error = call(__NR_chdir, arg(plan.cwd))) < 0)
    return 127;
  plan.failed = spawn_stage::exec;
  plan.error = exec_first(plan);
  return 127;
}

/// Memory for one request.
class scratch {
public:
  ~scratch() {
    if (at_ != nullptr)
      call(__NR_munmap, arg(at_), static_cast<long>(size_));
  }
  char* get(size_t size) {
    auto p = call(__NR_mmap, 0, static_cast<long>(size), 3, 0x22 /* private, anonymous */, -1, 0);
    if (p < 0)
      return nullptr;
    at_ = reinterpret_cast<char*>(p);
    size_ = size;
    return at_;
  }

private:
  char* at_ = nullptr;
  size_t size_ = 0;
};

bool read_file(int fd, char* to, size_t size) {
  for (size_t have = 0; have < size;) {
    auto n = call(__NR_pread64, fd, arg(to + have), static_cast<long>(size - have),
                  static_cast<long>(have));
    if (n <= 0)
      return false;
    have += static_cast<size_t>(n);
  }
  return true;
}

struct outcome {
  spawn_stage stage;
  long error;
};

/// Keeps the stream that `fd` is, if there is room.
void add_spool(received& got, int index, uint64_t command, uint32_t stream) {
  if (index < 0 || me.spools >= max_spools)
    return;
  spools[me.spools++] = {got.fds[index], -1, command, stream, 0, 0, false, false, false};
  got.fds[index] = -1;
}

outcome start(received& got) {
  const outcome malformed{spawn_stage::request, -EBADMSG};
  spawn_view view;
  if (!parse_spawn(datagram, static_cast<size_t>(got.size), got.count, view))
    return malformed;
  if (me.commands >= max_commands)
    return {spawn_stage::request, -EAGAIN};
  const auto& rq = view.message;
  child_plan plan{};
  plan.request = &rq;
  plan.groups = view.groups;
  for (int i = 0; i < 3; ++i)
    plan.streams[i] = view.fds.streams[i] < 0 ? me.null : got.fds[view.fds.streams[i]];

  scratch text_memory;
  if (view.fds.strings >= 0) {
    view.strings = text_memory.get(rq.strings_size);
    if (view.strings == nullptr)
      return {spawn_stage::request, -ENOMEM};
    if (!read_file(got.fds[view.fds.strings], view.strings, rq.strings_size))
      return malformed;
  }
  scratch pointer_memory;
  auto list = pointers;
  if (slots_of(rq) > max_pointers) {
    list = reinterpret_cast<char**>(pointer_memory.get(slots_of(rq) * sizeof(char*)));
    if (list == nullptr)
      return {spawn_stage::request, -ENOMEM};
  }
  command_strings strings;
  if (!split_strings(rq, view.strings, list, strings))
    return malformed;
  plan.cwd = strings.cwd;
  plan.argv = strings.argv;
  plan.env = strings.env;

  plan.failed = spawn_stage::clone;
  auto pid = sys::clone_vfork(run_child, &plan, child_stack + sizeof child_stack,
                              CLONE_VM | CLONE_VFORK | SIGCHLD);
  if (pid < 0)
    return {spawn_stage::clone, pid};
  if (plan.error < 0)
    return {plan.failed, plan.error};
  auto& c = table[me.commands++];
  c = command{};
  c.id = rq.head.id;
  c.pid = static_cast<int>(pid);
  add_spool(got, view.fds.kept[0], c.id,
            (rq.flags & spawn_controlling_terminal) != 0 ? stream_of_terminal : 1);
  add_spool(got, view.fds.kept[1], c.id, 2);
  return {spawn_stage::none, 0};
}

void spawn(received& got) {
  if (got.size < static_cast<long>(sizeof(spawn_message)))
    return;
  auto id = reinterpret_cast<const header*>(datagram)->id;
  auto done = start(got);
  if (done.stage == spawn_stage::none)
    return;
  // A start that failed is answered at once; should the socket be full, through the table.
  exited_message m{
    {message_type::exited, 0, id}, done.stage, static_cast<int32_t>(-done.error), 0, 0, 0};
  if (!post(&m, sizeof m) && me.commands < max_commands) {
    auto& c = table[me.commands++];
    c = command{};
    c.id = id;
    c.ended = true;
    c.status = 127 << 8;
    ++me.ended;
  }
}

// -- spools --------------------------------------------------------------------------------------

void remove_spool(uint32_t i) {
  auto& x = spools[i];
  if (x.fd >= 0)
    call(__NR_close, x.fd);
  if (x.file >= 0)
    call(__NR_close, x.file);
  me.spooled -= x.bytes;
  x = spools[--me.spools];
}

/// `POLLIN`: whether a read would not wait. 0: whether nobody has the other end any more.
bool is_ready(int fd, short event) {
  pollfd p{fd, event, 0};
  return call(__NR_poll, arg(&p), 1, 0) > 0 && (p.revents & (event | POLLHUP | POLLERR)) != 0;
}

/// Its controller has read, or reads, all of a command that ended; only what others still hold
/// could outlive it.
void release_spools(uint64_t command) {
  for (uint32_t i = 0; i < me.spools;) {
    auto& x = spools[i];
    if (x.command != command || x.orphan || x.ended) {
      ++i;
      continue;
    }
    x.ended = true;
    // A terminal's end is what tells whoever still uses it.
    if (x.stream == stream_of_terminal || is_ready(x.fd, 0))
      remove_spool(i);
    else
      ++i;
  }
}

bool is_full(const spool& x) {
  return x.drop || x.bytes >= max_spooled || me.spooled >= max_spooled_together;
}

/// One read. What there is no room for is dropped, so that its writer neither waits nor dies.
void read_spool(spool& x) {
  static char buffer[64 * 1024];
  if (!is_ready(x.fd, POLLIN))
    return;
  auto n = call(__NR_read, x.fd, arg(buffer), sizeof buffer);
  if (n == -EAGAIN || n == -EINTR)
    return;
  if (n <= 0) {
    call(__NR_close, x.fd);
    x.fd = -1;
    return;
  }
  auto size = static_cast<uint32_t>(n);
  auto room = is_full(x) ? 0 : max_spooled - x.bytes;
  auto kept = size < room ? size : room;
  if (kept > 0 && x.file < 0)
    x.file = static_cast<int>(call(__NR_memfd_create, arg("spool"), 1 /* MFD_CLOEXEC */));
  if (kept == 0 || x.file < 0 || call(__NR_write, x.file, arg(buffer), kept) != kept)
    kept = 0;
  x.bytes += kept;
  me.spooled += kept;
  x.dropped += size - kept;
}

/// False if they could not all be told.
bool tell_spools(uint64_t command) {
  for (uint32_t i = 0; i < me.spools;) {
    auto& x = spools[i];
    if (x.command != command || !x.orphan) {
      ++i;
      continue;
    }
    // It has ended: what is still in the pipe belongs to it.
    for (int reads = 0; x.fd >= 0 && reads < 16 && !is_full(x); ++reads)
      read_spool(x);
    if (x.bytes > 0 || x.dropped > 0) {
      spooled_message m{{message_type::spooled, 0, command}, x.stream, x.bytes, x.dropped};
      if (!post(&m, sizeof m, &x.file, x.file >= 0 ? 1 : 0))
        return false;
    }
    if (x.fd < 0) {
      remove_spool(i);
      continue;
    }
    // Somebody else still holds it: from now on it is only kept empty.
    if (x.file >= 0)
      call(__NR_close, x.file);
    me.spooled -= x.bytes;
    x.file = -1;
    x.bytes = 0;
    x.dropped = 0;
    x.command = 0;
    x.drop = true;
    ++i;
  }
  return true;
}

/// Tells the ends that were not told yet; what cannot be told stays for later.
void report() {
  for (uint32_t i = 0; i < me.commands && me.ended > 0 && me.control >= 0;) {
    auto& c = table[i];
    if (!c.ended) {
      ++i;
      continue;
    }
    if (c.orphan && !tell_spools(c.id))
      return;
    exited_message m{{message_type::exited, 0, c.id},
                     spawn_stage::none,
                     c.status,
                     c.user_us,
                     c.system_us,
                     c.max_rss_kib};
    if (!post(&m, sizeof m))
      return;
    c = table[--me.commands];
    --me.ended;
  }
}

uint64_t microseconds(const __kernel_old_timeval& t) {
  return static_cast<uint64_t>(t.tv_sec) * 1000000 + static_cast<uint64_t>(t.tv_usec);
}

/// Everything that ended, also what others left behind. In rounds, lest a flood of them keep us
/// from everything else.
void reap() {
  for (int round = 0; round < 1024; ++round) {
    int status = 0;
    kernel_rusage used{};
    auto pid = call(__NR_wait4, -1, arg(&status), 1 /* WNOHANG */ | __WALL, arg(&used));
    if (pid <= 0)
      return;
    for (uint32_t i = 0; i < me.commands; ++i) {
      auto& c = table[i];
      if (c.pid != pid || c.ended)
        continue;
      c.ended = true;
      c.status = status;
      c.user_us = microseconds(used.user);
      c.system_us = microseconds(used.system);
      c.max_rss_kib = static_cast<uint64_t>(used.rest[0]);
      ++me.ended;
      if (!c.orphan)
        release_spools(c.id);
      break;
    }
  }
}

// -- refused calls -------------------------------------------------------------------------------

constexpr uint32_t max_call = 512;
uint64_t denied[max_call];

/// Refuses one, and tells of it now and then: the count bounds what a flood can say.
void refuse_call() {
  seccomp_notif asked{};
  if (call(__NR_ioctl, me.denials, static_cast<long>(SECCOMP_IOCTL_NOTIF_RECV), arg(&asked)) < 0)
    return; // whoever asked was killed meanwhile
  seccomp_notif_resp answer{};
  answer.id = asked.id;
  answer.error = -EPERM;
  call(__NR_ioctl, me.denials, static_cast<long>(SECCOMP_IOCTL_NOTIF_SEND), arg(&answer));
  auto& count = denied[static_cast<uint32_t>(asked.data.nr) < max_call ? asked.data.nr : 0];
  ++count;
  if (me.control < 0 || (count & (count - 1)) != 0)
    return;
  denied_message m{
    {message_type::denied, 0, 0}, asked.data.nr, static_cast<int32_t>(asked.pid), count};
  post(&m, sizeof m);
}

// -- other requests ------------------------------------------------------------------------------

void answer(uint64_t id, long fd) {
  reply_message m{{message_type::reply, 0, id}, fd < 0 ? static_cast<int32_t>(-fd) : 0, 0};
  int one = static_cast<int>(fd);
  post(&m, sizeof m, &one, fd < 0 ? 0 : 1);
  if (fd >= 0)
    call(__NR_close, fd);
}

/// A socket that is connected or about to be; never waits.
long connect_to(uint32_t port) {
  if (port == 0 || port > 65535)
    return -EINVAL;
  auto s = call(__NR_socket, 2, 1 | sock_cloexec | sock_nonblock, 0);
  if (s < 0)
    return s;
  auto a = loopback_address(port);
  auto e = call(__NR_connect, s, arg(&a), sizeof a);
  if (e < 0 && e != -EINPROGRESS) {
    call(__NR_close, s);
    return e;
  }
  return s;
}

long process_of(uint64_t command_id) {
  for (uint32_t i = 0; i < me.commands; ++i)
    if (table[i].id == command_id && !table[i].ended)
      return call(__NR_pidfd_open, table[i].pid, 0);
  return -ESRCH;
}

void lose_controller() {
  call(__NR_close, me.control);
  me.control = -1;
  me.alone_since = now_ms();
  for (uint32_t i = 0; i < me.commands; ++i)
    table[i].orphan = true;
  for (uint32_t i = 0; i < me.spools; ++i) {
    spools[i].orphan = true;
    if (spools[i].ended) {
      spools[i].drop = true;
      spools[i].command = 0;
    }
  }
}

/// What a controller needs that did not start us, then what it missed.
void hand_over(const received& got) {
  if (got.size != sizeof(adopt_message)
      || reinterpret_cast<const adopt_message*>(datagram)->version != protocol_version) {
    lose_controller();
    return;
  }
  auto workspace = call(__NR_openat, AT_FDCWD, arg(me.workspace),
                        O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  auto terminals = call(__NR_openat, AT_FDCWD, arg("/dev/pts"), O_PATH | O_DIRECTORY | O_CLOEXEC);
  auto self = call(__NR_pidfd_open, 1, 0);
  auto told = say_ready(workspace, terminals, self);
  const long given[] = {workspace, terminals, self};
  for (auto fd : given)
    if (fd >= 0)
      call(__NR_close, fd);
  for (uint32_t i = 0; told && i < me.commands; ++i) {
    if (table[i].ended || !table[i].orphan)
      continue;
    orphaned_message m{{message_type::orphaned, 0, table[i].id}, table[i].pid, 0};
    told = post(&m, sizeof m); // what a full socket does not take is left out
  }
}

/// False when the controller is gone.
bool serve_one() {
  auto got = take(msg_dontwait);
  if (got.size == -EAGAIN || got.size == -EINTR)
    return false;
  if (got.size <= 0) {
    // Zero is the end; a broken datagram is of nobody who may control us.
    lose_controller();
    return false;
  }
  auto head = *reinterpret_cast<const header*>(datagram);
  switch (head.type) {
    case message_type::spawn: spawn(got); break;
    case message_type::open_process: answer(head.id, process_of(head.id)); break;
    case message_type::connect:
      if (got.size == sizeof(connect_message))
        answer(head.id, connect_to(reinterpret_cast<const connect_message*>(datagram)->port));
      break;
    case message_type::open_root:
      answer(head.id, call(__NR_openat, AT_FDCWD, arg(me.workspace),
                           O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
      break;
    case message_type::adopt: hand_over(got); break;
    case message_type::end: leave(0);
    default: break;
  }
  close_all(got);
  return me.control >= 0;
}

/// One at a time: while there is one, others are turned away.
void accept_controller() {
  auto s = call(__NR_accept4, me.listener, 0, 0, sock_cloexec);
  if (s < 0)
    return;
  peer who{};
  unsigned size = sizeof who;
  if (me.control >= 0
      || call(__NR_getsockopt, s, sol_socket, so_peercred, arg(&who), arg(&size)) < 0
      || who.uid != me.peer_uid) {
    call(__NR_close, s);
    return;
  }
  me.control = static_cast<int>(s);
}

// -- the loop ------------------------------------------------------------------------------------

void on_child(int) {}

struct kernel_action {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  uint64_t mask;
};

extern "C" void restore_from_signal();
asm(".globl restore_from_signal\n"
    "restore_from_signal:\n\t"
    "mov $15, %eax\n\t"
    "syscall\n");

/// SIGCHLD only wakes us from ppoll; everything else cannot reach PID 1 from inside.
void prepare_signals() {
  uint64_t all = ~0ULL;
  call(__NR_rt_sigprocmask, 2, arg(&all), 0, 8);
  kernel_action action{on_child, 0x04000000 /* SA_RESTORER */, restore_from_signal, ~0ULL};
  call(__NR_rt_sigaction, SIGCHLD, arg(&action), 0, 8);
}

/// Between two reads of what is only thrown away, lest its writer take all our time.
constexpr int64_t drop_pace_ms = 20;

/// What `serve` waits for, besides children.
struct waiting {
  static constexpr long fixed = 3; ///< controller, listening socket, refused calls
  pollfd fds[fixed + max_spools];
  uint32_t spool_of[max_spools];
  long count = fixed;
  bool dropping = false;
};

/// Of spools: those that we read, and the end of those that somebody else may hold for ever.
void watch_spools(waiting& w) {
  for (uint32_t i = 0; i < me.spools; ++i) {
    const auto& x = spools[i];
    if (x.fd < 0 || (!x.orphan && !x.ended))
      continue;
    if (x.orphan && is_full(x)) {
      w.dropping = true;
      continue;
    }
    w.spool_of[w.count - w.fixed] = i;
    w.fds[w.count++] = {x.fd, static_cast<short>(x.orphan ? POLLIN : 0), 0};
  }
}

/// From the back, since a removal puts the last one into its place.
void serve_spools(const waiting& w) {
  for (auto i = w.count - 1; i >= w.fixed; --i) {
    if (w.fds[i].revents == 0)
      continue;
    auto index = w.spool_of[i - w.fixed];
    auto& x = spools[index];
    if (x.orphan)
      read_spool(x);
    if (!x.orphan || (x.fd < 0 && x.command == 0))
      remove_spool(index);
  }
}

void drop_spools() {
  for (auto i = me.spools; i-- > 0;) {
    auto& x = spools[i];
    if (x.fd < 0 || !x.orphan || !is_full(x))
      continue;
    for (int reads = 0; x.fd >= 0 && reads < 16; ++reads)
      read_spool(x);
    if (x.fd < 0 && x.command == 0)
      remove_spool(i);
  }
}

[[noreturn]] void serve() {
  const uint64_t all_but_child = ~(1ULL << (SIGCHLD - 1));
  static waiting w;
  for (;;) {
    reap();
    report();
    w.count = w.fixed;
    w.dropping = false;
    w.fds[0] = {me.control, static_cast<short>(POLLIN | (me.ended > 0 ? POLLOUT : 0)), 0};
    w.fds[1] = {me.listener, POLLIN, 0};
    w.fds[2] = {me.denials, POLLIN, 0};
    watch_spools(w);
    int64_t left = -1;
    if (me.control < 0) {
      left = me.alone_since + int64_t{me.grace_seconds} * 1000 - now_ms();
      if (left <= 0)
        leave(0);
    }
    if (w.dropping && (left < 0 || left > drop_pace_ms))
      left = drop_pace_ms;
    __kernel_timespec wait{left / 1000, left % 1000 * 1000000};
    auto n
      = call(__NR_ppoll, arg(w.fds), w.count, left < 0 ? 0 : arg(&wait), arg(&all_but_child), 8);
    // First, as everything else may change which spools there are.
    if (n > 0)
      serve_spools(w);
    if (w.dropping)
      drop_spools();
    if (n <= 0)
      continue;
    if (w.fds[0].revents != 0)
      for (int i = 0; i < 16 && serve_one(); ++i) {
      }
    if (w.fds[1].revents != 0)
      accept_controller();
    if ((w.fds[2].revents & POLLIN) != 0)
      refuse_call();
  }
}

} // namespace

extern "C" [[noreturn]] void troupe_init(const long* stack) {
  auto count = stack[0];
  auto arguments = reinterpret_cast<char* const*>(stack + 1);
  // Whoever started us closed these; what is opened below must not become a stream of a command.
  do
    me.null = static_cast<int>(call(__NR_openat, AT_FDCWD, arg("/dev/null"), O_RDWR | O_CLOEXEC));
  while (me.null >= 0 && me.null < 3);
  if (count < 2 || me.null < 0)
    leave(125);
  auto handed = read_inherited(arguments[1]);
  if (handed.count < 3)
    leave(125);
  me.control = handed.fds[0];
  me.listener = handed.fds[1];
  prepare_signals();
  set_up(handed);
  serve();
}

asm(".globl _start\n"
    "_start:\n\t"
    "xor %ebp, %ebp\n\t"
    "mov %rsp, %rdi\n\t"
    "and $-16, %rsp\n\t"
    "call troupe_init\n");
