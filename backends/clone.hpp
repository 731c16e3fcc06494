#pragma once

#include <linux/sched.h>
#include <sys/types.h>

#include <cstddef>

namespace troupe::backends {

/// Memory for the stack of a child that shares ours, with a guard page below. Null if there is
/// none.
class child_stack {
public:
  child_stack();
  ~child_stack();
  child_stack(const child_stack&) = delete;
  child_stack& operator=(const child_stack&) = delete;

  void* base() const {
    return base_;
  }
  static constexpr size_t size = 128 * 1024;

private:
  void* memory_;
  void* base_ = nullptr;
};

/// What runs in a child between clone and exec may call nothing that the sanitizers or libc keep
/// state for: it shares the memory of a thread that is stopped in the middle of a call.
#define TROUPE_IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

/// `clone3`, which libc does not wrap: the child runs `body(argument)` on the stack that `args`
/// names and exits with what it returns. The child's pid, or errno negated.
pid_t clone_process(clone_args& args, int (*body)(void*), void* argument);

} // namespace troupe::backends
