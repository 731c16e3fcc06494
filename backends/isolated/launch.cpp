#include "backends/isolated/launch.hpp"

#include "backends/clone.hpp"
#include "backends/granted_ids.hpp"
#include "backends/isolated/init/sys.hpp"
#include "backends/proc.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/mount.h>
#include <poll.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string_view>
#include <thread>
#include <utility>

// The program, put in by the assembler (embed.S).
extern "C" const char troupe_init_begin[];
extern "C" const char troupe_init_end[];

namespace troupe::backends::isolated {

namespace {

constexpr int ready_timeout_ms = 20'000;

error wall_error(const char* wall, const std::string& what, int code) {
  auto e = make_error(errc::sandbox_config_invalid, op::start,
                      "the wall `" + std::string{wall} + "` cannot be had: " + what + ": "
                        + std::strerror(code));
  e.with("wall", wall).with("cause", what).with("errno", code);
  if (code == EAGAIN || code == ENOMEM || code == ENOSPC)
    e.retryable = true;
  return e;
}

/// All that the child needs until its exec, in memory that it shares with us.
struct child_plan {
  const char* const* sources;
  int source_count;
  int control;
  int server_control; ///< the other end
  int listener;
  int program;
  char* handed; ///< eight hexadecimal digits for each descriptor
  char* const* argv;
  char* const* env;

