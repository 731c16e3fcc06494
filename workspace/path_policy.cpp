#include "workspace/path_policy.hpp"

#include "workspace/unicode_text.hpp"

#include <algorithm>
#include <cassert>
#include <climits>
#include <filesystem>

namespace troupe::workspace {

namespace {

/// Calls `visit` with every component that is neither empty nor ".".
template <class Visit>
void for_each_component(std::string_view path, Visit visit) {
  while (!path.empty()) {
    auto end = std::min(path.find('/'), path.size());
    if (auto part = path.substr(0, end); !part.empty() && part != ".")
      visit(part);
    path.remove_prefix(std::min(end + 1, path.size()));
  }
}

/// POSIX gives exactly two leading slashes a meaning of their own; more are one.
std::string_view leading_slashes(std::string_view path) {
  auto n = std::min(path.find_first_not_of('/'), path.size());
  return path.substr(0, n == 2 ? 2 : std::min<size_t>(n, 1));
}

bool has_parent_component(std::string_view path) {
  bool found = false;
  for_each_component(path, [&](std::string_view part) { found = found || part == ".."; });
  return found;
}

std::string with_slashes(std::string_view path) {
  std::string out{path};
  std::replace(out.begin(), out.end(), '\\', '/');
  return out;
}

error path_error(std::string text, std::string_view path, std::string_view reason) {
  path = path.substr(0, PATH_MAX); // it may be megabytes long
  return make_error(errc::invalid_manifest_path, op::materialize,
                    text.append(": ").append(to_utf8(path)))
    .with("rel", path)
    .with("reason", reason);
}

error absolute_error(std::string_view path) {
  return path_error("manifest path must be relative", path, "absolute");
}

error escape_error(std::string_view path) {
  return path_error("manifest path must not escape root", path, "escape_root");
}

error nul_error(std::string_view path) {
  return path_error("path must not contain a NUL", path, "nul");
}

error config_error(const char* text, std::string_view path) {
  auto e = make_error(errc::sandbox_config_invalid, op::materialize, text).with("path", path);
  e.retryable = false;
  return e;
}

} // namespace

bool starts_with_drive(std::string_view path) {
  auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return path.size() > 2 && is_letter(path[0]) && path[1] == ':'
         && (path[2] == '/' || path[2] == '\\');
}

std::string normalize_absolute(std::string_view path) {
  std::string out{leading_slashes(path)};
  const auto root = out.size();
  for_each_component(path, [&](std::string_view part) {
    if (part == "..") {
      auto slash = out.rfind('/');
      out.resize(slash == std::string::npos || slash < root ? root : slash);
      return;
    }
    if (out.size() > root)
      out += '/';
    out += part;
  });
  return out;
}

std::string clean_path(std::string_view path) {
  std::string out{leading_slashes(path)};
  const auto root = out.size();
  for_each_component(path, [&](std::string_view part) {
    if (out.size() > root)
      out += '/';
    out += part;
  });
  return out.empty() ? "." : out;
}

std::string join_path(std::string_view parent, std::string_view child) {
  if (parent == "." || child == ".")
    return std::string{parent == "." ? child : parent};
  std::string out;
  out.reserve(parent.size() + 1 + child.size());
  return out.append(parent).append("/").append(child);
}

result<std::string> run_folder(std::string_view cwd) {
  if (!trim(cwd).empty() && !cwd.starts_with('/') && !has_parent_component(cwd)
      && cwd.find('\\') == std::string_view::npos)
    return clean_path(cwd);
  return unexpected(make_error(errc::invalid_request, op::request,
                               "`cwd` must be a folder of the workspace: a relative path without "
                               "`..` and `\\`")
                      .with("cwd", cwd.substr(0, PATH_MAX)));
}

std::string anchored_path(std::string_view cwd, std::string_view path) {
  if (cwd.empty() || path.starts_with('/') || starts_with_drive(path))
    return std::string{path};
  return clean_path(std::string{cwd}.append("/").append(path));
}

std::string shown_path(std::string_view cwd, std::string_view relative) {
  if (cwd.empty())
    return std::string{relative};
  auto from_root
    = [](std::string_view x) { return normalize_absolute(std::string{"/"}.append(x)); };
  return std::filesystem::path{from_root(relative)}.lexically_relative(from_root(cwd)).string();
}

std::optional<std::string_view> path_below(std::string_view path, std::string_view base) {
  if (!path.starts_with(base))
    return std::nullopt;
  auto rest = path.substr(base.size());
  if (rest.empty())
    return ".";
  if (base.ends_with('/')) // "/" or "//"
    return rest[0] == '/' ? std::nullopt : std::optional{rest};
  return rest[0] == '/' ? std::optional{rest.substr(1)} : std::nullopt;
}

result<std::string> resolve_mount_path(std::string_view mount_path, const std::string& root) {
  if (mount_path.find('\0') != std::string_view::npos)
    return unexpected(nul_error(mount_path));
  if (starts_with_drive(mount_path) || mount_path.starts_with("\\\\"))
    return unexpected(absolute_error(mount_path));
  auto path = clean_path(mount_path);
  if (!path.starts_with('/'))
    path = (root.ends_with('/') ? root : root + '/') + path;
  if (path.find('\n') != std::string::npos)
    return unexpected(path_error("manifest path must not contain a newline", path, "newline"));
  if (path.size() >= PATH_MAX)
    return unexpected(path_error("manifest path is too long", path, "too_long"));
  auto normal = normalize_absolute(path);
  auto inside = path_below(path, root);
  if (!inside) // an absolute path may still lead back into the root
    return path_below(normal, root) ? normal : path;
  int depth = 0;
  bool climbs = false;
  for_each_component(*inside, [&](std::string_view part) {
    depth += part == ".." ? -1 : 1;
    climbs = climbs || depth < 0;
  });
  if (climbs)
    return unexpected(escape_error(path));
  return normal;
}

result<std::string> normalize_entry_path(std::string_view key) {
  auto path = clean_path(with_slashes(key));
  if (path.find('\0') != std::string::npos)
    return unexpected(nul_error(path));
  if (path[0] == '/' || starts_with_drive(path) || starts_with_drive(key))
    return unexpected(absolute_error(path));
  if (has_parent_component(path))
    return unexpected(escape_error(path));
  return path;
}

result<std::string> normalize_skip_path(std::string_view path) {
  auto out = normalize_entry_path(path);
  if (out && *out == ".")
    return unexpected(
      make_error(errc::invalid_request, op::persist_workspace,
                 "Persist workspace skip paths must target a concrete relative path."));
  return out;
}

result<std::string> normalize_grant_path(std::string_view path) {
  if (path.find('\0') != std::string_view::npos)
    return unexpected(config_error("sandbox path grant path must not contain a NUL", path));
  if (!path.starts_with('/'))
    return unexpected(config_error("sandbox path grant path must be POSIX absolute", path));
  auto out = normalize_absolute(path);
  if (out == "/" || out == "//")
    return unexpected(config_error("sandbox path grant path must not be filesystem root", path));
  return out;
}

bool covered_by(std::string_view path, const std::vector<std::string>& skip) {
  assert(std::is_sorted(skip.begin(), skip.end()));
  auto has = [&](std::string_view x) { return std::binary_search(skip.begin(), skip.end(), x); };
  for (auto end = path.find('/'); end != std::string_view::npos; end = path.find('/', end + 1))
    if (has(path.substr(0, end)))
      return true;
  return has(path);
}

std::string shell_quote(std::string_view word) {
  auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
           || std::string_view{"_@%+=:,./-"}.find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain))
    return std::string{word};
  std::string out = "'";
  for (char c : word) {
    if (c == '\'')
      out += "'\"'\"'";
    else
      out += c;
  }
  return out += '\'';
}

