// PID 1 of a sandbox. Started in its new namespaces with the descriptors that it needs, it builds
// the file system, gives up its own rights and then starts commands for whoever holds the control
// socket. It ends with everything in here: the kernel kills what has no init.
//
// No C library (see sys.hpp), no allocation but for long arguments, every table bounded.

#include "control.hpp"
#include "denials.hpp"
#include "kernel.hpp"
#include "set_up.hpp"
#include "spools.hpp"
#include "state.hpp"
#include "sys.hpp"
#include "thaw.hpp"

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

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

namespace {

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
} // namespace troupe::backends::isolated::init

extern "C" [[noreturn]] void troupe_init(const long* stack) {
  using namespace troupe::backends::isolated::init;
  using sys::arg;
  using sys::call;
  auto count = stack[0];
  auto arguments = reinterpret_cast<char* const*>(stack + 1);
  if (count == 2 && arguments[1][0] == 't') // no digit that descriptors are written with
    thaw_for_the_dead();
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