  // -- written by the child ----------------------------------------------------------------------
  int failed_source;
  long error;
};

TROUPE_IN_CHILD void write_fd(char* at, long fd) {
  sys::call(SYS_fcntl, fd, F_SETFD, 0);
  for (int i = 7; i >= 0; --i, fd /= 16)
    at[i] = "0123456789abcdef"[fd % 16];
}

/// Runs beside the thread that waits for it, in the same memory: kernel calls only, and none
/// through libc, which would write this thread's errno.
TROUPE_IN_CHILD int run_child(void* argument) {
  auto& plan = *static_cast<child_plan*>(argument);
  plan.error = sys::call(SYS_close_range, 0, ~0U, CLOSE_RANGE_CLOEXEC);
  if (plan.error < 0)
    return 1;
  // A server that dies before it says go leaves nobody behind, who would keep its sockets open.
  // That the other end closes is not enough: what is launched beside this has a copy of it.
  sys::call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  sys::call(SYS_close, plan.server_control);
  write_fd(plan.handed, plan.control);
  write_fd(plan.handed + 8, plan.listener);
  // Still with the server's own file rights, which the private directories ask for, but already in
  // the mount namespace that these are for.
  for (int i = 0; i < plan.source_count; ++i) {
    auto fd = sys::call(SYS_open_tree, AT_FDCWD, sys::arg(plan.sources[i]),
                        OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (fd < 0) {
      plan.failed_source = i;
      plan.error = fd;
      return 1;
    }
    write_fd(plan.handed + 16 + 8 * i, fd);
  }
  char go = 0;
  if (sys::call(SYS_read, plan.control, sys::arg(&go), 1) != 1)
    return 1;
  sys::call(SYS_prctl, PR_SET_PDEATHSIG, 0);
  // Before the exec, which takes the capabilities of everyone but the namespace's root.
  sys::call(SYS_setgroups, 0, 0);
  sys::call(SYS_setresgid, 0, 0, 0);
  sys::call(SYS_setresuid, 0, 0, 0);
  sys::call(SYS_setsid);
  plan.error = sys::call(SYS_execveat, plan.program, sys::arg(""), sys::arg(plan.argv),
                         sys::arg(plan.env), AT_EMPTY_PATH);
  return 1;
}

/// While it lives, this thread is `uid` to the kernel's counts of what a user may have at once
/// (namespaces, watches of files, signals that wait): all that is used in a namespace counts for
/// who made it too, so that sandboxes of one maker could use up each other's. Its rights stay.
/// Where there is no such user, one count is for all.
class counted_as {
public:
  explicit counted_as(uint32_t uid) {
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct rights[2]{};
    // Not through libc, which would change all threads.
    if (uid == 0 || ::geteuid() != 0 || ::syscall(SYS_capget, &head, rights) != 0
        || ::syscall(SYS_setresuid, -1, uid, 0) != 0)
      return;
    changed_ = true;
    ::syscall(SYS_capset, &head, rights);
    ::setfsuid(0);
  }
  ~counted_as() {
    if (changed_ && ::syscall(SYS_setresuid, -1, 0, -1) != 0)
      std::abort(); // nothing may be done as somebody else
  }
  counted_as(const counted_as&) = delete;
  counted_as& operator=(const counted_as&) = delete;

private:
  bool changed_ = false;
};

bool write_map(pid_t pid, const char* name, const std::string& text) {
  auto path = "/proc/" + std::to_string(pid) + "/" + name;
  unique_fd fd{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
  // Each thread that changes its ids, and each child that does so in our memory, makes these files
  // root's until this call; others may do it at this very moment.
  for (int i = 0; !fd && errno == EACCES && granted_ids() && i < 1000; ++i) {
    ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    fd.reset(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  }
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

bool write_maps(pid_t pid, const launch_plan& plan) {
  if (plan.uid_count > 0) {
    auto line = "0 " + std::to_string(plan.uid_base) + " " + std::to_string(plan.uid_count);
    return write_map(pid, "uid_map", line) && write_map(pid, "gid_map", line);
  }
  return write_map(pid, "setgroups", "deny")
         && write_map(pid, "uid_map", "0 " + std::to_string(::geteuid()) + " 1")
         && write_map(pid, "gid_map", "0 " + std::to_string(::getegid()) + " 1");
}

template <class T>
void append(std::string& out, const T& x) {
  out.append(reinterpret_cast<const char*>(&x), sizeof x);
}

std::string setup_datagram(const launch_plan& plan) {
  std::string masked;
  for (const auto& path : plan.masked)
    masked.append(path).push_back('\0');
  setup_message m{};
  m.head.type = message_type::setup;
  m.version = protocol_version;
  m.grace_seconds = plan.grace_seconds;
  // Root of this machine has no id inside a range of its own; our own id is 0 inside otherwise.
  m.peer_uid = plan.uid_count > 0 ? 65534 : 0;
  m.host_name_size = static_cast<uint32_t>(plan.host_name.size()) + 1;
  m.workspace_size = static_cast<uint32_t>(plan.workspace.size()) + 1;
  m.masked_size = static_cast<uint32_t>(masked.size());
  m.mounts = static_cast<uint32_t>(plan.mounts.size());
  m.filter_size = static_cast<uint32_t>(plan.seccomp_filter.size());
  m.landlock = plan.landlock ? 1 : 0;
  m.network = plan.own_network ? 1 : 0;
  m.proxy_port = plan.proxy_port;
  m.open_files = plan.open_files;
  m.processes = plan.processes;
  std::string out;
  append(out, m);
  out.append(plan.host_name.c_str(), m.host_name_size);
  out.append(plan.workspace.c_str(), m.workspace_size);
  out += masked;
  for (const auto& x : plan.mounts) {
    mount_entry entry{
      x.kind, x.flags, x.bytes, x.inodes, static_cast<uint32_t>(x.target.size()) + 1, 0};
    append(out, entry);
    out.append(x.target.c_str(), x.target.size() + 1);
  }
  out += plan.seccomp_filter;
  auto size = static_cast<uint32_t>(out.size());
  std::memcpy(out.data() + offsetof(header, size), &size, sizeof size);
  return out;
}

error setup_error(const launch_plan& plan, const failed_message& m) {
  auto mount = m.index < plan.mounts.size() ? "/" + plan.mounts[m.index].target : std::string{"?"};
  switch (m.step) {
    case setup_step::message: return wall_error("init", "init did not take its orders", m.error);
    case setup_step::mount_root: return wall_error("mounts", "mounting the root", m.error);
    case setup_step::mount_entry: return wall_error("mounts", "mounting " + mount, m.error);
    case setup_step::pivot: return wall_error("mounts", "pivot_root", m.error);
    case setup_step::masks: return wall_error("proc", "masking files of /proc", m.error);
    case setup_step::host_name: return wall_error("namespaces", "sethostname", m.error);
    case setup_step::loopback: return wall_error("network", "bringing up the loopback", m.error);
    case setup_step::limits: return wall_error("limits", "setrlimit", m.error);
    case setup_step::landlock: return wall_error("landlock", "restricting with Landlock", m.error);
    case setup_step::rights: return wall_error("capabilities", "giving up rights", m.error);
    case setup_step::seccomp: return wall_error("seccomp", "installing the filter", m.error);
    case setup_step::proxy: return wall_error("network", "listening for the proxy", m.error);
    case setup_step::workspace: return wall_error("mounts", "opening the workspace", m.error);
  }
  return wall_error("init", "a step that we do not know", m.error);
}

struct received {
  std::array<char, 512> data;
  ssize_t size = -1;
  std::array<unique_fd, 4> fds;
};

/// With a descriptor, unless it is -1.
bool send_setup(int socket, const std::string& message, int fd) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  iovec part{const_cast<char*>(message.data()), message.size()};
  msghdr m{};
  m.msg_iov = &part;
  m.msg_iovlen = 1;
  if (fd >= 0) {
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    auto c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  return ::sendmsg(socket, &m, MSG_NOSIGNAL) == static_cast<ssize_t>(message.size());
}

received receive(int fd) {
  received r;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)];
  iovec part{r.data.data(), r.data.size()};
  msghdr m{};
  m.msg_iov = &part;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  r.size = ::recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
  if (r.size < 0)
    return r;
  for (auto c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
      for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) && i < r.fds.size(); ++i) {
        int one;
        std::memcpy(&one, CMSG_DATA(c) + i * sizeof one, sizeof one);
        r.fds[i].reset(one);
      }
  return r;
}

/// False if it did not give what every sandbox has.
bool take_given(const ready_message& m, received& from, launched_init& out) {
  size_t next = 0;
  for (auto [what, to] :
       {std::pair{given_root, &out.root}, std::pair{given_terminals, &out.terminals},
        std::pair{given_proxy, &out.proxy}, std::pair{given_self, &out.pidfd}})
    if ((m.given & what) != 0 && next < from.fds.size())
      *to = std::move(from.fds[next++]);
  out.landlock_abi = m.landlock_abi;
  return static_cast<bool>(out.root);
}

void kill_and_reap(const unique_fd& pidfd) {
  ::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  siginfo_t info{};
  while (::waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &info, WEXITED) != 0 && errno == EINTR) {
  }
  pollfd p{pidfd.get(), POLLIN, 0}; // somebody else may have reaped it
  ::poll(&p, 1, ready_timeout_ms);
}

} // namespace

int init_program() {
  static const unique_fd program = [] {
    constexpr unsigned executable = 0x10; // MFD_EXEC, of newer kernels
    unique_fd fd{::memfd_create("troupe-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | executable)};
    if (!fd)
      fd.reset(::memfd_create("troupe-init", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    auto size = static_cast<size_t>(troupe_init_end - troupe_init_begin);
    if (!fd || ::write(fd.get(), troupe_init_begin, size) != static_cast<ssize_t>(size)
        || ::fchmod(fd.get(), 0555) != 0
        || ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
             != 0)
      fd.reset();
    return fd;
  }();
  return program.get();
}

result<launched_init> launch_init(const launch_plan& plan) {
  auto program = init_program();
  if (program < 0)
    return unexpected{wall_error("init", "making the program's memory file", errno)};
  auto message = setup_datagram(plan);
  if (message.size() > max_datagram || plan.mounts.size() > max_mounts)
    return unexpected{wall_error("init", "the orders are too long", E2BIG)};
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return unexpected{wall_error("init", "socketpair", errno)};
  launched_init out;
  out.control.reset(ends[0]);
  unique_fd theirs{ends[1]};

  std::vector<const char*> sources;
  std::vector<const mount_plan*> handed_mounts;
  for (const auto& x : plan.mounts)
    if (x.kind == mount_kind::handed) {
      sources.push_back(x.source.c_str());
      handed_mounts.push_back(&x);
    }
  std::string handed((sources.size() + 2) * 8, '0');
  char name[] = "troupe-init";
  std::array<char*, 3> argv{name, handed.data(), nullptr};
  char* env[] = {nullptr};
  child_plan child{};
  child.sources = sources.data();
  child.source_count = static_cast<int>(sources.size());
  child.control = theirs.get();
  child.server_control = out.control.get();
  child.listener = plan.listener;
  child.program = program;
  child.handed = handed.data();
  child.argv = argv.data();
  child.env = env;

  child_stack stack;
  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_VM | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_NEWUSER | CLONE_NEWNS
               | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  if (plan.own_network)
    args.flags |= CLONE_NEWNET;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  args.stack = reinterpret_cast<uint64_t>(stack.base());
  args.stack_size = child_stack::size;
  if (plan.cgroup_fd >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(plan.cgroup_fd);
  }
  // A signal for this process must not run one of its handlers in the child.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  {
    counted_as who{plan.uid_count > 0 ? plan.uid_base : 0};
    out.pid = clone_process(args, run_child, &child);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (out.pid < 0)
    return unexpected{wall_error("namespaces", "making the namespaces", -out.pid)};
  out.pidfd.reset(pidfd);
  theirs.reset();

  auto fail = [&](error why) {
    kill_and_reap(out.pidfd);
    return unexpected{std::move(why)};
  };
  if (!write_maps(out.pid, plan))
    return fail(wall_error("user_range", "mapping user and group ids", errno));
  unique_fd overlay;
  if (plan.overlay) {
    // The ids of the layers are mapped as its own are.
    unique_fd ids{
      ::open(("/proc/" + std::to_string(out.pid) + "/ns/user").c_str(), O_RDONLY | O_CLOEXEC)};
    auto mounted = mount_overlay(*plan.overlay, ids.get());
    if (!mounted)
      return fail(std::move(mounted.error()));
    overlay = std::move(*mounted);
  }
  char go = 1;
  if (::send(out.control.get(), &go, 1, MSG_NOSIGNAL) != 1
      || !send_setup(out.control.get(), message, overlay.get())) {
    auto code = errno;
    kill_and_reap(out.pidfd); // after it, what the child wrote is there to be read
    if (child.error < 0 && child.failed_source < child.source_count)
      return unexpected{wall_error(
        "mounts", "opening " + handed_mounts[static_cast<size_t>(child.failed_source)]->source,
        static_cast<int>(-child.error))};
    return unexpected{wall_error("init", "sending orders to init", code)};
  }
  pollfd waiting{out.control.get(), POLLIN, 0};
  int polled;
  do
    polled = ::poll(&waiting, 1, ready_timeout_ms);
  while (polled < 0 && errno == EINTR);
  if (polled <= 0)
    return fail(wall_error("init", "waiting for init", polled == 0 ? ETIMEDOUT : errno));
  auto answer = receive(out.control.get());
  if (answer.size == static_cast<ssize_t>(sizeof(failed_message))) {
    failed_message m;
    std::memcpy(&m, answer.data.data(), sizeof m);
    return fail(setup_error(plan, m));
  }
  if (answer.size != static_cast<ssize_t>(sizeof(ready_message))) {
    kill_and_reap(out.pidfd);
    if (child.error < 0 && child.failed_source < child.source_count && child.source_count > 0)
      return unexpected{wall_error(
        "mounts", "opening " + handed_mounts[static_cast<size_t>(child.failed_source)]->source,
        static_cast<int>(-child.error))};
    return unexpected{wall_error("init", "init ended", ECHILD)};
  }
  ready_message ready;
  std::memcpy(&ready, answer.data.data(), sizeof ready);
  if (ready.head.type != message_type::ready || !take_given(ready, answer, out))
    return fail(wall_error("init", "an answer of init that is none", EPROTO));
  ::fcntl(out.control.get(), F_SETFL, O_NONBLOCK);
  return out;
}

// -- taking over ---------------------------------------------------------------------------------

namespace {

/// How long an init may go on without noticing that its controller is gone.
constexpr std::chrono::seconds patience{5};

enum class greeting { taken, refused, nobody };

error cannot_adopt(const std::string& why) {
  auto e = make_error(errc::workspace_start_error, op::start,
                      "the sandbox that an earlier server left cannot be taken over: " + why);
  e.retryable = true;
  return e;
}

unique_fd connect_in(int private_dir) {
  unique_fd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/control", private_dir);
  ucred peer{};
  socklen_t size = sizeof peer;
  if (!socket || ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0
      || ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0
      || peer.uid != ::geteuid())
    socket.reset();
  return socket;
}

bool wait_for_answer(int socket) {
  pollfd p{socket, POLLIN, 0};
  return ::poll(&p, 1, 2000) > 0;
}

/// The first process of a namespace of its own: what init is, and nothing else that we have.
bool is_first_process(int pidfd) {
  std::istringstream in{read_kernel_file(AT_FDCWD, "/proc/self/fdinfo/" + std::to_string(pidfd))};
  for (std::string line; std::getline(in, line);)
    if (line.compare(0, 6, "NSpid:") == 0)
      return line.size() > 2 && line.compare(line.size() - 2, 2, "\t1") == 0;
  return false;
}

greeting greet(int private_dir, launched_init& out) {
  out.control = connect_in(private_dir);
  if (!out.control)
    return greeting::nobody;
  adopt_message m{{message_type::adopt, sizeof(adopt_message), 0}, protocol_version, 0};
  if (::send(out.control.get(), &m, sizeof m, MSG_NOSIGNAL) != sizeof m
      || !wait_for_answer(out.control.get()))
    return greeting::refused;
  auto answer = receive(out.control.get());
  ready_message ready{};
  if (answer.size != static_cast<ssize_t>(sizeof ready))
    return greeting::refused;
  std::memcpy(&ready, answer.data.data(), sizeof ready);
  if (ready.head.type != message_type::ready || !take_given(ready, answer, out) || !out.pidfd
      || !is_first_process(out.pidfd.get()))
    return greeting::refused;
  out.pid = pid_of(out.pidfd.get());
  ::fcntl(out.control.get(), F_SETFL, O_NONBLOCK);
  return out.pid > 0 ? greeting::taken : greeting::refused;
}

} // namespace

bool has_ids(const launched_init& init, uint32_t uid_base, uint32_t uid_count) {
  std::istringstream in{
    read_kernel_file(AT_FDCWD, "/proc/" + std::to_string(init.pid) + "/uid_map")};
  uint32_t inside = 0;
  uint32_t outside = 0;
  uint32_t count = 0;
  in >> inside >> outside >> count;
  return in && inside == 0 && outside == (uid_count > 0 ? uid_base : ::geteuid())
         && count == (uid_count > 0 ? uid_count : 1);
}

void end_init(launched_init& x) {
  if (::syscall(SYS_pidfd_send_signal, x.pidfd.get(), SIGKILL, nullptr, 0) != 0 && errno == EPERM) {
    // Of a namespace that we have no rights over.
    bare_message end{{message_type::end, sizeof(bare_message), 0}};
    ::send(x.control.get(), &end, sizeof end, MSG_NOSIGNAL);
  }
  pollfd p{x.pidfd.get(), POLLIN, 0};
  while (::poll(&p, 1, -1) < 0 && errno == EINTR) {
  }
  siginfo_t info{};
  ::waitid(P_PIDFD, static_cast<id_t>(x.pidfd.get()), &info, WEXITED | WNOHANG);
}

result<std::optional<launched_init>> adopt_init(int private_dir) {
  auto until = std::chrono::steady_clock::now() + patience;
  while (std::chrono::steady_clock::now() < until) {
    launched_init out;
    switch (greet(private_dir, out)) {
      case greeting::taken: return std::optional{std::move(out)};
      case greeting::nobody: return std::optional<launched_init>{};
      case greeting::refused: break;
    }
    out = {};
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
  }
  // One that does not understand us understands at least this.
  auto socket = connect_in(private_dir);
  bare_message end{{message_type::end, sizeof(bare_message), 0}};
  if (socket && ::send(socket.get(), &end, sizeof end, MSG_NOSIGNAL) == sizeof end)
    wait_for_answer(socket.get());
  socket.reset();
  if (connect_in(private_dir))
    return unexpected{cannot_adopt("somebody else controls it")};
  return std::optional<launched_init>{};
}

} // namespace troupe::backends::isolated
