#pragma once

#include "actors/entry.hpp"
#include "workspace/manifest_plan.hpp"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

namespace troupe::actors {

/// What an application of a manifest works on. Shared by the jobs, which run on the I/O pool.
struct application {
  std::shared_ptr<const troupe::manifest> manifest;
  bool only_ephemeral = false;
  shared_fd root;
  bool isolated = false;
  /// Who writes what the manifest says itself; what is copied from this machine is given away
  /// afterwards.
  std::optional<backends::user_ids> identity;
  std::string root_path;
  std::string session_id;
  std::string private_dir; ///< for clones on their way into the workspace
  std::string tenant;
  concurrency_limits limits;
  backend_actor backend;
  std::vector<std::pair<std::string, std::string>> environment;
  std::function<void(apply_progress)> report;
  /// Makes the entry actors; a test puts its own in.
  std::function<entry_actor()> spawn_entry;
};

/// One application of a manifest: steps of entries that do not overlap, at most `manifest_entries`
/// jobs at once over the whole application (nesting does not multiply), results in manifest order.
class manifest_supervisor_state {
public:
  using handle_type = manifest_supervisor_actor;
  static constexpr const char* name = "troupe.manifest_supervisor";

  manifest_supervisor_state(self_ptr<handle_type> self, services& shared, application work);
  ~manifest_supervisor_state();

  handle_type::behavior_type make_behavior();

private:
  /// A directory's children (or the whole manifest): its steps, one after the other.
  struct group {
    std::vector<workspace::plan_step> steps;
    size_t next_step = 0;
    size_t running = 0; ///< jobs and nested groups of the current step
    group* parent = nullptr;
  };

  /// A job that waits or runs.
  struct pending_job {
    entry_job_ptr job;
    group* owner = nullptr;
    /// Runs after success, before the owner is told: starts a directory's children.
    const troupe::entry* children_of = nullptr;
    std::string destination;
    size_t order = 0;
    int tries = 0;
    uint32_t entries = 1; ///< of the manifest, for progress
  };

  void start_step(group& g);
  void job_done(group& g);
  void pump();
  void run(pending_job job);
  void succeeded(const pending_job& job, materialized_files files);
  void failed(pending_job job, error reason);
  void finish();

  // -- making jobs
  // --------------------------------------------------------------------------------------

  void add_inline(group& g, std::vector<workspace::planned_entry> batch);
  void add_job(group& g, const workspace::planned_entry& x);

  self_ptr<handle_type> self_;
  services& shared_;
  std::shared_ptr<const application> work_;
  std::vector<std::unique_ptr<group>> groups_;
  std::deque<pending_job> waiting_;
  size_t running_ = 0;
  size_t next_order_ = 0;
  uint32_t total_ = 0;
  uint32_t done_ = 0;
  /// Results by the order in which their jobs were made.
  std::map<size_t, std::vector<materialized_file>> files_;
  std::optional<error> failure_;
  std::optional<reply_to<materialized_files>> reply_;
  std::shared_ptr<std::stop_source> stop_;
  bool finished_ = false;
};

} // namespace troupe::actors
