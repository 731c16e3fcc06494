#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace troupe::backends {

/// Threads for work that may block, with a bounded queue that is fair between tenants.
///
/// Blocking work must not run where actors run. But a pool with one queue lets a tenant that
/// submits a thousand jobs hold up everyone else, so each tenant has its own queue and the workers
/// take from them in turn.
class thread_pool {
public:
  using job = std::function<void()>;

  struct options {
    std::string name = "pool"; ///< of the threads, at most 15 bytes
    size_t threads = 4;
    size_t capacity = 4096; ///< jobs waiting, of all tenants together
    int nice = 0;           ///< added to the threads' niceness; threads they make inherit it
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

private:
  void run();

  options opts_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  /// Waiting jobs by tenant; a tenant without any is not in here.
  std::map<std::string, std::deque<job>, std::less<>> queues_;
  /// Tenants with waiting jobs, in the order they are served.
  std::deque<std::string> turn_;
  size_t queued_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

} // namespace troupe::backends
