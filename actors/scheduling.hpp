#pragma once

#include <caf/policy/unprofiled.hpp>
#include <caf/resumable.hpp>
#include <caf/scheduler/coordinator.hpp>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

namespace troupe::actors {

/// How CAF's workers share actors that have messages: who sends, takes the receiver up next.
///
/// A request passes through half a dozen actors, each of which does a few microseconds of work.
/// CAF's own `sharing` wakes another worker for each of them, which costs more than the work itself
/// (half of all futex calls of a server under load). Here a worker keeps what its actor has sent
/// to, newest first, as that is what somebody waits for; only what exceeds `kept` goes to the
/// others. Messages from other threads go to whoever is idle.
///
/// The interface is that of a policy of CAF 0.17 (`caf/policy/work_sharing.hpp`).
class near_first : public caf::policy::unprofiled {
public:
  using job = caf::resumable*;

  struct coordinator_data {
    explicit coordinator_data(caf::scheduler::abstract_coordinator*) {}

    std::mutex mutex;
    std::condition_variable wake;
    std::deque<job> jobs; ///< guarded
    size_t idle = 0;      ///< guarded; workers that wait
  };

  struct worker_data {
    explicit worker_data(caf::scheduler::abstract_coordinator*) {}

    std::deque<job> own; ///< touched by the worker's thread only
    unsigned streak = 0; ///< taken in a row without a look at what is older
  };

  template <class Coordinator>
  void central_enqueue(Coordinator* self, job x) {
    bool somebody_waits;
    {
      std::lock_guard guard{d(self).mutex};
      d(self).jobs.push_back(x);
      somebody_waits = d(self).idle > 0;
    }
    if (somebody_waits)
      d(self).wake.notify_one();
  }

  template <class Worker>
  void external_enqueue(Worker* self, job x) {
    central_enqueue(self->parent(), x);
  }

  template <class Worker>
  void internal_enqueue(Worker* self, job x) {
    auto& own = d(self).own;
    own.push_front(x);
    if (own.size() <= kept)
      return;
    auto oldest = own.back();
    own.pop_back();
    central_enqueue(self->parent(), oldest);
  }

  /// One that has had its share of messages goes behind all others.
  template <class Worker>
  void resume_job_later(Worker* self, job x) {
    central_enqueue(self->parent(), x);
  }

  template <class Worker>
  job dequeue(Worker* self) {
    auto& own = d(self).own;
    auto& streak = d(self).streak;
    if (!own.empty() && ++streak < longest_streak) {
      auto next = own.front();
      own.pop_front();
      return next;
    }
    streak = 0;
    auto& all = d(self->parent());
    std::unique_lock lock{all.mutex};
    if (all.jobs.empty() && !own.empty()) {
      auto next = own.back();
      own.pop_back();
      return next;
    }
    while (all.jobs.empty()) {
      ++all.idle;
      all.wake.wait(lock);
      --all.idle;
    }
    auto next = all.jobs.front();
    all.jobs.pop_front();
    return next;
  }

  template <class Worker>
  void before_shutdown(Worker* self) {
    for (auto x : d(self).own)
      central_enqueue(self->parent(), x);
    d(self).own.clear();
  }

  template <class Worker, class Visit>
  void foreach_resumable(Worker* self, Visit visit) {
    for (auto x : std::exchange(d(self).own, {}))
      visit(x);
  }

  template <class Coordinator, class Visit>
  void foreach_central_resumable(Coordinator* self, Visit visit) {
    std::deque<job> left;
    {
      std::lock_guard guard{d(self).mutex};
      left.swap(d(self).jobs);
    }
    for (auto x : left)
      visit(x);
  }

private:
  static constexpr size_t kept = 2;
  static constexpr unsigned longest_streak = 16;
};

} // namespace troupe::actors
