// Says one byte, then gives back whatever it reads, without libc.

namespace {

long call(long number, long a, const void* b, long c) {
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c)
               : "rcx", "r11", "memory");
  return result;
}

constexpr long read_call = 0;
constexpr long write_call = 1;
constexpr long exit_call = 60;

char buffer[4096];

} // namespace

extern "C" [[noreturn]] void _start() {
  call(write_call, 1, "!", 1);
  for (long n; (n = call(read_call, 0, buffer, sizeof buffer)) > 0;)
    call(write_call, 1, buffer, n);
  call(exit_call, 0, nullptr, 0);
  __builtin_unreachable();
}
