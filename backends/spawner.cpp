#include "backends/spawner.hpp"

#include "backends/clone.hpp"
#include "backends/threads.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <utility>

namespace troupe::backends {

namespace {

// -- errors --------------------------------------------------------------------------------------

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const auto& part : parts)
    (out += out.empty() ? "" : " ") += part;
  return out;
}

std::string describe(int code) {
  if (code == E2BIG)
    return "the arguments and the environment are too large (one may have 128 KiB)";
  auto text = ::strerrordesc_np(code);
  return text != nullptr ? text : "unknown error";
}

error start_error(const spawn_request& request, int code) {
  auto e = make_error(errc::exec_transport_error, op::exec, "failed to start: " + describe(code));
  auto name = ::strerrorname_np(code);
  e.with("errno", code).with("errno_name", name != nullptr ? name : "");
  e.with("detail", describe(code)).with("command", request.argv);
  e.with("command_str", joined(request.argv));
  if (code == EAGAIN || code == ENOMEM)
    e.retryable = true;
  return e;
}

error directory_error(const spawn_request& request, int code) {
  if (code != ENOENT && code != ENOTDIR)
    return start_error(request, code).with("path", request.cwd);
  return make_error(errc::workspace_root_not_found, op::exec,
                    "workspace root not found: " + request.cwd)
    .with("path", request.cwd);
}

} // namespace

error spawn_error(const spawn_request& request, int code, bool of_directory) {
  return of_directory ? directory_error(request, code) : start_error(request, code);
}

result<void> check_spawn(const spawn_request& request) {
  auto invalid = [](const char* what) {
    return unexpected{make_error(errc::invalid_request, op::exec, what)};
  };
  auto has_nul = [](const std::string& x) { return x.find('\0') != std::string::npos; };
  if (request.argv.empty())
    return invalid("the command is empty");
  if (std::any_of(request.argv.begin(), request.argv.end(), has_nul))
    return invalid("an argument contains a NUL");
  if (std::any_of(request.env.begin(), request.env.end(), has_nul))
    return invalid("the environment contains a NUL");
  if (has_nul(request.cwd))
    return invalid("the working directory contains a NUL");
  return {};
}

namespace {

// -- what the child works with -------------------------------------------------------------------

/// Places where the program may be, in the order of PATH.
std::vector<std::string> candidates(const spawn_request& request) {
  constexpr size_t limit = 256; // a PATH made to hold up the spawner
  const auto& name = request.argv.front();
  if (name.empty() || name.find('/') != std::string::npos)
    return {name};
  std::string_view path = "/usr/local/bin:/usr/bin:/bin";
  for (std::string_view entry : request.env)
    if (entry.substr(0, 5) == "PATH=")
      path = entry.substr(5);
  std::vector<std::string> out;
  for (size_t at = 0; at <= path.size() && out.size() < limit;) {
    auto end = std::min(path.find(':', at), path.size());
    auto place = std::string{path.substr(at, end - at)};
    if (!place.empty())
      place += '/';
    out.push_back(place += name);
    at = end + 1;
  }
  return out;
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const auto& x : strings)
    out.push_back(const_cast<char*>(x.c_str()));
  out.push_back(nullptr);
  return out;
}

/// All that a child needs between clone and exec, in plain memory made beforehand.
struct child_plan {
  char* const* candidates;
  char* const* argv;
  char* const* env;
  const char* cwd;
  const int* slots;
  unsigned first_foreign; ///< above all of our slots
  const int* ignored;     ///< signals to set to their default, up to a 0
  bool controlling_terminal;
  pid_t parent;

  // -- written by the child, read by us once it has exec'ed or died ------------------------------
  int error = 0;
  bool error_is_of_cwd = false;
};

/// As execvp tries each candidate; but what the kernel cannot run is not given to a shell.
TROUPE_IN_CHILD int exec_first(child_plan& plan) {
  int denied = 0;
  int last = ENOENT;
  for (auto candidate = plan.candidates; *candidate != nullptr; ++candidate) {
    ::syscall(SYS_execve, *candidate, plan.argv, plan.env);
    last = errno;
    if (last == EACCES)
      denied = last;
    else if (last != ENOENT && last != ENOTDIR && last != ESTALE && last != ENODEV
             && last != ETIMEDOUT)
      return last;
  }
  return denied != 0 ? denied : last;
}

