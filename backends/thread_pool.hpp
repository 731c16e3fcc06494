#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace troupe::backends {

/// Threads for work that may block, with a bounded queue that is fair between tenants.
///
/// Blocking work must not run where actors run. But a pool with one queue lets a tenant that
/// submits a thousand jobs hold up everyone else, so each tenant has its own queue and the workers
/// take from them in turn. And some work never comes back: a file on a mount whose store hangs,
/// say. So no tenant holds more than `threads` threads at a time, and while those are held and
/// nothing is taken from the queue, there are more of them for the others.
class thread_pool {
public:
  using job = std::function<void()>;

  struct options {
    std::string name = "pool"; ///< of the threads, at most 15 bytes
    size_t threads = 4;
    size_t most_threads = 0; ///< with those added while `threads` are held; 0: none are
    std::chrono::milliseconds patience{250}; ///< without progress, before one is added
    size_t capacity = 4096;                  ///< jobs waiting, of all tenants together
    int nice = 0; ///< added to the threads' niceness; threads they make inherit it
  };

  explicit thread_pool(options opts);

  /// Runs what is queued, then joins.
  ~thread_pool();

  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  /// Queues `work`; false if the queue is full or the pool is stopping. `work` must not throw.
  bool try_submit(std::string_view tenant, job work);

  /// Stops taking work, runs what is queued, joins. Idempotent.
  void stop();

  size_t queued() const;
  size_t threads() const;

private:
  struct tenant_work {
    std::deque<job> waiting;
    size_t running = 0;
  };

  void add_thread();
  void run();
  /// Adds threads while the others are held.
  void watch();
  /// Whose job is next; the end of `turn_`: nobody's.
  std::deque<std::string>::iterator next();
  bool is_held_up() const;

  options opts_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable held_up_;
  /// By tenant; one without any work is not in here.
  std::map<std::string, tenant_work, std::less<>> tenants_;
  /// Tenants with waiting jobs, in the order they are served.
  std::deque<std::string> turn_;
  size_t queued_ = 0;
  size_t running_ = 0;
  uint64_t taken_ = 0; ///< jobs, ever
  bool stopping_ = false;
  std::list<std::thread> threads_;
  std::list<std::thread> ended_; ///< to be joined
  std::thread watcher_;
};

} // namespace troupe::backends
