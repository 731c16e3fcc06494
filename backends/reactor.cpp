#include "backends/reactor.hpp"

#include "backends/threads.hpp"
#include "messages/unique_fd.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace troupe::backends {

namespace {

constexpr uint64_t wake_id = 0;

/// Without its epoll the server can neither see a process end nor keep a deadline.
[[noreturn]] void fatal(const char* what) {
  std::perror(what);
  std::abort();
}

} // namespace

struct reactor::impl {
  // -- member types ------------------------------------------------------------------------------

  struct watched {
    int fd;
    uint32_t events;
    io_handler handler;
  };

  // -- the loop ----------------------------------------------------------------------------------

  impl() : epoll(::epoll_create1(EPOLL_CLOEXEC)), wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!epoll || !wake)
      fatal("reactor");
    // Edge-triggered: a write wakes us, and nobody ever needs to read.
    control(EPOLL_CTL_ADD, wake.get(), EPOLLIN | EPOLLET, wake_id);
    thread = start_thread("reactor", [this] { run(); });
  }

  void run() {
    for (;;) {
      run_timers();
      if (!run_posted())
        return;
      wait();
      retired.clear();
    }
  }

  void run_timers() {
    if (timers.empty())
      return;
    auto now = clock::now();
    while (!timers.empty() && timers.begin()->first.first <= now) {
      auto node = timers.extract(timers.begin());
      deadlines.erase(node.key().second);
      node.mapped()();
    }
  }

  /// Runs what was posted; false once the reactor stops.
  bool run_posted() {
    bool stop;
    {
      std::lock_guard guard{mutex};
      running.swap(posted);
      stop = stopping;
    }
    for (auto& work : running)
      std::exchange(work, nullptr)();
    running.clear();
    return !stop;
  }

  void wait() {
    std::array<epoll_event, 256> events;
    auto n = ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), timeout());
    if (n < 0 && errno != EINTR)
      fatal("epoll_wait");
    {
      std::lock_guard guard{mutex};
      awake = true;
    }
    for (int i = 0; i < n; ++i) {
      const auto& event = events[static_cast<size_t>(i)];
      // Looked up for each event: an earlier handler of this batch may have unwatched it.
      if (auto w = watches.find(event.data.u64); w != watches.end())
        w->second.handler(event.events);
    }
  }

  /// Milliseconds to sleep. From here on until `awake` is set, posting writes to the eventfd.
  int timeout() {
    std::lock_guard guard{mutex};
    if (!posted.empty() || stopping)
      return 0;
    awake = false;
    if (timers.empty())
      return -1;
    auto left
      = std::chrono::ceil<std::chrono::milliseconds>(timers.begin()->first.first - clock::now());
    return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
  }

  void post(task work) {
    bool asleep;
    {
      std::lock_guard guard{mutex};
      if (stopping)
        return;
      posted.push_back(std::move(work));
      asleep = !std::exchange(awake, true);
    }
    if (asleep)
      ::eventfd_write(wake.get(), 1);
  }

  void stop() {
    {
      std::lock_guard guard{mutex};
      stopping = true;
    }
    ::eventfd_write(wake.get(), 1);
    thread.join();
  }

  // -- descriptors -------------------------------------------------------------------------------

  void control(int operation, int fd, uint32_t events, watch_id id) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    if (::epoll_ctl(epoll.get(), operation, fd, &event) != 0)
      fatal("epoll_ctl");
  }

  void modify(watch_id id, uint32_t events) {
    auto i = watches.find(id);
    if (i == watches.end() || i->second.events == events)
      return;
    auto& w = i->second;
    // Taken out rather than muted: the kernel reports hang-ups whatever one asks for.
    auto operation = w.events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    control(operation, w.fd, events, id);
    w.events = events;
  }

  void unwatch(watch_id id) {
    modify(id, 0);
    if (auto node = watches.extract(id))
      retired.push_back(std::move(node)); // it may be the one that runs
  }

  // -- member variables --------------------------------------------------------------------------

  unique_fd epoll;
  unique_fd wake;

  std::mutex mutex;
  std::vector<task> posted; ///< guarded
  bool awake = true;        ///< guarded; false: somebody has to write to `wake`
  bool stopping = false;    ///< guarded

  std::vector<task> running; ///< `posted` of the turn before, kept for its memory
  using watch_map = std::unordered_map<watch_id, watched>;
  watch_map watches;
  std::vector<watch_map::node_type> retired; ///< unwatched in this turn
  std::map<std::pair<clock::time_point, timer_id>, task> timers;
  std::unordered_map<timer_id, clock::time_point> deadlines;
  uint64_t next_id = 1;
  std::thread thread;
};

reactor::reactor() : impl_(std::make_unique<impl>()) {}

reactor::~reactor() {
  impl_->stop();
}

void reactor::post(task work) {
  impl_->post(std::move(work));
}

bool reactor::on_reactor_thread() const {
  return std::this_thread::get_id() == impl_->thread.get_id();
}

reactor::watch_id reactor::watch(int fd, uint32_t events, io_handler handler) {
  auto id = impl_->next_id++;
  impl_->watches.emplace(id, impl::watched{fd, events, std::move(handler)});
  if (events != 0)
    impl_->control(EPOLL_CTL_ADD, fd, events, id);
  return id;
}

void reactor::modify(watch_id id, uint32_t events) {
  impl_->modify(id, events);
}

void reactor::unwatch(watch_id id) {
  impl_->unwatch(id);
}

reactor::timer_id reactor::at(clock::time_point when, task work) {
  auto id = impl_->next_id++;
  impl_->timers.emplace(std::pair{when, id}, std::move(work));
  impl_->deadlines.emplace(id, when);
  return id;
}

void reactor::cancel(timer_id id) {
  auto i = impl_->deadlines.find(id);
  if (i == impl_->deadlines.end())
    return;
  impl_->timers.erase({i->second, id});
  impl_->deadlines.erase(i);
}

} // namespace troupe::backends