TROUPE_IN_CHILD int run_child(void* argument) {
  auto& plan = *static_cast<child_plan*>(argument);
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::syscall(SYS_getppid) != plan.parent)
    return 127; // the server died before the line above
  // Until here the descriptor table is the server's. Now a copy of its first slots; had that
  // failed, the lines below would overwrite the server's own streams.
  if (::syscall(SYS_close_range, plan.first_foreign, ~0U, CLOSE_RANGE_UNSHARE) != 0) {
    plan.error = errno;
    return 127;
  }
  for (int i = 0; i < 3; ++i)
    ::syscall(SYS_dup3, plan.slots[i], i, 0);
  ::syscall(SYS_close_range, 3U, ~0U, 0);
  // CLONE_CLEAR_SIGHAND leaves ignored signals ignored. All zero is the kernel's SIG_DFL.
  const unsigned long default_action[4] = {};
  for (auto signal = plan.ignored; *signal != 0; ++signal)
    ::syscall(SYS_rt_sigaction, *signal, default_action, nullptr, sizeof(long));
  const unsigned long no_signals = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, nullptr, sizeof no_signals);
  ::syscall(SYS_setsid);
  if (plan.controlling_terminal && ::syscall(SYS_ioctl, 0, TIOCSCTTY, 0) != 0) {
    plan.error = errno;
    return 127;
  }
  ::syscall(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  ::syscall(SYS_umask, 022);
  if (::syscall(SYS_chdir, plan.cwd) != 0) {
    plan.error = errno;
    plan.error_is_of_cwd = true;
    return 127;
  }
  plan.error = exec_first(plan);
  return 127;
}

// -- of the process ------------------------------------------------------------------------------

unique_fd open_null() {
  unique_fd fd{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  if (!fd) {
    std::perror("/dev/null");
    std::abort();
  }
  return fd;
}

/// A program started by something careless may lack 0, 1 or 2; a pipe there would be a child's
/// stream.
void fill_standard_streams() {
  for (int fd = 0; fd < 3; ++fd)
    if (::fcntl(fd, F_GETFD) < 0)
      (void) ::open("/dev/null", O_RDWR); // the lowest free number, which is `fd`
}

/// Signals that are ignored now, ended by 0; and in any case those that servers ignore sooner or
/// later.
std::vector<int> ignored_signals() {
  std::vector<int> out{SIGPIPE, SIGINT, SIGQUIT};
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    struct sigaction action {};
    if (std::find(out.begin(), out.end(), signal) == out.end()
        && ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN)
      out.push_back(signal);
  }
  out.push_back(0);
  return out;
}

int32_t exit_code(const siginfo_t& info) {
  return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

} // namespace

struct spawner::impl {
  // -- member types ------------------------------------------------------------------------------

  struct job {
    spawn_request request;
    callback done;
  };

  struct worker {
    child_stack stack;
    /// Low descriptor numbers that children take their streams from; at rest they are /dev/null.
    std::array<unique_fd, 3> slots;
    /// A child that is not in `children` yet. The kernel writes it before the child runs.
    std::atomic<pid_t> starting{0};
    std::thread thread;
  };

  // -- initialization ----------------------------------------------------------------------------

  impl(size_t threads, size_t max_waiting) : capacity(max_waiting), workers(threads) {
    fill_standard_streams();
    null = open_null();
    for (auto& w : workers)
      for (auto& slot : w.slots)
        slot.reset(::fcntl(null.get(), F_DUPFD_CLOEXEC, 3));
    ignored = ignored_signals();
    for (auto& w : workers)
      w.thread = start_thread("spawner", [this, &w] { run(w); });
  }

  void stop() {
    {
      std::lock_guard guard{mutex};
      stopping = true;
    }
    wake.notify_all();
    for (auto& w : workers)
      if (w.thread.joinable())
        w.thread.join();
  }

  // -- starting ----------------------------------------------------------------------------------

  void run(worker& w) {
    std::unique_lock lock{mutex};
    for (;;) {
      wake.wait(lock, [this] { return stopping || !jobs.empty(); });
      if (jobs.empty())
        return;
      auto next = std::move(jobs.front());
      jobs.pop_front();
      auto stop = stopping;
      lock.unlock();
      if (stop)
        next.done(unexpected{make_error(errc::cancelled, op::exec, "the server is stopping")});
      else
        next.done(start(w, next.request));
      next = {};
      lock.lock();
    }
  }

  result<spawned> start(worker& w, const spawn_request& request) {
    if (auto ok = check_spawn(request); !ok)
      return unexpected{std::move(ok.error())};
    auto places = candidates(request);
    auto place_pointers = pointers(places);
    auto argv = pointers(request.argv);
    auto env = pointers(request.env);
    std::array<int, 3> slots;
    for (size_t i = 0; i < 3; ++i)
      slots[i] = w.slots[i].get();

    child_plan plan{};
    plan.candidates = place_pointers.data();
    plan.argv = argv.data();
    plan.env = env.data();
    plan.cwd = request.cwd.c_str();
    plan.slots = slots.data();
    plan.first_foreign = static_cast<unsigned>(*std::max_element(slots.begin(), slots.end())) + 1;
    plan.ignored = ignored.data();
    plan.controlling_terminal = request.controlling_terminal;
    plan.parent = ::getpid();

    std::array streams{request.stdin_fd, request.stdout_fd, request.stderr_fd};
    for (size_t i = 0; i < 3; ++i)
      if (streams[i] >= 0 && ::dup3(streams[i], slots[i], O_CLOEXEC) < 0) {
        auto code = errno;
        release(streams, slots);
        return unexpected{start_error(request, code)};
      }
    auto process = clone_child(w, plan, request.cgroup_fd);
    release(streams, slots);
    if (process.pid < 0)
      return unexpected{start_error(request, -process.pid)};
    if (plan.error != 0) {
      discard(w, process);
      return unexpected{spawn_error(request, plan.error, plan.error_is_of_cwd)};
    }
    keep(w, process);
    return process;
  }

