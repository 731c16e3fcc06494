#include "backends/terminal_rules.hpp"

#include <algorithm>
#include <numeric>

namespace troupe::backends {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds shortest_yield{250};
constexpr milliseconds shortest_poll{5'000};
constexpr milliseconds longest_yield{30'000};

/// Not given up, whatever happens.
constexpr size_t protected_terminals = 8;

constexpr int32_t first_id = 1'000;
constexpr int32_t id_count = 99'000;

} // namespace

milliseconds clamp_yield(milliseconds requested, bool polling) {
  return std::clamp(requested, polling ? shortest_poll : shortest_yield, longest_yield);
}

std::optional<size_t> choose_victim(const std::vector<terminal_use>& terminals) {
  if (terminals.size() <= protected_terminals)
    return std::nullopt;
  std::vector<size_t> oldest_first(terminals.size());
  std::iota(oldest_first.begin(), oldest_first.end(), size_t{0});
  std::stable_sort(oldest_first.begin(), oldest_first.end(), [&](size_t a, size_t b) {
    return terminals[a].last_used < terminals[b].last_used;
  });
  oldest_first.resize(terminals.size() - protected_terminals);
  auto exited = std::find_if(oldest_first.begin(), oldest_first.end(),
                             [&](size_t i) { return terminals[i].exited; });
  return exited != oldest_first.end() ? *exited : oldest_first.front();
}

int32_t choose_terminal_id(uint64_t random, const std::function<bool(int32_t)>& taken) {
  auto id = first_id + static_cast<int32_t>(random % id_count);
  while (taken(id))
    id = id + 1 < first_id + id_count ? id + 1 : first_id;
  return id;
}

} // namespace troupe::backends
