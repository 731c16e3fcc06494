#include "workspace/manifest_check.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/path_policy.hpp"
#include "workspace/unicode_text.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <string_view>

namespace troupe::workspace {

namespace {

constexpr size_t max_characters = 5000;
constexpr std::string_view truncation_hint = "\n\nThe filesystem layout above was truncated. Use "
                                             "`ls` to explore specific directories before "
                                             "relying on omitted paths.\n";

struct node {
  std::map<std::string, node, std::less<>> children;
  const std::string* description = nullptr;
  const std::string* mount_path = nullptr; ///< of a mount that does not go where the tree shows it
  bool is_dir = false;
};

/// Lengths are in code points, as the contract counts them.
size_t length(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

/// The first `n` code points.
std::string_view prefix(std::string_view text, size_t n) {
  for (size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80 && n-- == 0)
      return text.substr(0, i);
  return text;
}

/// Only mounts of the `top` level are shown where they go.
void insert(node& parent, const std::vector<named_entry>& entries, size_t depth, bool top) {
  for (const auto& x : entries) {
    std::string_view rest;
    auto path = normalize_entry_path(x.path).value_or(".");
    if (path != ".")
      rest = path;
    auto* at = &parent;
    auto left = depth;
    for (; !rest.empty() && left > 0; --left) {
      auto end = std::min(rest.find('/'), rest.size());
      at->is_dir = true;
      at = &at->children[std::string{rest.substr(0, end)}];
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    const bool cut = !rest.empty();
    at->is_dir = at->is_dir || cut || x.entry.permissions.directory;
    if (!cut && !at->description && x.entry.description)
      at->description = &*x.entry.description;
    if (!cut && top && x.entry.is_mount() && x.entry.mount[0].mount_path)
      at->mount_path = &*x.entry.mount[0].mount_path;
    if (left > 0)
      insert(*at, x.entry.children, left, false);
  }
}

/// Renders a tree in two passes: the first measures, for names are aligned to the widest and a cut
/// text says how much is missing; the second stops writing when the text is long enough.
class renderer {
public:
  explicit renderer(std::string_view root)
    : title_(root.substr(0, root.find_last_not_of('/') + 1)) {
    if (title_.empty())
      title_ += '/';
    base_ = clean_path(title_);
  }

  std::string render(const node& top) {
    total_ = length(title_) + 1;
    measure(top, 1, length(base_) - (base_ == "/" ? 1 : 0));
    // What a line adds to name and comment is the same for all of them.
    total_ += lines_ * (width_ + std::string_view{"  # "}.size() + 1);

    text_ = title_ + '\n';
    written_ = length(text_);
    std::string path = base_;
    write(top, "", path);
    return total_ <= max_characters ? std::move(text_) : truncated();
  }

private:
  void measure(const node& parent, size_t level, size_t path_length) {
    for (const auto& [name, child] : parent.children) {
      auto characters = length(name);
      auto child_path = path_length + 1 + characters;
      width_ = std::max(width_, 4 * level + characters + (child.is_dir ? 1 : 0));
      ++lines_;
      total_ += child.mount_path ? mount_path_length(*child.mount_path) : child_path;
      if (child.description && !child.description->empty())
        total_ += length(" — ") + length(*child.description);
      measure(child, level + 1, child_path);
    }
  }

  void write(const node& parent, const std::string& indent, std::string& path) {
    size_t i = 0;
    for (const auto& [name, child] : parent.children) {
      if (written_ > max_characters)
        return;
      const bool last = ++i == parent.children.size();
      const auto parent_size = path.size();
      if (!path.ends_with('/'))
        path += '/';
      path += name;
      write_line(indent + (last ? "└── " : "├── ") + name + (child.is_dir ? "/" : ""), path, child);
      write(child, indent + (last ? "    " : "│   "), path);
      path.resize(parent_size);
    }
  }

  void write_line(const std::string& name, const std::string& path, const node& x) {
    const auto start = text_.size();
    text_.append(name).append(width_ - length(name) + 2, ' ').append("# ");
    if (x.mount_path)
      append_mount_path(*x.mount_path);
    else
      text_.append(path);
    if (x.description && !x.description->empty())
      text_.append(" — ").append(*x.description);
    text_ += '\n';
    written_ += length(std::string_view{text_}.substr(start));
  }

  /// What a mount's path is written below, as the manifest has it; not resolved.
  std::string_view mount_base(std::string_view path) const {
    return path.starts_with('/') ? "" : std::string_view{base_};
  }

  size_t mount_path_length(std::string_view path) const {
    auto base = mount_base(path);
    if (path == ".")
      return length(base);
    return length(base) + (base.empty() || base == "/" ? 0 : 1) + length(path);
  }

  void append_mount_path(std::string_view path) {
    auto base = mount_base(path);
    text_.append(base);
    if (path != ".")
      text_.append(base.empty() || base == "/" ? "" : "/").append(path);
  }

  std::string truncated() const {
    std::string marker;
    size_t kept = max_characters;
    // The marker holds the number of characters that are missing, whose digits cost characters.
    for (size_t missing = 0; missing != total_ - kept;) {
      missing = total_ - kept;
      marker = "\n... (truncated " + std::to_string(missing) + " chars)";
      marker += truncation_hint;
      kept = max_characters - marker.size();
    }
    return std::string{trim_end(prefix(text_, kept))} + marker;
  }

  std::string title_;
  std::string base_;
  std::string text_;
  size_t written_ = 0; ///< characters in `text_`
  size_t total_ = 0;   ///< characters of the whole text
  size_t width_ = 0;   ///< of the widest name with its connectors
  size_t lines_ = 0;
};

} // namespace

result<std::string> describe(const manifest& x, std::optional<int> depth) {
  if (depth && *depth <= 0)
    return unexpected(make_error(errc::invalid_request, op::request,
                                 "depth must be a non-zero positive integer or None"));
  if (auto ok = check_entry_paths(x); !ok)
    return unexpected(std::move(ok.error()));
  node top;
  insert(top, x.entries, depth ? static_cast<size_t>(*depth) : std::numeric_limits<size_t>::max(),
         true);
  return renderer{x.root}.render(top);
}

} // namespace troupe::workspace
