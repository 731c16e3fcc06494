#include "workspace/manifest_json.hpp"

#include "workspace/base64.hpp"
#include "workspace/environment_json.hpp"
#include "workspace/json_reader.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/mount_json.hpp"
#include "workspace/path_policy.hpp"

#include <algorithm>
#include <array>

namespace troupe::workspace {

namespace {

using need = json_reader::need;

/// Acknowledgements that only trusted code may make, so a manifest that carries one is refused.
constexpr std::array forbidden_keys = {
  "in_container_mount_credential_exposure_allowed_paths",
  "_in_container_mount_credential_exposure_allowed_paths",
  "inContainerMountCredentialExposureAllowedPaths",
  "_inContainerMountCredentialExposureAllowedPaths",
  "in_container_mount_credential_exposure_acknowledged_paths",
  "_in_container_mount_credential_exposure_acknowledged_paths",
  "inContainerMountCredentialExposureAcknowledgedPaths",
  "_inContainerMountCredentialExposureAcknowledgedPaths",
  "in_container_mount_broad_credential_exposure_acknowledged_paths",
  "_in_container_mount_broad_credential_exposure_acknowledged_paths",
  "inContainerMountBroadCredentialExposureAcknowledgedPaths",
  "_inContainerMountBroadCredentialExposureAcknowledgedPaths",
  "mount_credential_exposure_policy",
  "_mount_credential_exposure_policy",
};

struct parse_context {
  json_reader read;
  std::optional<error> config_error; ///< of the first mount that cannot be
};

using read_entry_fields
  = void (*)(parse_context&, const json&, const location&, size_t depth, entry&);

struct entry_type {
  std::string_view name;
  entry_kind kind;
  bool is_dir;
  read_entry_fields read;
};

void read_file(parse_context&, const json&, const location&, size_t, entry&);
void read_dir(parse_context&, const json&, const location&, size_t, entry&);
void read_local_file(parse_context&, const json&, const location&, size_t, entry&);
void read_local_dir(parse_context&, const json&, const location&, size_t, entry&);
void read_git_repo(parse_context&, const json&, const location&, size_t, entry&);

/// In the order of `entry_kind`. Mounts have a table of their own.
constexpr std::array entry_types = {
  entry_type{"file", entry_kind::file, false, read_file},
  entry_type{"dir", entry_kind::dir, true, read_dir},
  entry_type{"local_file", entry_kind::local_file, false, read_local_file},
  entry_type{"local_dir", entry_kind::local_dir, true, read_local_dir},
  entry_type{"git_repo", entry_kind::git_repo, true, read_git_repo},
};

std::string_view type_name(entry_kind kind) {
  return entry_types[static_cast<size_t>(kind)].name;
}

std::string unknown_type(std::string_view name) {
  std::vector<std::string_view> known;
  for (const auto& type : entry_types)
    known.push_back(type.name);
  for (const auto& type : mount_types())
    known.push_back(type.name);
  std::sort(known.begin(), known.end());
  auto text = "Unknown artifact type `" + shortened(name) + "`. Registered types: ";
  for (size_t i = 0; i < known.size(); ++i)
    text.append(i > 0 ? ", " : "").append(known[i]);
  return text;
}

// -- users, groups, permissions
// ---------------------------------------------------------------------

bool is_model(json_reader& read, const json& value, const location& at, const char* name) {
  if (value.is_object())
    return true;
  read.fail(at, "model_type",
            std::string{"Input should be a valid dictionary or instance of "} + name);
  return false;
}

user read_user(json_reader& read, const json& value, const location& at) {
  user out;
  if (is_model(read, value, at, "User"))
    read.text(value, at, "name", out.name, need::required);
  return out;
}

group read_group(json_reader& read, const json& value, const location& at) {
  group out;
  if (!is_model(read, value, at, "Group"))
    return out;
  read.text(value, at, "name", out.name, need::required);
  read.list(
    value, at, "users",
    [&](const json& x, const location& here) { out.users.push_back(read_user(read, x, here)); },
    need::required);
  return out;
}

/// An object with `users` is a group, one without is a user.
std::optional<entry_group> read_entry_group(json_reader& read, const json& value,
                                            const location& at) {
  if (value.is_null())
    return std::nullopt;
  if (!value.is_object() || !value.contains("users"))
    return entry_group{read_user(read, value, at).name, std::nullopt};
  auto x = read_group(read, value, at);
  return entry_group{std::move(x.name), std::move(x.users)};
}

permissions read_permissions(json_reader& read, const json& value, const location& at) {
  permissions out{7, 0, 0, false}; // what an object leaves out; entries without one have 7/5/5
  if (!is_model(read, value, at, "Permissions"))
    return out;
  read.integer(value, at, "owner", out.owner);
  read.integer(value, at, "group", out.group);
  read.integer(value, at, "other", out.other);
  read.boolean(value, at, "directory", out.directory);
  return out;
}

// -- entries
// ----------------------------------------------------------------------------------------

std::vector<named_entry> read_entries(parse_context&, const json&, const location&, size_t depth);

entry read_entry(parse_context& context, const json& value, const location& at, size_t depth) {
  entry out;
  auto& read = context.read;
  auto fail = [&](const char* type, std::string text) {
    read.fail(at, type, std::move(text));
    return entry{};
  };
  if (!value.is_object())
    return fail("type_error", "Artifact entry must be an object");
  auto name = value.find("type");
  if (name == value.end() || !name->is_string())
    return fail("value_error", "Artifact entry mapping must include a string `type` field");
  const auto& wanted = name->get_ref<const std::string&>();
  auto* mount = find_mount_type(wanted);
  auto type = std::ranges::find(entry_types, mount ? "dir" : wanted, &entry_type::name);
  if (type == entry_types.end())
    return fail("value_error", unknown_type(wanted));
  out.kind = type->kind;
  out.is_dir = type->is_dir;
  out.ephemeral = mount != nullptr;
  read.text(value, at, "description", out.description);
  read.boolean(value, at, "ephemeral", out.ephemeral);
  read.boolean(value, at, "is_dir", out.is_dir);
  if (auto* x = read.member(value, at, "group", need::optional))
    out.group = read_entry_group(read, *x, {at, "group"});
  if (auto* x = read.member(value, at, "permissions", need::optional))
    out.permissions = read_permissions(read, *x, {at, "permissions"});
  if (mount)
    out.permissions = {}; // nobody enforces them on storage from elsewhere
  if (type->is_dir)
    out.permissions.directory = true;
  if (mount)
    out.mount.push_back(read_mount(read, value, at, *mount, context.config_error));
  else
    type->read(context, value, at, depth, out);
  return out;
}

std::vector<named_entry> read_entries(parse_context& context, const json& value, const location& at,
                                      size_t depth) {
  std::vector<named_entry> out;
  if (value.is_null())
    return out;
  if (!value.is_object()) {
    context.read.fail(at, "type_error", "Artifact mapping must be an object");
    return out;
  }
  if (depth > max_entry_depth && !value.empty()) {
    context.read.fail(at, "recursion_loop", "Entries nest too deeply");
    return out;
  }
  out.reserve(value.size());
  for (const auto& [key, member] : value.items())
    out.push_back({key, read_entry(context, member, {at, key}, depth)});
  return out;
}

void read_file(parse_context& context, const json& value, const location& at, size_t, entry& out) {
  auto& read = context.read;
  auto* encoded = read.member(value, at, "content_base64", need::optional);
  if (encoded && !encoded->is_null()) {
    auto bytes
      = encoded->is_string() ? base64_decode(encoded->get_ref<const std::string&>()) : std::nullopt;
    if (!bytes)
      return read.fail({at, "content_base64"}, "value_error", "Input should be valid base64");
    out.content = std::move(*bytes);
    return;
  }
  auto* content = read.member(value, at, "content", need::required);
  if (content && content->is_string())
    out.content = content->get_ref<const std::string&>();
  else if (content)
    read.fail({at, "content"}, "bytes_type", "Input should be a valid bytes");
}

void read_dir(parse_context& context, const json& value, const location& at, size_t depth,
              entry& out) {
  if (auto* children = context.read.member(value, at, "children", need::optional))
    out.children = read_entries(context, *children, {at, "children"}, depth + 1);
}

void read_src(json_reader& read, const json& value, const location& at, entry& out) {
  if (value.is_string())
    out.src = clean_path(value.get_ref<const std::string&>());
  else
    read.fail({at, "src"}, "path_type", "Input is not a valid path");
}

void read_local_file(parse_context& context, const json& value, const location& at, size_t,
                     entry& out) {
  if (auto* src = context.read.member(value, at, "src", need::required))
    read_src(context.read, *src, at, out);
}

void read_local_dir(parse_context& context, const json& value, const location& at, size_t,
                    entry& out) {
  auto* src = context.read.member(value, at, "src", need::optional);
  if (src && !src->is_null())
    read_src(context.read, *src, at, out);
}

void read_git_repo(parse_context& context, const json& value, const location& at, size_t,
                   entry& out) {
  auto& read = context.read;
  read.text(value, at, "host", out.host);
  read.text(value, at, "repo", out.repo, need::required);
  read.text(value, at, "ref", out.ref, need::required);
  read.text(value, at, "subpath", out.subpath);
}

// -- grants
// -----------------------------------------------------------------------------------------

/// The normal form of a path on some host, POSIX or Windows; only its shape can be checked here.
result<std::string> normalize_host_path(const std::string& path) {
  auto refuse = [](const char* text) {
    return unexpected(make_error(errc::sandbox_config_invalid, op::materialize, text));
  };
  std::string slashed = path;
  std::replace(slashed.begin(), slashed.end(), '\\', '/');
  if (slashed.starts_with("//"))
    return refuse("sandbox path grant host_path does not support UNC or device paths");
  if (("/" + slashed + "/").find("/../") != std::string::npos)
    return refuse("sandbox path grant host_path must not contain parent segments");
  const bool windows = slashed.size() > 2 && slashed[1] == ':' && slashed[2] == '/';
  if (!windows && !path.starts_with('/'))
    return refuse("sandbox path grant host_path must be an absolute host path");
  if (clean_path(std::string_view{slashed}.substr(windows ? 2 : 0)) == "/")
    return refuse("sandbox path grant path must not be filesystem root");
  return windows ? path : normalize_absolute(path);
}

path_grant read_grant(json_reader& read, const json& value, const location& at) {
  path_grant out;
  if (!is_model(read, value, at, "SandboxPathGrant"))
    return out;
  auto normalized = [&](const char* key, const json& given, auto normalize) {
    if (!given.is_string()) {
      read.fail({at, key}, "value_error",
                std::string{"sandbox path grant "} + key + " must be a string");
      return std::string{};
    }
    auto path = normalize(given.get_ref<const std::string&>());
    if (!path)
      read.fail({at, key}, "value_error", path.error().message);
    return path.value_or("");
  };
  if (auto* path = read.member(value, at, "path", need::required))
    out.path = normalized("path", *path, normalize_grant_path);
  read.boolean(value, at, "read_only", out.read_only);
  read.text(value, at, "description", out.description);
  auto* host_path = read.member(value, at, "host_path", need::optional);
  if (host_path && !host_path->is_null())
    out.host_path = normalized("host_path", *host_path, normalize_host_path);
  return out;
}

// -- writing
// ----------------------------------------------------------------------------------------

json or_null(const std::optional<std::string>& x) {
  return x ? json(*x) : json(nullptr);
}

/// An object with room for its members: growing and initializer lists dominate the time of a large
/// dump.
json object_of(size_t members) {
  auto out = json::object();
  out.get_ref<json::object_t&>().reserve(members);
  return out;
}

json dump_users(const std::vector<user>& users) {
  auto out = json::array();
  for (const auto& x : users)
    out.push_back(json{{"name", x.name}});
  return out;
}

json dump_entry_group(const std::optional<entry_group>& x) {
  if (!x)
    return nullptr;
  json out{{"name", x->name}};
  if (x->users)
    out["users"] = dump_users(*x->users);
  return out;
}

json dump_entries(const std::vector<named_entry>& entries);

json dump_permissions(const permissions& x) {
  auto out = object_of(4);
  out["owner"] = x.owner;
  out["group"] = x.group;
  out["other"] = x.other;
  out["directory"] = x.directory;
  return out;
}

json dump_entry(const entry& x) {
  auto out = object_of(10);
  out["type"] = x.is_mount() ? type_of(x.mount[0].kind).name : type_name(x.kind);
  out["description"] = or_null(x.description);
  out["ephemeral"] = x.ephemeral;
  out["group"] = dump_entry_group(x.group);
  out["is_dir"] = x.is_dir;
  out["permissions"] = dump_permissions(x.permissions);
  if (x.is_mount()) {
    dump_mount(x.mount[0], out);
    return out;
  }
  switch (x.kind) {
    case entry_kind::file:
      if (to_utf8(x.content) == x.content) {
        out["content"] = x.content;
      } else {
        out["content"] = "";
        out["content_base64"] = base64_encode(x.content);
      }
      break;
    case entry_kind::dir: out["children"] = dump_entries(x.children); break;
    case entry_kind::local_file:
    case entry_kind::local_dir: out["src"] = or_null(x.src); break;
    case entry_kind::git_repo:
      out["host"] = x.host;
      out["repo"] = x.repo;
      out["ref"] = x.ref;
      out["subpath"] = or_null(x.subpath);
      break;
  }
  return out;
}

json dump_entries(const std::vector<named_entry>& entries) {
  auto out = object_of(entries.size());
  for (const auto& x : entries)
    out[x.path] = dump_entry(x.entry);
  return out;
}

json dump_groups(const std::vector<group>& groups) {
  auto out = json::array();
  for (const auto& x : groups)
    out.push_back(json{{"name", x.name}, {"users", dump_users(x.users)}});
  return out;
}

json dump_grants(const std::vector<path_grant>& grants) {
  auto out = json::array();
  for (const auto& x : grants) {
    json grant{
      {"path", x.path}, {"read_only", x.read_only}, {"description", or_null(x.description)}};
    if (x.host_path)
      grant["host_path"] = *x.host_path;
    out.push_back(std::move(grant));
  }
  return out;
}

manifest read_manifest(parse_context& context, const json& value) {
  manifest out;
  location top;
  auto& read = context.read;
  if (!is_model(read, value, top, "Manifest"))
    return out;
  for (auto* key : forbidden_keys)
    if (value.contains(key))
      read.fail({top, key}, "type_error",
                "In-container mount credential exposure must be configured by trusted code, not in "
                "manifest input.");
  if (auto* version = read.member(value, top, "version", need::optional))
    if (*version != 1 && *version != true) // all that is equal to 1 there
      read.fail({top, "version"}, "literal_error", "Input should be 1");
  read.text(value, top, "root", out.root);
  if (auto* entries = read.member(value, top, "entries", need::optional))
    out.entries = read_entries(context, *entries, {top, "entries"}, 1);
  if (auto* environment = read.member(value, top, "environment", need::optional))
    out.environment = read_environment(read, *environment, {top, "environment"});
  read.list(value, top, "users", [&](const json& x, const location& at) {
    out.users.push_back(read_user(read, x, at));
  });
  read.list(value, top, "groups", [&](const json& x, const location& at) {
    out.groups.push_back(read_group(read, x, at));
  });
  read.list(value, top, "extra_path_grants", [&](const json& x, const location& at) {
    out.extra_path_grants.push_back(read_grant(read, x, at));
  });
  if (value.contains("remote_mount_command_allowlist"))
    out.remote_mount_command_allowlist.clear();
  read.list(value, top, "remote_mount_command_allowlist", [&](const json& x, const location& at) {
    if (x.is_string())
      out.remote_mount_command_allowlist.push_back(x.get<std::string>());
    else
      read.fail(at, "string_type", "Input should be a valid string");
  });
  return out;
}

} // namespace

result<manifest> parse_manifest(const json& value) {
  parse_context context;
  auto out = read_manifest(context, value);
  if (!context.read.ok())
    return unexpected(invalid_manifest(context.read.problems()));
  if (context.config_error)
    return unexpected(std::move(*context.config_error));
  return out;
}

json dump_manifest(const manifest& x) {
  auto out = json::object();
  out["version"] = 1;
  out["root"] = x.root;
  out["entries"] = dump_entries(x.entries);
  out["environment"] = dump_environment(x.environment);
  out["users"] = dump_users(x.users);
  out["groups"] = dump_groups(x.groups);
  out["extra_path_grants"] = dump_grants(x.extra_path_grants);
  out["remote_mount_command_allowlist"] = x.remote_mount_command_allowlist;
  return out;
}

} // namespace troupe::workspace
