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
  std::lock_guard guard{mutex_};
  for (size_t i = 0; i < opts_.threads; ++i)
    add_thread();
  if (opts_.most_threads > opts_.threads)
    watcher_ = start_thread(opts_.name, [this] { watch(); });
}

thread_pool::~thread_pool() {
  stop();
}

bool thread_pool::try_submit(std::string_view tenant, job work) {
  bool held_up;
  {
    std::lock_guard guard{mutex_};
    if (stopping_ || queued_ >= opts_.capacity)
      return false;
    auto i = tenants_.find(tenant);
    if (i == tenants_.end())
      i = tenants_.emplace(tenant, tenant_work{}).first;
    if (i->second.waiting.empty())
      turn_.emplace_back(tenant);
    i->second.waiting.push_back(std::move(work));
    ++queued_;
    held_up = is_held_up();
  }
  wake_.notify_one();
  if (held_up)
    held_up_.notify_one();
  return true;
}

void thread_pool::stop() {
  std::list<std::thread> threads;
  {
    std::lock_guard guard{mutex_};
    stopping_ = true;
  }
  wake_.notify_all();
  held_up_.notify_all();
  if (watcher_.joinable())
    watcher_.join();
  {
    std::lock_guard guard{mutex_};
    threads.splice(threads.end(), threads_);
    threads.splice(threads.end(), ended_);
  }
  for (auto& thread : threads)
    thread.join();
}

size_t thread_pool::queued() const {
  std::lock_guard guard{mutex_};
  return queued_;
}

size_t thread_pool::threads() const {
  std::lock_guard guard{mutex_};
  return threads_.size();
}

void thread_pool::add_thread() {
  threads_.push_back(start_thread(opts_.name, [this] { run(); }));
}

std::deque<std::string>::iterator thread_pool::next() {
  return std::find_if(turn_.begin(), turn_.end(), [this](const std::string& tenant) {
    return tenants_.find(tenant)->second.running < opts_.threads;
  });
}

bool thread_pool::is_held_up() const {
  return queued_ > 0 && running_ == threads_.size();
}

void thread_pool::run() {
  if (opts_.nice != 0)
    step_back(opts_.nice);
  std::unique_lock lock{mutex_};
  for (;;) {
    auto mine = next();
    if (mine == turn_.end()) {
      if (stopping_ && queued_ == 0) {
        wake_.notify_all(); // those that waited for the turn of a tenant
        return;
      }
      if (!stopping_ && threads_.size() - running_ > opts_.threads)
        break;
      wake_.wait(lock);
      continue;
    }
    auto tenant = std::move(*mine);
    turn_.erase(mine);
    auto& x = tenants_.find(tenant)->second;
    auto work = std::move(x.waiting.front());
    x.waiting.pop_front();
    --queued_;
    ++x.running;
    ++running_;
    ++taken_;
    if (!x.waiting.empty())
      turn_.push_back(tenant);
    if (is_held_up())
      held_up_.notify_one();
    lock.unlock();
    work();
    work = nullptr; // what it holds is released before the next wait, and without the lock
    lock.lock();
    --running_;
    if (--x.running == 0 && x.waiting.empty())
      tenants_.erase(tenant);
  }
  auto self = std::find_if(threads_.begin(), threads_.end(), [](const std::thread& x) {
    return x.get_id() == std::this_thread::get_id();
  });
  ended_.splice(ended_.end(), threads_, self);
}

void thread_pool::watch() {
  std::unique_lock lock{mutex_};
  while (!stopping_) {
    held_up_.wait(lock, [this] { return stopping_ || is_held_up(); });
    auto seen = taken_;
    held_up_.wait_for(lock, opts_.patience, [this] { return stopping_; });
    for (auto& thread : ended_)
      thread.join(); // it has let go of the lock for the last time
    ended_.clear();
    if (!stopping_ && taken_ == seen && is_held_up() && next() != turn_.end()
        && threads_.size() < opts_.most_threads)
      add_thread();
  }
}

} // namespace troupe::backends
