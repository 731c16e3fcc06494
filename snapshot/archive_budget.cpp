#include "snapshot/archive_budget.hpp"

#include <limits>
#include <utility>

namespace troupe::snapshot {

namespace {

/// Adds, but stays at the largest number; false if that is above `limit`.
bool fits(uint64_t& sum, uint64_t more, const std::optional<int64_t>& limit) {
  constexpr uint64_t largest = std::numeric_limits<int64_t>::max();
  sum = more > largest - sum ? largest : sum + more;
  return !limit || sum <= static_cast<uint64_t>(*limit);
}

} // namespace

error refused(const std::string& path, std::string_view reason) {
  return make_error(errc::workspace_archive_write_error, op::write,
                    "failed to write archive for path: " + path)
    .with("path", path)
    .with("reason", reason);
}

result<void> archive_budget::add_input(uint64_t size) {
  if (!fits(input_, size, limits_.max_input_bytes))
    return unexpected(over("archive input size exceeds limit", *limits_.max_input_bytes, input_));
  return {};
}

result<void> archive_budget::add_member(const std::string& name, bool is_root) {
  if (is_root)
    return {};
  if (!fits(members_, 1, limits_.max_members))
    return unexpected(over("archive member count exceeds limit", *limits_.max_members, members_)
                        .with("member", name));
  return {};
}

result<void> archive_budget::add_content(const std::string& name, uint64_t size) {
  if (!fits(content_, size, limits_.max_extracted_bytes))
    return unexpected(
      over("archive extracted size exceeds limit", *limits_.max_extracted_bytes, content_)
        .with("member", name));
  return {};
}

error archive_budget::over(std::string_view reason, int64_t limit, uint64_t actual) const {
  return refused(path_, reason).with("limit", limit).with("actual", static_cast<int64_t>(actual));
}

} // namespace troupe::snapshot
