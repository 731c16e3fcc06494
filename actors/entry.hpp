#pragma once

#include "actors/coroutine.hpp"
#include "actors/offload.hpp"
#include "actors/services.hpp"

namespace troupe::actors {

/// Does one job of a manifest and ends. What it makes is made beside and renamed, so that a job may
/// be run again by another entry actor after this one died.
class entry_state {
public:
  using handle_type = entry_actor;
  static constexpr const char* name = "troupe.entry";

  entry_state(self_ptr<handle_type> self, services& shared, std::string tenant,
              backend_actor backend, std::vector<std::pair<std::string, std::string>> environment);
  ~entry_state();

  handle_type::behavior_type make_behavior();

private:
  co<result<materialized_files>> work(entry_job_ptr job);

  co<result<void>> fetch(entry_job_ptr job);
  /// The attempts in order; the first failure of the first attempt is the one reported.
  co<result<void>> run_commands(entry_job_ptr job, backend_actor where);

  self_ptr<handle_type> self_;
  services& shared_;
  std::string tenant_;
  backend_actor backend_;
  backend_actor own_backend_; ///< of a job with a sandbox of its own, until that is removed
  std::vector<std::pair<std::string, std::string>> environment_;
  task_scope scope_;
};

} // namespace troupe::actors
