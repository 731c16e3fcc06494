#include "set_up.hpp"
#include "channel.hpp"
#include "kernel.hpp"
#include "parse.hpp"
#include "state.hpp"
#include "sys.hpp"

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

namespace {

int hex_digit(char c) {
  return c >= 'a' ? c - 'a' + 10 : c - '0';
}

} // namespace

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

namespace {

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

/// Nothing can be read or written at `path`; after a `mark_of_read_only`, only be read.
void cover(const char* path) {
  auto read_only = *path == mark_of_read_only;
  if (read_only)
    ++path;
  auto fd = call(__NR_open_tree, AT_FDCWD, arg(read_only ? path : "/dev/null"),
                 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (read_only && fd == -ENOENT) // not every kernel has all of them
    return;
  check(setup_step::masks, fd);
  mount_attr attr{};
  attr.attr_set = MOUNT_ATTR_RDONLY;
  if (read_only)
    check(setup_step::masks,
          call(__NR_mount_setattr, fd, arg(""), AT_EMPTY_PATH, arg(&attr), sizeof attr));
  auto done = call(__NR_move_mount, fd, arg(""), AT_FDCWD, arg(path), MOVE_MOUNT_F_EMPTY_PATH);
  if (done != -ENOENT)
    check(setup_step::masks, done);
  call(__NR_close, fd);
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

/// What init keeps: to start commands as other users, and to end what does not start. Nothing comes
/// back by exec.
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
  const uint32_t kept = (1U << CAP_SETUID) | (1U << CAP_SETGID) | (1U << CAP_KILL);
  __user_cap_data_struct data[2] = {{kept, kept, 0}, {0, 0, 0}};
  check(step, call(__NR_capset, arg(&head), arg(data)));
  // Nobody in here may look into this memory, which children share until their exec.
  check(step, call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
  check(step, call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

} // namespace

bool say_ready(long workspace, long terminals, long self) {
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
       at += static_cast<uint32_t>(sys::length(masked + at)) + 1)
    cover(masked + at);

  limit_own_files();
  // 0 would let a program of the host's have the core dump, if it has named one.
  limit(4 /* RLIMIT_CORE */, 1);
  limit(13 /* RLIMIT_NICE */, 0);
  limit(14 /* RLIMIT_RTPRIO */, 0);
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

} // namespace troupe::backends::isolated::init
