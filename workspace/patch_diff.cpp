#include "workspace/patch_diff.hpp"

#include "workspace/unicode_text.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace troupe::workspace {

namespace {

using line_list = std::vector<std::string_view>;

constexpr std::string_view end_of_patch = "*** End Patch";
constexpr std::string_view end_of_file = "*** End of File";

/// As much of the input as an error repeats.
constexpr size_t quoted_bytes = 2000;

/// Lines that all searches of one diff may look at, together. Only text made of repetitions needs
/// more than a few times its length.
constexpr size_t search_budget = 100'000'000;

unexpected<error> fault(std::string message) {
  message.resize(head_of(message, quoted_bytes).size());
  return unexpected(make_error(errc::apply_patch_invalid_diff, op::apply_patch, message));
}

// -- lines ----------------------------------------------------------------------------------------

bool ends_patch(std::string_view line) {
  return line.starts_with(end_of_patch) || line.starts_with("*** Update File:")
         || line.starts_with("*** Delete File:") || line.starts_with("*** Add File:");
}

bool ends_hunks(std::string_view line) {
  return ends_patch(line) || line.starts_with(end_of_file);
}

std::string_view without_cr(std::string_view line) {
  while (line.ends_with('\r'))
    line.remove_suffix(1);
  return line;
}

line_list split_lines(std::string_view text) {
  line_list lines;
  for (size_t end = 0; (end = text.find('\n')) != std::string_view::npos;) {
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  lines.push_back(text);
  return lines;
}

/// The lines of a text, of which the last is empty if the text ends in a newline.
line_list text_lines(std::string_view text) {
  auto lines = split_lines(text);
  for (size_t i = 0; i + 1 < lines.size(); ++i)
    if (lines[i].ends_with('\r'))
      lines[i].remove_suffix(1);
  return lines;
}

/// The lines of a diff, and one that ends it.
line_list diff_lines(std::string_view diff) {
  auto lines = split_lines(diff);
  std::transform(lines.begin(), lines.end(), lines.begin(), without_cr);
  if (lines.back().empty())
    lines.pop_back();
  lines.push_back(end_of_patch);
  return lines;
}

std::string join(std::span<const std::string_view> lines, std::string_view newline) {
  std::string out;
  size_t size = 0;
  for (auto line : lines)
    size += line.size() + newline.size();
  out.reserve(size);
  for (auto line : lines)
    out.append(line).append(newline);
  if (!lines.empty())
    out.resize(out.size() - newline.size());
  return out;
}

std::string quote(std::span<const std::string_view> lines) {
  return join(lines.first(std::min(lines.size(), quoted_bytes)), "\n");
}

std::string_view newline_of(std::string_view text, std::string_view diff, diff_mode mode) {
  bool from_text = mode == diff_mode::update && text.find('\n') != std::string_view::npos;
  return (from_text ? text : diff).find("\r\n") != std::string_view::npos ? "\r\n" : "\n";
}

// -- finding lines --------------------------------------------------------------------------------

/// How two lines are compared, from strict to lax.
using line_view = std::string_view (*)(std::string_view);

constexpr line_view as_is = [](std::string_view line) { return line; };
constexpr std::array<line_view, 3> views = {as_is, trim_end, trim};

/// The lines of a text by what they say. Sorted rather than hashed, for their author could choose
/// them to collide.
class line_index {
public:
  line_index(const line_list& lines, line_view view)
    : view_(view), texts_(lines.size()), order_(lines.size()), groups_(lines.size()) {
    std::transform(lines.begin(), lines.end(), texts_.begin(), view);
    std::iota(order_.begin(), order_.end(), 0U);
    std::sort(order_.begin(), order_.end(), [this](uint32_t a, uint32_t b) {
      auto order = texts_[a].compare(texts_[b]);
      return order < 0 || (order == 0 && a < b);
    });
    for (size_t i = 0; i < order_.size(); ++i) {
      bool same = i > 0 && texts_[order_[i]] == texts_[order_[i - 1]];
      groups_[order_[i]] = same ? groups_[order_[i - 1]] : static_cast<uint32_t>(i);
    }
  }

  /// Where `line` is, ascending.
  std::span<const uint32_t> places(std::string_view line) const {
    auto less = [this](uint32_t i, std::string_view x) { return texts_[i] < x; };
    auto greater = [this](std::string_view x, uint32_t i) { return x < texts_[i]; };
    auto text = view_(line);
    auto first = std::lower_bound(order_.begin(), order_.end(), text, less);
    return {first, std::upper_bound(first, order_.end(), text, greater)};
  }

  /// The first place of `line` at or after `from`.
  std::optional<size_t> find(std::string_view line, size_t from) const {
    auto all = places(line);
    auto i = std::lower_bound(all.begin(), all.end(), from);
    return i == all.end() ? std::nullopt : std::optional<size_t>{*i};
  }

  /// The first place at or after `from` where all of `wanted` follow each other. Takes the lines it
  /// looks at off `budget`; out of budget is not found.
  std::optional<size_t> find(std::span<const std::string_view> wanted, size_t from,
                             size_t& budget) const {
    if (wanted.size() == 1)
      return find(wanted[0], from);
    std::vector<uint32_t> pattern;
    pattern.reserve(wanted.size());
    std::span<const uint32_t> rarest = order_;
    size_t offset = 0; // of the rarest line in the pattern
    for (size_t i = 0; i < wanted.size(); ++i) {
      auto all = places(wanted[i]);
      auto ahead = std::lower_bound(all.begin(), all.end(), from + i);
      if (ahead == all.end())
        return std::nullopt;
      pattern.push_back(groups_[all.front()]);
      if (std::span<const uint32_t> left{ahead, all.end()}; i == 0 || left.size() < rarest.size()) {
        rarest = left;
        offset = i;
      }
    }
    if (rarest.size() > (groups_.size() - from) / pattern.size())
      return find_groups(pattern, from, budget);
    for (auto place : rarest)
      if (is_at(place - offset, pattern, budget))
        return place - offset;
    return std::nullopt;
  }

private:
  bool is_at(size_t place, const std::vector<uint32_t>& pattern, size_t& budget) const {
    if (pattern.size() > groups_.size() - place)
      return false;
    if (budget < pattern.size()) {
      budget = 0;
      return false;
    }
    budget -= pattern.size();
    return std::equal(pattern.begin(), pattern.end(),
                      groups_.begin() + static_cast<std::ptrdiff_t>(place));
  }

  /// Knuth, Morris and Pratt: hunks and text may be nothing but one line again and again.
  std::optional<size_t> find_groups(const std::vector<uint32_t>& pattern, size_t from,
                                    size_t& budget) const {
    std::vector<uint32_t> borders(pattern.size(), 0);
    for (uint32_t i = 1, n = 0; i < pattern.size(); ++i) {
      while (n > 0 && pattern[i] != pattern[n])
        n = borders[n - 1];
      n += pattern[i] == pattern[n];
      borders[i] = n;
    }
    uint32_t matched = 0;
    for (size_t i = from; i < groups_.size() && budget > 0; ++i, --budget) {
      while (matched > 0 && groups_[i] != pattern[matched])
        matched = borders[matched - 1];
      matched += groups_[i] == pattern[matched];
      if (matched == pattern.size())
        return i + 1 - pattern.size();
    }
    return std::nullopt;
  }

  line_view view_;
  line_list texts_;
  std::vector<uint32_t> order_;  ///< lines by text, then by place
  std::vector<uint32_t> groups_; ///< the same number for the same text
};

// -- hunks ----------------------------------------------------------------------------------------

/// Some lines of the text that go, and what comes in their place.
struct chunk {
  size_t place;
  size_t deleted;
  line_list inserted;
};

struct hunk {
  line_list context;         ///< the lines kept and deleted, in order
  std::vector<chunk> chunks; ///< places are within `context`
  bool at_end = false;
};

struct anchors {
  line_list texts; ///< without the blank ones
  size_t count = 0;
};

/// Goes through an update diff hunk by hunk, and with it down the text.
class updater {
public:
  updater(const line_list& text, const line_list& diff) : text_(text), diff_(diff) {}

  result<std::vector<chunk>> run() {
    while (!ends_hunks(diff_[next_])) {
      auto hunk_anchors = read_anchors();
      if (hunk_anchors.count == 0 && cursor_ != 0)
        return fault("Invalid Line:\n" + std::string{diff_[next_]});
      if (auto done = follow(hunk_anchors); !done)
        return unexpected(std::move(done.error()));
      auto x = read_hunk();
      if (!x)
        return unexpected(std::move(x.error()));
      auto place = find(*x);
      if (!place && budget_ == 0)
        return fault("apply_patch diff takes too long to match");
      if (!place)
        return fault((x->at_end ? "Invalid EOF Context " : "Invalid Context ")
                     + std::to_string(cursor_) + ":\n" + quote(x->context));
      cursor_ = *place + x->context.size();
      for (auto& c : x->chunks) {
        c.place += *place;
        chunks_.push_back(std::move(c));
      }
    }
    return std::move(chunks_);
  }

private:
  anchors read_anchors() {
    anchors x;
    for (; diff_[next_] == "@@" || diff_[next_].starts_with("@@ "); ++next_, ++x.count)
      if (auto text = diff_[next_].substr(std::min<size_t>(3, diff_[next_].size()));
          !trim(text).empty())
        x.texts.push_back(text);
    return x;
  }

  /// Moves the cursor behind the lines that the anchors name. A single one is only a hint.
  result<void> follow(const anchors& x) {
    for (size_t i = 0; i < x.texts.size(); ++i) {
      auto place = find_anchor(x.texts[i], i == 0);
      if (place)
        cursor_ = *place;
      else if (x.count > 1)
        return fault("Invalid Anchor " + std::to_string(cursor_) + ":\n" + std::string{x.texts[i]});
    }
    return {};
  }

  /// The new cursor. The first anchor of a hunk may name a line that was passed already.
  std::optional<size_t> find_anchor(std::string_view anchor, bool first) {
    for (size_t view : {0, 2}) {
      const auto& lines = index(view);
      if (first && lines.find(anchor, 0).value_or(cursor_) < cursor_)
        return cursor_;
      if (auto place = lines.find(anchor, cursor_))
        return *place + 1;
    }
    return std::nullopt;
  }

  result<hunk> read_hunk() {
    hunk x;
    const auto start = next_;
    chunk open{0, 0, {}};
    auto close = [&] {
      if (open.deleted > 0 || !open.inserted.empty()) {
        open.place = x.context.size() - open.deleted;
        x.chunks.push_back(std::exchange(open, {0, 0, {}}));
      }
    };
    for (; !ends_hunk(diff_[next_]); ++next_) {
      auto line = diff_[next_].empty() ? " " : diff_[next_];
      auto text = line.substr(1);
      switch (line[0]) {
        case '+': open.inserted.push_back(text); break;
        case '-':
          x.context.push_back(text);
          ++open.deleted;
          break;
        case ' ':
          close();
          x.context.push_back(text);
          break;
        default: return fault("Invalid Line: " + std::string{line});
      }
    }
    close();
    x.at_end = diff_[next_] == end_of_file;
    if (x.at_end)
      ++next_;
    else if (next_ == start)
      return fault("Nothing in this section - index=" + std::to_string(next_) + ' '
                   + std::string{diff_[next_]});
    return x;
  }

  static bool ends_hunk(std::string_view line) {
    return line.starts_with("@@") || line == "***" || ends_hunks(line);
  }

  std::optional<size_t> find(const hunk& x) {
    const auto size = x.context.size();
    if (x.at_end && size <= text_.size()) {
      auto place = text_.size() - size;
      if (is_at(place, x.context))
        return place;
      // What follows the last newline is no line of the file.
      if (text_.back().empty() && place > cursor_ && is_at(place - 1, x.context))
        return place - 1;
    }
    if (size == 0)
      return cursor_;
    for (size_t view = 0; view < views.size(); ++view)
      if (auto place = index(view).find(x.context, cursor_, budget_))
        return place;
    return std::nullopt;
  }

  bool is_at(size_t place, const line_list& context) const {
    auto begin = text_.begin() + static_cast<std::ptrdiff_t>(place);
    return std::any_of(views.begin(), views.end(), [&](line_view view) {
      return std::equal(context.begin(), context.end(), begin,
                        [&](auto a, auto b) { return view(a) == view(b); });
    });
  }

  const line_index& index(size_t view) {
    auto& x = indexes_[view];
    if (!x)
      x.emplace(text_, views[view]);
    return *x;
  }

  const line_list& text_;
  const line_list& diff_;
  size_t next_ = 0;   ///< in `diff_`
  size_t cursor_ = 0; ///< in `text_`
  size_t budget_ = search_budget;
  std::array<std::optional<line_index>, views.size()> indexes_;
  std::vector<chunk> chunks_;
};

result<line_list> apply_chunks(const line_list& text, const std::vector<chunk>& chunks) {
  line_list out;
  size_t cursor = 0;
  auto keep_until = [&](size_t end) {
    out.insert(out.end(), text.begin() + static_cast<std::ptrdiff_t>(cursor),
               text.begin() + static_cast<std::ptrdiff_t>(end));
  };
  for (const auto& x : chunks) {
    if (x.place < cursor) // an end of file hunk may match lines that were passed already
      return fault("applyDiff: overlapping chunk at " + std::to_string(x.place) + " (cursor "
                   + std::to_string(cursor) + ")");
    keep_until(x.place);
    out.insert(out.end(), x.inserted.begin(), x.inserted.end());
    cursor = x.place + x.deleted;
  }
  keep_until(text.size());
  return out;
}

result<line_list> created_lines(const line_list& diff) {
  line_list out;
  for (auto line = diff.begin(); !ends_patch(*line); ++line) {
    if (!line->starts_with('+'))
      return fault("Invalid Add File Line: " + std::string{*line});
    out.push_back(line->substr(1));
  }
  return out;
}

result<line_list> updated_lines(const line_list& text, const line_list& diff) {
  auto chunks = updater{text, diff}.run();
  if (!chunks)
    return unexpected(std::move(chunks.error()));
  return apply_chunks(text, *chunks);
}

} // namespace

result<std::string> apply_diff(std::string_view text, std::string_view diff, diff_mode mode) {
  for (auto x : {text, diff})
    if (static_cast<size_t>(std::count(x.begin(), x.end(), '\n')) > max_patch_lines)
      return unexpected(
        make_error(errc::payload_too_large, op::apply_patch, "too many lines for apply_patch")
          .with("limit_lines", static_cast<int64_t>(max_patch_lines)));
  auto wanted = diff_lines(diff);
  auto lines
    = mode == diff_mode::create ? created_lines(wanted) : updated_lines(text_lines(text), wanted);
  if (!lines)
    return unexpected(std::move(lines.error()));
  return join(*lines, newline_of(text, diff, mode));
}

} // namespace troupe::workspace
