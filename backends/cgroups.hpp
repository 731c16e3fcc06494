#pragma once

#include "backends/backend.hpp"
#include "backends/reactor.hpp"
#include "messages/error.hpp"
#include "messages/session.hpp"
#include "messages/unique_fd.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace troupe::backends {

/// A control group (v2) of one sandbox: what is born in it cannot leave its sight, and dies at one
/// write. Dropped without `remove`, it stays until the tree is swept.
///
/// After `kill` the kernel goes on killing what is born in here for a moment: never start anything
/// in a group that was killed, make another.
class cgroup {
public:
  cgroup(cgroup&&) noexcept = default;
  cgroup& operator=(cgroup&&) noexcept = default;

  /// The directory, for CLONE_INTO_CGROUP.
  const shared_fd& directory() const {
    return directory_;
  }

  /// Kills everything in it and below, also what is being forked.
  void kill() const;

  /// (blocks) Stops all in it and below, or lets it go on. False if it does not stop in time.
  bool freeze(bool frozen) const;

  /// Whether nothing in it or below is alive; zombies do not count.
  bool empty() const;

  /// Removes it and what was made below it; false while something is alive in there.
  bool remove() const;

  /// CPU time; memory and pids as far as those controllers are here, else the pids by counting.
  session_usage usage() const;

private:
  friend class cgroup_tree;
  cgroup(shared_fd parent, std::string name, unique_fd directory);

  shared_fd parent_;
  std::string name_;
  shared_fd directory_;
};

/// Where this server's cgroups are: `<our own cgroup>/troupe-<instance>`.
class cgroup_tree {
public:
  /// No tree: sandboxes do without.
  cgroup_tree() : reason_("turned off") {}

  /// Whether a group of an earlier process stays.
  using keeper = std::function<bool(const std::string& name)>;

  /// (blocks) Finds or makes the tree, then kills and removes what an earlier process left in it,
  /// but for what `keep` keeps.
  explicit cgroup_tree(const std::string& instance, const keeper& keep = nullptr);

  /// (blocks) Kills and removes what is left.
  ~cgroup_tree();

  cgroup_tree(const cgroup_tree&) = delete;
  cgroup_tree& operator=(const cgroup_tree&) = delete;

  bool available() const {
    return root_ != nullptr;
  }

  /// Why there are none; empty if there are.
  const std::string& reason() const {
    return reason_;
  }

  /// Makes an empty group; `name` without slashes, not in use.
  result<cgroup> make(const std::string& name);

  /// One that an earlier process made; nullopt: there is none.
  std::optional<cgroup> find(const std::string& name);

private:
  void sweep(const keeper& keep);

  std::string path_;
  shared_fd root_;
  std::string reason_;
};

/// Reactor thread. Kills all in `group`, waits for the kernel to report it empty, removes it, then
/// runs `done`.
void destroy(reactor& events, std::shared_ptr<const cgroup> group, std::function<void()> done);

} // namespace troupe::backends
