#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace troupe::snapshot {

/// The paths of an archive's members, to tell which of them cannot be on a disk together. Costs
/// time and memory in the length of the paths, not in their depth.
class member_index {
public:
  /// A member that lies below one that is not a directory.
  struct descent {
    std::string member; ///< its name as the archive has it
    std::string parent; ///< the path of the other
  };

  /// False if `path` (normal, not empty) is there already and not both are directories.
  bool add(std::string_view path, const std::string& member, bool is_directory);

  /// The first member of the archive with such a fault, with the nearest of those above it.
  const std::optional<descent>& first_descent() const {
    return first_descent_;
  }

  /// How many paths there are, with those of directories that are no members.
  size_t paths() const {
    return nodes_.size() - 1;
  }

  /// Roughly the memory in use.
  size_t memory() const {
    return memory_;
  }

private:
  struct node {
    bool is_member = false;
    bool is_directory = true;
    uint32_t needed_by = 0; ///< of `needing_`: the member that this directory was first above
  };

  struct needing {
    std::string member;
    uint64_t order = 0;
  };

  using key = std::pair<uint32_t, std::string>; ///< directory and name

  struct key_hash {
    size_t operator()(const key& x) const {
      return std::hash<std::string>{}(x.second) ^ (x.first * 0x9e3779b97f4a7c15u);
    }
  };

  void note(uint64_t order, const std::string& member, std::string_view parent);

  std::vector<node> nodes_{1}; ///< 0: the root
  std::unordered_map<key, uint32_t, key_hash> children_;
  std::vector<needing> needing_;
  uint64_t members_ = 0;
  size_t memory_ = 0;
  std::optional<descent> first_descent_;
  uint64_t first_order_ = 0;
};

} // namespace troupe::snapshot
