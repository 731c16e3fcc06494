#include "snapshot/member_rules.hpp"

#include <algorithm>

namespace troupe::snapshot {

namespace {

/// A letter and a colon, or a server and a share.
bool has_windows_drive(std::string_view name) {
  auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  auto is_separator = [](char c) { return c == '/' || c == '\\'; };
  if (name.size() > 1 && name[1] == ':')
    return is_letter(name[0]);
  if (name.size() < 3 || !is_separator(name[0]) || !is_separator(name[1]) || is_separator(name[2]))
    return false;
  auto end = name.find_first_of("/\\", 2);
  return end != name.npos && (end + 1 == name.size() || !is_separator(name[end + 1]));
}

/// Joins all components but empty ones and "."; false if there is a "..".
bool normalize(std::string_view name, std::string& path) {
  while (!name.empty()) {
    auto end = std::min(name.find('/'), name.size());
    auto part = name.substr(0, end);
    name.remove_prefix(std::min(end + 1, name.size()));
    if (part == "..")
      return false;
    if (!part.empty() && part != ".")
      path.append(path.empty() ? "" : "/").append(part);
  }
  return true;
}

std::string_view root_violation(member_kind kind) {
  switch (kind) {
    case member_kind::directory: return {};
    case member_kind::symlink: return "archive root symlink";
    case member_kind::hard_link: return "archive root hardlink";
    default: return "archive root member must be directory";
  }
}

} // namespace

checked_member check_member(const tar_member& member, name_policy policy) {
  std::string_view name = member.name;
  checked_member checked;
  if (policy == name_policy::portable && has_windows_drive(name))
    checked.violation = "windows drive path";
  else if (policy == name_policy::portable && name.find('\\') != name.npos)
    checked.violation = "windows path separator";
  else if (name.starts_with('/'))
    checked.violation = "absolute path";
  else if (!normalize(name, checked.path))
    checked.violation = "parent traversal";
  else if (checked.path.empty())
    checked.violation = root_violation(member.kind);
  else if (member.kind == member_kind::other)
    checked.violation = "unsupported member type";
  return checked;
}

std::string hard_link_path(std::string_view target) {
  std::string path;
  return !target.starts_with('/') && normalize(target, path) ? path : std::string{};
}

std::string plain_path(std::string_view path) {
  std::string plain;
  while (!path.empty()) {
    auto end = std::min(path.find('/'), path.size());
    if (auto part = path.substr(0, end); !part.empty() && part != ".")
      plain.append(plain.empty() ? "" : "/").append(part);
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return plain;
}

} // namespace troupe::snapshot
