#pragma once

#include "messages/interfaces.hpp"

#include <caf/actor_system_config.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <caf/scoped_actor.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <random>

namespace troupe::tests {

/// An actor system that runs on the test's own thread, one message at a time, in virtual time.
/// Which of the runnable actors goes next is drawn from a seed, so that other seeds try other
/// interleavings.
class deterministic_system {
  struct config : caf::actor_system_config {
    config() {
      add_message_types<caf::id_block::troupe>();
      set("scheduler.policy", caf::atom("testing"));
      set("logger.verbosity", caf::atom("quiet"));
    }
  };

public:
  explicit deterministic_system(unsigned seed = 1) : random_(seed) {}

  ~deterministic_system() {
    run();
  }

  bool step() {
    auto& jobs = scheduler.jobs;
    if (jobs.size() > 1)
      std::rotate(jobs.begin(), jobs.begin() + static_cast<std::ptrdiff_t>(random_() % jobs.size()),
                  jobs.end());
    return scheduler.try_run_once();
  }

  void run() {
    while (step()) {
    }
  }

  void advance(caf::timespan by) {
    scheduler.advance_time(by);
    run();
  }

  template <class Handle>
  void kill(const Handle& x) {
    caf::anon_send_exit(x, caf::exit_reason::kill);
    run();
  }

  /// Sends, runs everything, and gives the answer; nullopt when there is none.
  template <class R, class Handle, class... Ts>
  std::optional<result<R>> call(const Handle& target, Ts... xs) {
    std::optional<result<R>> out;
    auto pending = self->request(target, caf::infinite, std::move(xs)...);
    run();
    if (self->mailbox().empty())
      return out;
    auto on_error = [&](caf::error& e) { out = unexpected(from_caf(e)); };
    if constexpr (std::is_void_v<R>)
      pending.receive([&] { out = result<void>{}; }, on_error);
    else
      pending.receive([&](R& x) { out = result<R>{std::move(x)}; }, on_error);
    return out;
  }

private:
  config config_;

public:
  caf::actor_system system{config_};
  caf::scoped_actor self{system, true};
  caf::scheduler::test_coordinator& scheduler
    = dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler());

private:
  std::mt19937 random_;
};

} // namespace troupe::tests
