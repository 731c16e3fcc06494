// Exits at once, without libc: starting this costs what the kernel asks and nothing else.
extern "C" [[noreturn]] void _start() {
  asm volatile("xor %edi, %edi\n\t"
               "mov $60, %eax\n\t"
               "syscall");
  __builtin_unreachable();
}
