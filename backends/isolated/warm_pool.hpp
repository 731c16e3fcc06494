#pragma once

#include "backends/cgroups.hpp"
#include "backends/isolated/sandbox_maker.hpp"
#include "backends/isolated/shared_parts.hpp"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace troupe::backends::isolated {

/// Sandboxes that were made before anyone asked, for each place of a workspace that the operator
/// named. Each is like one that is made when it is asked for, with all its walls, on an empty
/// workspace; it has been nobody's, and is given away once.
///
/// One thread makes them, one at a time, when nobody takes any; they are in `<dir>/warm`, which is
/// swept of what an earlier process left.
class warm_pool {
public:
  warm_pool(cgroup_tree& cgroups, shared_parts& parts);
  /// (blocks) Ends those that nobody took.
  ~warm_pool();

  warm_pool(const warm_pool&) = delete;
  warm_pool& operator=(const warm_pool&) = delete;

  /// (blocks, below a millisecond) One for a session whose private directory is not there or empty,
  /// which it then is. Nullopt: there is none, or this session needs another kind.
  std::optional<made_sandbox> take(const sandbox_config& config);

  std::vector<warm_count> counts() const;

private:
  using clock = std::chrono::steady_clock;

  struct warm {
    std::string dir;
    made_sandbox box;
  };

  sandbox_config config_for(const std::string& root, const std::string& dir) const;
  bool fits(const sandbox_config& config) const;
  std::optional<warm> pop(const std::string& root);
  /// Whether it became that session's; else it is untouched.
  bool move_in(const warm& x, const sandbox_config& config) const;
  result<void> make(const std::string& root, warm& out) const;
  void discard(warm x) const;
  void sweep() const;
  void fill();
  /// A root that lacks a sandbox, once it is time to make it; nullopt: we are to stop.
  std::optional<std::string> next_root(std::unique_lock<std::mutex>& lock);

  cgroup_tree& cgroups_;
  shared_parts& parts_;
  const std::string dir_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<std::string, std::deque<warm>> ready_; ///< guarded; by the place of the workspace
  clock::time_point last_take_;                   ///< guarded
  clock::time_point not_before_;                  ///< guarded; after one could not be made
  bool stopping_ = false;                         ///< guarded
  std::thread thread_;
};

} // namespace troupe::backends::isolated
