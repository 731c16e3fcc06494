#include "workspace/manifest_check.hpp"

#include "workspace/json_reader.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/mount_json.hpp"
#include "workspace/mount_targets.hpp"
#include "workspace/path_policy.hpp"

#include <climits>

namespace troupe::workspace {

namespace {

/// Of all paths written out: one long key over many children would else make any amount of text.
constexpr size_t max_total_path_bytes = size_t{256} << 20;

error path_error(const std::string& path, const char* reason, std::string text) {
  auto shown = to_utf8(shortened(path));
  return make_error(errc::invalid_manifest_path, op::materialize, text.append(": ").append(shown))
    .with("rel", shown)
    .with("reason", reason);
}

result<void> check_paths(const std::vector<named_entry>& entries, const std::string& parent,
                         size_t depth, size_t& total_bytes) {
  if (depth > max_entry_depth && !entries.empty())
    return unexpected(path_error(parent, "too_long", "manifest entries nest too deeply"));
  for (const auto& x : entries) {
    auto key = normalize_entry_path(x.path);
    if (!key) {
      // The error names the whole path, unless the key is absolute and would replace its parent.
      auto whole = normalize_entry_path(parent + '/' + x.path);
      return unexpected(std::move(whole ? key.error() : whole.error()));
    }
    auto path = join_path(parent, *key);
    if (key->find('\n') != std::string::npos)
      return unexpected(path_error(path, "newline", "manifest path must not contain a newline"));
    total_bytes += path.size();
    if (path.size() >= PATH_MAX || total_bytes > max_total_path_bytes)
      return unexpected(path_error(path, "too_long", "manifest path is too long"));
    if (auto ok = check_paths(x.entry.children, path, depth + 1, total_bytes); !ok)
      return ok;
  }
  return {};
}

// -- everything else
// --------------------------------------------------------------------------------

void check_text(json_reader& report, const location& at, std::string_view text, bool one_line) {
  if (text.find('\0') != std::string_view::npos)
    report.fail(at, "value_error", "must not contain a NUL");
  else if (one_line && text.find('\n') != std::string_view::npos)
    report.fail(at, "value_error", "must not contain a newline");
}

/// Of a user or a group. It becomes an argument of a program, so it must not look like an option.
void check_name(json_reader& report, const location& at, const std::string& name) {
  if (name.empty() || name[0] == '-')
    report.fail(at, "value_error", "must not be empty or start with a dash");
  check_text(report, at, name, true);
}

void check_users(json_reader& report, const location& at, const std::vector<user>& users) {
  for (size_t i = 0; i < users.size(); ++i)
    check_name(report, {at, i}, users[i].name);
}

void check_digit(json_reader& report, const location& at, int32_t digit) {
  if (digit < 0 || digit > 7)
    report.fail(at, "value_error", "Input should be a permission digit from 0 to 7");
}

/// All that a mount says may become an argument of a program.
void check_texts(json_reader& report, const location& at, const json& members) {
  for (const auto& [key, value] : members.items()) {
    check_text(report, {at, key}, key, false);
    if (value.is_string())
      check_text(report, {at, key}, value.get_ref<const std::string&>(), false);
    else if (value.is_structured())
      check_texts(report, {at, key}, value);
  }
}

void check_entry(json_reader& report, const location& at, const entry& x) {
  location mode{at, "permissions"};
  check_digit(report, {mode, "owner"}, x.permissions.owner);
  check_digit(report, {mode, "group"}, x.permissions.group);
  check_digit(report, {mode, "other"}, x.permissions.other);
  if (x.group) {
    check_name(report, {at, "group"}, x.group->name);
    if (x.group->users)
      check_users(report, {at, "group"}, *x.group->users);
  }
  check_text(report, {at, "src"}, x.src.value_or(""), false);
  check_text(report, {at, "host"}, x.host, true);
  check_text(report, {at, "repo"}, x.repo, true);
  check_text(report, {at, "ref"}, x.ref, true);
  check_text(report, {at, "subpath"}, x.subpath.value_or(""), false);
  if (x.is_mount()) {
    json members = json::object();
    dump_mount(x.mount[0], members);
    check_texts(report, at, members);
  }
}

void check_entries(json_reader& report, const location& at,
                   const std::vector<named_entry>& entries) {
  for (const auto& x : entries) {
    location here{at, x.path};
    check_entry(report, here, x.entry);
    check_entries(report, {here, "children"}, x.entry.children);
  }
}

void check_environment(json_reader& report, const location& at,
                       const std::vector<environment_value>& values) {
  for (const auto& x : values) {
    location here{at, x.name};
    if (x.name.empty() || x.name.find('=') != std::string::npos)
      report.fail(here, "value_error", "a variable's name must not be empty or contain `=`");
    check_text(report, here, x.name, true);
    check_text(report, here, x.value, false);
  }
}

error config_error(const char* text) {
  auto e = make_error(errc::sandbox_config_invalid, op::materialize, text);
  e.retryable = false;
  return e;
}

} // namespace

result<void> check_entry_paths(const manifest& x) {
  size_t total_bytes = 0;
  return check_paths(x.entries, ".", 1, total_bytes);
}

result<void> check_manifest(const manifest& x, bool allow_accounts) {
  if (auto policy = path_policy::make(x.root, x.extra_path_grants); !policy)
    return unexpected(std::move(policy.error()));
  for (const auto& grant : x.extra_path_grants)
    if (grant.host_path)
      return unexpected(config_error("this backend does not support path grants with a host path")
                          .with("path", grant.path));
  if (!allow_accounts && (!x.users.empty() || !x.groups.empty()))
    return unexpected(config_error("this backend does not support manifest users or groups"));
  if (auto ok = check_entry_paths(x); !ok)
    return ok;
  if (auto targets = mount_targets(x); !targets)
    return unexpected(std::move(targets.error()));

  json_reader report;
  location top;
  check_entries(report, {top, "entries"}, x.entries);
  check_environment(report, {top, "environment"}, x.environment);
  check_users(report, {top, "users"}, x.users);
  location groups{top, "groups"};
  for (size_t i = 0; i < x.groups.size(); ++i) {
    location here{groups, i};
    check_name(report, here, x.groups[i].name);
    check_users(report, here, x.groups[i].users);
  }
  if (!report.ok())
    return unexpected(invalid_manifest(report.problems()));
  return {};
}

} // namespace troupe::workspace
