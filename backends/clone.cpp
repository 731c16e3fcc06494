#include "backends/clone.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace troupe::backends {

namespace {

size_t page_size() {
  return static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

} // namespace

child_stack::child_stack()
  : memory_(::mmap(nullptr, size + page_size(), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0)) {
  if (memory_ == MAP_FAILED)
    return;
  ::mprotect(memory_, page_size(), PROT_NONE);
  base_ = static_cast<char*>(memory_) + page_size();
}

child_stack::~child_stack() {
  if (memory_ != MAP_FAILED)
    ::munmap(memory_, size + page_size());
}

#if defined(__x86_64__)

pid_t clone_process(clone_args& args, int (*body)(void*), void* argument) {
  long result;
  // In assembly because the child returns from the call on another stack than it went in on.
  register auto body_register asm("r8") = body;
  register auto argument_register asm("r9") = argument;
  asm volatile("syscall\n\t"
               "test %%rax, %%rax\n\t"
               "jnz 1f\n\t"
               "xor %%ebp, %%ebp\n\t"
               "and $-16, %%rsp\n\t"
               "mov %%r9, %%rdi\n\t"
               "call *%%r8\n\t"
               "mov %%eax, %%edi\n\t"
               "mov %[exit], %%eax\n\t"
               "syscall\n"
               "1:"
               : "=a"(result), "+r"(body_register), "+r"(argument_register)
               : "a"(static_cast<long>(SYS_clone3)), "D"(&args),
                 "S"(sizeof args), [exit] "i"(SYS_exit)
               : "rcx", "r11", "memory", "cc");
  return static_cast<pid_t>(result);
}

#else
#  error "clone_process is not written for this processor"
#endif

} // namespace troupe::backends
