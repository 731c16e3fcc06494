#include "backends/thread_pool.hpp"

#include "backends/threads.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <utility>

namespace troupe::backends {

namespace {

void add_niceness(int nice) {
  // On Linux niceness belongs to the thread, whatever POSIX says.
  auto tid = static_cast<id_t>(::gettid());
  ::setpriority(PRIO_PROCESS, tid, ::getpriority(PRIO_PROCESS, tid) + nice);
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
    add_niceness(opts_.nice);
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
