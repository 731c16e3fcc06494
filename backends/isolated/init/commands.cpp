#include "commands.hpp"
#include "kernel.hpp"
#include "parse.hpp"
#include "set_up.hpp"
#include "state.hpp"
#include "sys.hpp"

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

namespace {

alignas(16) char child_stack[16 * 1024];
constexpr size_t max_pointers = 4096;
char* pointers[max_pointers]; ///< arguments and environment of an ordinary command

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
  return call(__NR_execve, arg(path), arg(plan.argv), arg(plan.env));
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

/// Waits until the child has left our memory, by exec or by its end. Others with its new id may
/// stop it before that, and we would wait for ever: it goes on then, or dies if that does not end.
void await_exec(long pid, const int& tid) {
  constexpr long pace_ns = 20'000'000;
  constexpr int patience = 50;
  constexpr long of_process = 1; // P_PID
  for (int stops = 0;;) {
    auto left = __atomic_load_n(&tid, __ATOMIC_ACQUIRE);
    if (left == 0)
      return;
    __kernel_timespec pace{0, pace_ns};
    if (call(__NR_futex, arg(&tid), 0 /* FUTEX_WAIT */, left, arg(&pace)) != -ETIMEDOUT)
      continue;
    int info[32] = {};
    if (call(__NR_waitid, of_process, pid, arg(info), WSTOPPED | WNOHANG | __WALL, 0) == 0
        && info[0] == SIGCHLD)
      call(__NR_kill, pid, ++stops < patience ? SIGCONT : SIGKILL);
  }
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
  static int tid; // as long as anything shares our memory
  auto pid
    = sys::clone_sharing(run_child, &plan, child_stack + sizeof child_stack,
                         CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, &tid);
  if (pid < 0)
    return {spawn_stage::clone, pid};
  await_exec(pid, tid);
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

} // namespace

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

} // namespace troupe::backends::isolated::init
