#include "snapshot/text_diff.hpp"

#include "messages/error.hpp"

#include <algorithm>
#include <vector>

namespace troupe::snapshot {

namespace {

constexpr int max_edits = 1000;
constexpr size_t context = 3;

bool is_text(std::string_view x) {
  return x.find('\0') == x.npos && to_utf8(x) == x;
}

std::vector<std::string_view> lines_of(std::string_view x) {
  std::vector<std::string_view> lines;
  while (!x.empty()) {
    auto end = std::min(x.find('\n'), x.size() - 1) + 1;
    lines.push_back(x.substr(0, end));
    x.remove_prefix(end);
  }
  return lines;
}

/// One line of the script that makes one text of the other.
struct edit {
  char kind; ///< ' ', '-' or '+'
  size_t before;
  size_t after;
};

/// Myers' greedy algorithm, walked back over the furthest points of each round.
std::optional<std::vector<edit>> script(const std::vector<std::string_view>& a,
                                        const std::vector<std::string_view>& b) {
  auto n = static_cast<int>(a.size());
  auto m = static_cast<int>(b.size());
  std::vector<std::vector<int>> rounds;
  std::vector<int> furthest(2 * max_edits + 3, 0);
  auto at = [&](int k) -> int& { return furthest[static_cast<size_t>(k + max_edits + 1)]; };
  int d = 0;
  for (bool done = false; !done; ++d) {
    if (d > max_edits)
      return std::nullopt;
    rounds.emplace_back(furthest.begin() + max_edits + 1 - d - 1,
                        furthest.begin() + max_edits + 1 + d + 2);
    for (int k = -d; k <= d && !done; k += 2) {
      int x = k == -d || (k != d && at(k - 1) < at(k + 1)) ? at(k + 1) : at(k - 1) + 1;
      int y = x - k;
      while (x < n && y < m && a[static_cast<size_t>(x)] == b[static_cast<size_t>(y)])
        ++x, ++y;
      at(k) = x;
      done = x >= n && y >= m;
    }
  }
  std::vector<edit> edits;
  int x = n;
  int y = m;
  auto add = [&](char kind) {
    edits.push_back({kind, static_cast<size_t>(x), static_cast<size_t>(y)});
  };
  while (--d >= 0) {
    const auto& was = rounds[static_cast<size_t>(d)];
    auto before = [&](int k) { return was[static_cast<size_t>(k + d + 1)]; };
    int k = x - y;
    int from_k = k == -d || (k != d && before(k - 1) < before(k + 1)) ? k + 1 : k - 1;
    int from_x = d == 0 ? 0 : before(from_k);
    int from_y = d == 0 ? 0 : from_x - from_k;
    while (x > from_x && y > from_y) {
      --x, --y;
      add(' ');
    }
    if (d == 0)
      break;
    if (from_k == k + 1) {
      --y;
      add('+');
    } else {
      --x;
      add('-');
    }
  }
  std::reverse(edits.begin(), edits.end());
  return edits;
}

} // namespace

std::optional<std::string> unified_diff(std::string_view before, std::string_view after) {
  if (!is_text(before) || !is_text(after))
    return std::nullopt;
  auto a = lines_of(before);
  auto b = lines_of(after);
  auto edits = script(a, b);
  if (!edits)
    return std::nullopt;
  std::string out;
  for (size_t i = 0; i < edits->size();) {
    if ((*edits)[i].kind == ' ') {
      ++i;
      continue;
    }
    auto begin = i - std::min(i, context);
    auto end = i;
    for (auto j = i; j < edits->size() && j <= end + 2 * context; ++j)
      if ((*edits)[j].kind != ' ')
        end = j;
    auto stop = std::min(end + context + 1, edits->size());
    std::string body;
    size_t removed = 0;
    size_t added = 0;
    for (auto j = begin; j < stop; ++j) {
      const auto& e = (*edits)[j];
      auto line = e.kind == '+' ? b[e.after] : a[e.before];
      body.append(1, e.kind).append(line);
      if (!line.ends_with('\n'))
        body += "\n\\ No newline at end of file\n";
      removed += e.kind != '+';
      added += e.kind != '-';
    }
    const auto& first = (*edits)[begin];
    auto range = [](size_t at, size_t count) {
      auto text = std::to_string(count == 0 ? at : at + 1);
      return count == 1 ? text : text + ',' + std::to_string(count);
    };
    out
      += "@@ -" + range(first.before, removed) + " +" + range(first.after, added) + " @@\n" + body;
    i = stop;
  }
  return out;
}

} // namespace troupe::snapshot