  /// The pid is errno negated if it fails.
  spawned clone_child(worker& w, child_plan& plan, int cgroup_fd) {
    int pidfd = -1;
    clone_args args{};
    args.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD | CLONE_PARENT_SETTID
                 | CLONE_CLEAR_SIGHAND;
    args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
    args.parent_tid = reinterpret_cast<uint64_t>(&w.starting);
    args.exit_signal = SIGCHLD;
    args.stack = reinterpret_cast<uint64_t>(w.stack.base());
    args.stack_size = child_stack::size;
    if (cgroup_fd >= 0) {
      args.flags |= CLONE_INTO_CGROUP;
      args.cgroup = static_cast<uint64_t>(cgroup_fd);
    }
    spawned process;
    process.pid = clone_process(args, run_child, &plan);
    process.pidfd.reset(pidfd);
    return process;
  }

  /// Puts /dev/null back, or we would hold the child's end of its pipes.
  void release(const std::array<int, 3>& streams, const std::array<int, 3>& slots) {
    for (size_t i = 0; i < 3; ++i)
      if (streams[i] >= 0)
        ::dup3(null.get(), slots[i], O_CLOEXEC);
  }

  void keep(worker& w, const spawned& process) {
    std::lock_guard guard{children_mutex};
    children.insert(process.pid);
    w.starting = 0;
  }

  void discard(worker& w, const spawned& process) {
    siginfo_t info{};
    while (::waitid(P_PIDFD, static_cast<id_t>(process.pidfd.get()), &info, WEXITED) != 0
           && errno == EINTR) {
    }
    w.starting = 0;
  }

  // -- reaping -----------------------------------------------------------------------------------

  std::optional<int32_t> reap(const spawned& process) {
    // One lock over waiting and erasing: in between, another thread may be given the same pid.
    std::lock_guard guard{children_mutex};
    siginfo_t info{};
    if (::waitid(P_PIDFD, static_cast<id_t>(process.pidfd.get()), &info, WEXITED | WNOHANG) != 0
        || info.si_pid == 0)
      return std::nullopt;
    children.erase(process.pid);
    return exit_code(info);
  }

  void reap_orphans() {
    constexpr int at_once = 256;
    std::lock_guard guard{children_mutex};
    for (int i = 0; i < at_once; ++i) {
      siginfo_t info{};
      // The kernel offers the same one until somebody takes it, so one of ours ends the round: its
      // owner is on the way, and there will be another round.
      if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0
          || is_ours(info.si_pid))
        return;
      ::waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED | WNOHANG);
    }
  }

  bool is_ours(pid_t pid) const {
    return children.count(pid) > 0
           || std::any_of(workers.begin(), workers.end(),
                          [pid](const worker& w) { return w.starting == pid; });
  }

  // -- member variables --------------------------------------------------------------------------

  size_t capacity;
  unique_fd null;
  std::vector<int> ignored;

  std::mutex mutex;
  std::condition_variable wake;
  std::deque<job> jobs;  ///< guarded by `mutex`
  bool stopping = false; ///< guarded by `mutex`

  mutable std::mutex children_mutex;
  std::unordered_set<pid_t> children; ///< started and not reaped; guarded by `children_mutex`

  std::vector<worker> workers;
};

spawner::spawner(size_t threads, size_t capacity)
  : impl_(std::make_unique<impl>(threads, capacity)) {}

spawner::~spawner() {
  stop();
}

void spawner::stop() {
  impl_->stop();
}

bool spawner::submit(spawn_request request, callback done) {
  {
    std::lock_guard guard{impl_->mutex};
    if (impl_->stopping || impl_->jobs.size() >= impl_->capacity)
      return false;
    impl_->jobs.push_back({std::move(request), std::move(done)});
  }
  impl_->wake.notify_one();
  return true;
}

std::optional<int32_t> spawner::reap(const spawned& process) {
  return impl_->reap(process);
}

void spawner::reap_orphans() {
  impl_->reap_orphans();
}

} // namespace troupe::backends
