#include "backends/thread_pool.hpp"

#include "backends/threads.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace troupe::backends {

namespace {

/// sched_setattr's first version; the kernel's own header does not go with <sched.h>.
struct scheduling {
  uint32_t size = sizeof(scheduling);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0;
  uint64_t deadline = 0;
  uint64_t period = 0;
};

/// Work that may wait gives way at once to what is awaited: besides being nicer it never preempts
/// others, and its long slice lets a kernel that knows slices (6.12) preempt it early.
void step_back(int nice) {
  // On Linux niceness belongs to the thread, whatever POSIX says.
  auto tid = static_cast<id_t>(::gettid());
  auto wanted = ::getpriority(PRIO_PROCESS, tid) + nice;
  scheduling wish{.policy = SCHED_BATCH, .nice = std::min(wanted, 19), .runtime = 100'000'000};
  if (::syscall(SYS_sched_setattr, 0, &wish, 0) != 0)
    ::setpriority(PRIO_PROCESS, tid, wanted);
}

} // namespace

thread_pool::thread_pool(options opts) : opts_(std::move(opts)) {
  for (size_t i = 0; i < opts_.threads; ++i)
    threads_.push_back(start_thread(opts_.name, [this] { run(); }));
}

thread_pool::~thread_pool() {
  stop();
}

bool thread_pool::try_submit(std::string_view tenant, job work) {
  {
    std::lock_guard guard{mutex_};
    if (stopping_ || queued_ >= opts_.capacity)
      return false;
    auto i = queues_.find(tenant);
    if (i == queues_.end()) {
      i = queues_.emplace(tenant, std::deque<job>{}).first;
      turn_.emplace_back(tenant);
    }
    i->second.push_back(std::move(work));
    ++queued_;
  }
  wake_.notify_one();
  return true;
}

void thread_pool::stop() {
  std::vector<std::thread> threads;
  {
    std::lock_guard guard{mutex_};
    stopping_ = true;
    threads.swap(threads_);
  }
  wake_.notify_all();
  for (auto& thread : threads)
    thread.join();
}

size_t thread_pool::queued() const {
  std::lock_guard guard{mutex_};
  return queued_;
}

void thread_pool::run() {
  if (opts_.nice != 0)
    step_back(opts_.nice);
  std::unique_lock lock{mutex_};
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || queued_ > 0; });
    if (queued_ == 0)
      return;
    auto tenant = std::move(turn_.front());
    turn_.pop_front();
    auto i = queues_.find(tenant);
    auto work = std::move(i->second.front());
    i->second.pop_front();
    --queued_;
    if (i->second.empty())
      queues_.erase(i);
    else
      turn_.push_back(std::move(tenant));
    lock.unlock();
    work();
    work = nullptr; // what it holds is released before the next wait, and without the lock
    lock.lock();
  }
}

} // namespace troupe::backends
