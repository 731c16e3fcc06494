#pragma once

#include "actors/offload.hpp"
#include "actors/registry_db.hpp"
#include "actors/services.hpp"

#include <deque>
#include <functional>
#include <memory>

namespace troupe::actors {

/// The only writer of the durable record. Requests that arrive while a transaction runs share the
/// next one, so that a burst of writes costs one commit.
class registry_state {
public:
  using handle_type = with_actions<registry_actor>;
  static constexpr const char* name = "troupe.registry";

  registry_state(self_ptr<handle_type> self, services& shared, std::shared_ptr<registry_db> db);

  handle_type::behavior_type make_behavior();

private:
  /// One request: `run` belongs to the pool thread, `answer` (which holds the promise) to this
  /// actor.
  struct operation {
    std::function<void(registry_db&)> run;
    std::function<void(const result<void>& committed)> answer;
  };

  template <class T, class Work>
  caf::result<T> enqueue(Work work);
  void run_batch();

  self_ptr<handle_type> self_;
  services& shared_;
  std::shared_ptr<registry_db> db_;
  /// Waiting for the next transaction.
  std::deque<operation> waiting_;
  /// In the transaction that runs now.
  std::vector<operation> in_flight_;
};

} // namespace troupe::actors
