#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace troupe::actors {

/// Snapshots that somebody is about to need and that no session's record says so of yet: whoever
/// removes what nobody needs leaves them. Any thread.
class snapshot_pins {
public:
  using pin = std::shared_ptr<const void>;
  using time_point = std::chrono::steady_clock::time_point;

  /// Keeps a snapshot while the pin lives.
  [[nodiscard]] pin hold(std::string id) {
    std::lock_guard guard{all_->mutex};
    ++all_->held[id];
    return {this, [all = all_, id = std::move(id)](const void*) {
              std::lock_guard inner{all->mutex};
              all->note(id);
              if (auto i = all->held.find(id); --i->second == 0)
                all->held.erase(i);
            }};
  }

  /// Keeps snapshots for sessions that somebody else makes, until `arrived` or the time is over.
  void expect(const std::vector<std::string>& ids, time_point until) {
    std::lock_guard guard{all_->mutex};
    auto now = std::chrono::steady_clock::now();
    std::erase_if(all_->expected, [&](const auto& x) { return x.second < now; });
    for (const auto& id : ids)
      all_->expected[id] = until;
  }
  void arrived(const std::string& id) {
    std::lock_guard guard{all_->mutex};
    if (all_->expected.erase(id) > 0)
      all_->note(id);
  }

  /// What is kept at any time while this lives stays kept as long: whoever asks for records after
  /// this has begun, and for pins last, misses nobody.
  [[nodiscard]] pin watch() {
    std::lock_guard guard{all_->mutex};
    ++all_->watching;
    return {this, [all = all_](const void*) {
              std::lock_guard inner{all->mutex};
              if (--all->watching == 0)
                all->lately.clear();
            }};
  }

  bool keeps(const std::string& id) const {
    std::lock_guard guard{all_->mutex};
    auto i = all_->expected.find(id);
    return all_->held.contains(id) || all_->lately.contains(id)
           || (i != all_->expected.end() && std::chrono::steady_clock::now() <= i->second);
  }

private:
  struct state {
    mutable std::mutex mutex;
    std::map<std::string, uint32_t> held;
    std::map<std::string, time_point> expected;
    std::set<std::string> lately; ///< let go of while somebody watches
    uint32_t watching = 0;

    void note(const std::string& id) {
      if (watching > 0)
        lately.insert(id);
    }
  };
  std::shared_ptr<state> all_ = std::make_shared<state>();
};

} // namespace troupe::actors
