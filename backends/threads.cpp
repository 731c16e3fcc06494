#include "backends/threads.hpp"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace troupe::backends {

std::thread start_thread(const std::string& name, std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // Blocked before the thread exists, so that there is no moment in which it takes one.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread{std::move(body)};
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name.substr(0, 15).c_str());
  return thread;
}

} // namespace troupe::backends
