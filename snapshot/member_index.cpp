#include "snapshot/member_index.hpp"

namespace troupe::snapshot {

namespace {

constexpr size_t cost_per_node = 96; // hash table and allocator, beside the name

} // namespace

bool member_index::add(std::string_view path, const std::string& member, bool is_directory) {
  auto order = members_++;
  bool was_needed = false; // some directory is new because of this member
  uint32_t at = 0;
  for (size_t begin = 0; begin <= path.size();) {
    auto end = std::min(path.find('/', begin), path.size());
    bool is_last = end == path.size();
    auto [child, is_new]
      = children_.try_emplace(key{at, path.substr(begin, end - begin)}, nodes_.size());
    at = child->second;
    if (is_new) {
      nodes_.emplace_back();
      memory_ += cost_per_node + (end - begin);
      if (!is_last) {
        if (!std::exchange(was_needed, true)) {
          needing_.push_back({member, order});
          memory_ += sizeof(needing) + member.size();
        }
        nodes_[at].needed_by = static_cast<uint32_t>(needing_.size() - 1);
      }
    }
    auto& x = nodes_[at];
    if (is_last) {
      if (x.is_member && !(x.is_directory && is_directory))
        return false;
      if (!x.is_member && !is_new && !is_directory)
        note(needing_[x.needed_by].order, needing_[x.needed_by].member, path);
      x.is_member = true;
      x.is_directory = is_directory;
    } else if (!x.is_directory) {
      note(order, member, path.substr(0, end));
    }
    begin = end + 1;
  }
  return true;
}

void member_index::note(uint64_t order, const std::string& member, std::string_view parent) {
  bool is_first = !first_descent_ || order < first_order_
                  || (order == first_order_ && parent.size() > first_descent_->parent.size());
  if (!is_first)
    return;
  first_descent_ = {member, std::string{parent}};
  first_order_ = order;
}

} // namespace troupe::snapshot
