#include "thaw.hpp"
#include "kernel.hpp"
#include "state.hpp"
#include "sys.hpp"

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

[[noreturn]] void thaw_for_the_dead() {
  char released;
  long n;
  do
    n = call(__NR_read, 0, arg(&released), 1);
  while (n == -EINTR);
  if (n <= 0)
    call(__NR_write, 1, arg("0"), 1);
  leave(0);
}

} // namespace troupe::backends::isolated::init
