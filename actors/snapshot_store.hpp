#pragma once

#include "actors/coroutine.hpp"
#include "actors/offload.hpp"
#include "actors/services.hpp"

#include <map>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

namespace troupe::actors {

/// Persists and restores workspaces on the CPU pool: some jobs at a time, one per snapshot, the
/// rest in a bounded queue.
class snapshot_store_state {
public:
  using handle_type = local_snapshot_store_actor;
  static constexpr const char* name = "troupe.snapshot_store";

  snapshot_store_state(self_ptr<handle_type> self, services& shared);
  ~snapshot_store_state();

  handle_type::behavior_type make_behavior();

private:
  class place;
  class ticket;

  co<result<snapshot_outcome>> persist(persist_snapshot x);
  co<result<void>> restore(restore_snapshot x);
  co<result<layers_held>> hold(hold_layers x);
  /// `collect`: frees what it took at once, if nobody works there.
  co<result<void>> remove(remove_snapshot x, bool collect = true);
  co<result<bool>> restorable(snapshot_restorable x);
  co<result<std::string>> fingerprint(compute_fingerprint x);

  co<result<void>> verify(verify_snapshot x);
  co<result<workspace_diff>> diff(diff_snapshots x);
  co<result<workspace_diff>> diff_live(diff_live_tree x);

  // -- retention (snapshot_retention.cpp)

  co<result<prune_report>> prune(prune_snapshots x);
  /// Removes what the configured bounds leave no room for, of every tenant; then again later.
  co<result<void>> retain();
  void schedule_retention();
  /// A tenant's snapshots, or everybody's.
  co<result<std::vector<snapshot_info>>> list_all(std::string tenant);
  /// Ids of the snapshots that sessions need to go on.
  co<result<std::set<std::string>>> needed();
  /// Removes the oldest of `all` that are beyond the bounds, but none of `keep`.
  co<result<prune_report>> prune_some(std::vector<snapshot_info> all, prune_snapshots bounds,
                                      std::set<std::string> keep);

  /// Removes blobs that nothing refers to from a folder, a little later: when the last reference
  /// went, a job may have had the folder in use.
  void collect_later(const std::string& base_path);
  /// Makes one layer of a long chain, after the answer. Gives way to whoever needs the snapshot
  /// meanwhile, unless the chain is too long. `unpacked`: it will be laid below a workspace again.
  /// `held`: see `repository::flatten`.
  co<result<void>> flatten(snapshot_ref ref, std::string tenant, uint32_t layers, bool unpacked,
                           std::string held);
  /// Brings what the registry says of the layers of a snapshot to what they are.
  co<result<void>> note_layers(snapshot_ref ref, std::string tenant);
  void give_way(const std::string& id);
  /// Brings a remote snapshot to this machine, or to its store. Nothing for one that is local.
  co<result<void>> fetch(snapshot_ref ref, std::string tenant);
  co<result<void>> publish(snapshot_ref ref, std::string tenant);
  co<result<void>> fetch_missing(snapshot_ref ref, std::string tenant);
  /// Brings here what a tree of a remote session is compared with. Whether that could be; without,
  /// the whole is read and written.
  co<bool> fetch_base(snapshot_ref ref, std::string base, std::string tenant);
  /// Keeps what is here of remote snapshots while somebody works with it: from before it is looked
  /// for until after.
  std::vector<snapshot_pins::pin> pin_remote(const snapshot_ref& ref,
                                             const std::vector<std::string>& ids = {});
  /// A little later, makes room for what remote stores have.
  void trim_later();
  using transfer_step
    = result<void> (snapshot::repository::*)(const snapshot_ref&, std::stop_token);
  co<result<void>> transfer(snapshot_ref ref, std::string tenant, transfer_step step);
  bool is_remote(const snapshot_ref& ref) const;
  /// What to tell of a job on a snapshot that failed: `not_found` where somebody has removed it
  /// meanwhile.
  co<error> explain(error failed, snapshot_ref ref, std::string tenant);
  template <class T>
  co<result<T>> explained(co<result<T>> job, snapshot_ref ref, std::string tenant) {
    auto done = co_await job;
    if (done || done.error().code != errc::snapshot_restore_error)
      co_return done;
    auto why = co_await explain(std::move(done.error()), std::move(ref), std::move(tenant));
    co_return unexpected(std::move(why));
  }
  /// Where a snapshot of that tenant is; `not_found`.
  co<result<snapshot_ref>> find(std::string id, std::string tenant);

  /// `overloaded` when the tenant's queue, or everybody's, is full.
  result<ticket> admit(op operation, const std::string& tenant);

  self_ptr<handle_type> self_;
  services& shared_;
  uint32_t queued_ = 0;                       ///< jobs that were admitted
  std::map<std::string, uint32_t> queued_of_; ///< by tenant
  std::stop_source stop_;
  /// A node that ends does not wait for what runs.
  std::stop_callback<std::function<void()>> with_node_;
  std::map<std::string, std::stop_source> flattening_; ///< those that give way, by snapshot id
  std::set<std::string> uncollected_; ///< folders that `collect_later` is to look at
  bool trim_due_ = false;
  bool trim_again_ = false; ///< some time later
  /// One job per snapshot: waiters by snapshot id.
  std::map<std::string, std::shared_ptr<async_semaphore>> by_id_;
  async_semaphore running_;
  /// What waits for the network leaves most threads of the pool to others: transfers, and looks.
  async_semaphore transfers_;
  async_semaphore looks_;
  task_scope scope_;
};

} // namespace troupe::actors