result<path_policy> path_policy::make(std::string root, std::vector<path_grant> grants) {
  if (!root.starts_with('/'))
    return unexpected(config_error("sandbox workspace root must be absolute", root));
  if (root.find('\0') != std::string::npos)
    return unexpected(config_error("sandbox workspace root must not contain a NUL", root));
  path_policy out;
  out.root_ = normalize_absolute(root);
  out.grants_ = std::move(grants);
  for (auto& grant : out.grants_) {
    auto path = normalize_grant_path(grant.path);
    if (!path)
      return unexpected(path.error());
    grant.path = std::move(*path);
  }
  return out;
}

result<resolved_path> path_policy::resolve(std::string_view path, bool for_write) const {
  if (starts_with_drive(path))
    return unexpected(absolute_error(clean_path(with_slashes(path))));
  return resolve_posix(with_slashes(path), for_write);
}

result<resolved_path> path_policy::resolve_local(std::string_view path, bool for_write) const {
  if (starts_with_drive(path))
    return unexpected(absolute_error(clean_path(with_slashes(path))));
  if (path.starts_with("//") && !root_.starts_with("//")) // the kernel knows no such root
    path.remove_prefix(1);
  return resolve_posix(path, for_write);
}

result<resolved_path> path_policy::resolve_posix(std::string_view path, bool for_write) const {
  if (path.find('\0') != std::string_view::npos)
    return unexpected(nul_error(path));
  const bool relative = !path.starts_with('/');
  std::string joined = root_.ends_with('/') ? root_ : root_ + '/';
  auto absolute = normalize_absolute(relative ? joined.append(path) : path);
  if (auto rest = path_below(absolute, root_)) {
    std::string beneath{*rest};
    return resolved_path{std::move(absolute), root_, std::move(beneath), -1};
  }
  if (relative)
    return unexpected(escape_error(clean_path(path)));

  resolved_path out;
  std::ptrdiff_t longest = -1;
  for (size_t i = 0; i < grants_.size(); ++i) {
    const auto& grant = grants_[i].path;
    auto rest = path_below(absolute, grant);
    auto components = std::count(grant.begin(), grant.end(), '/');
    if (!rest || components <= longest)
      continue;
    longest = components;
    out.base = grant;
    out.relative = *rest;
    out.grant = static_cast<int>(i);
  }
  if (out.grant < 0)
    return unexpected(absolute_error(clean_path(path)));
  if (for_write && grants_[static_cast<size_t>(out.grant)].read_only)
    return unexpected(make_error(errc::workspace_archive_write_error, op::write,
                                 "failed to write archive for path: " + to_utf8(absolute))
                        .with("path", absolute)
                        .with("reason", "read_only_extra_path_grant")
                        .with("grant_path", out.base));
  out.absolute = std::move(absolute);
  return out;
}

} // namespace troupe::workspace
