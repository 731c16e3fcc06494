#include "workspace/mount_security.hpp"

#include "workspace/manifest_check.hpp"
#include "workspace/mount_targets.hpp"
#include "workspace/path_policy.hpp"

#include <algorithm>
#include <climits>
#include <unistd.h>

namespace troupe::workspace {

namespace {

bool has_line_break(std::string_view text) {
  return text.find_first_of("\r\n") != std::string_view::npos;
}

bool has_inline_authority(std::string_view url) {
  auto rest = url.substr(0, url.find('#'));
  auto query = rest.find('?');
  return url.find('@') != std::string_view::npos
         || (query != std::string_view::npos && query + 1 < rest.size());
}

// -- what rclone is told
// ----------------------------------------------------------------------------

/// What an argument says: the option's name in the form of the contract, and a value after `=`.
struct rclone_argument {
  explicit rclone_argument(std::string_view text) {
    // Behind one dash stand options of one letter: nothing that could be known by its name.
    if (text.starts_with("--"))
      text.remove_prefix(2);
    auto equals = text.find('=');
    has_value = equals != std::string_view::npos;
    if (has_value)
      value = text.substr(equals + 1);
    for (char c : text.substr(0, equals))
      name += c == '_' ? '-' : c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  }

  std::string name;
  bool has_value = false;
  std::string_view value;
};

bool has_harmless_value(std::string_view name) {
  return name == "buffer-size" || name == "gid" || name == "uid";
}

/// Calls `visit(name, value, joined)` for all arguments; a value that is not joined to its name is
/// the next one. Arguments that are no options have no name.
template <class Visit>
void for_each_argument(const std::vector<std::string>& arguments, Visit visit) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    rclone_argument x{arguments[i].starts_with('-') ? std::string_view{arguments[i]} : ""};
    const bool takes_next = x.name == "config" || has_harmless_value(x.name);
    if (takes_next && !x.has_value && i + 1 < arguments.size()
        && !arguments[i + 1].starts_with('-'))
      x.value = arguments[++i];
    visit(x.name, x.value, x.has_value);
  }
}

bool are_safe(const std::vector<std::string>& arguments) {
  bool safe = true;
  for_each_argument(arguments, [&](const std::string& name, std::string_view value, bool joined) {
    const bool flag = name == "allow-other" && !joined;
    safe = safe && (flag || (has_harmless_value(name) && !value.empty()));
  });
  return safe;
}

// -- authority
// --------------------------------------------------------------------------------------

class authority_taker {
public:
  explicit authority_taker(mount_entry& x) : x_(x) {}

  std::vector<std::string> take() {
    for (const auto& field : type_of(x_.kind).fields)
      take_setting(field);
    clear("extra_options", x_.extra_options);
    clear("mount_strategy.driver_options", x_.strategy.driver_options);
    take_from_pattern(x_.strategy.pattern);
    return std::move(taken_);
  }

private:
  void take_setting(const mount_field& field) {
    auto i = x_.settings.find(std::string{field.name});
    if (i == x_.settings.end())
      return;
    const bool line_break = field.is(config_line) && has_line_break(i->second);
    const bool gone = field.is(credential) || (field.is(url) && has_inline_authority(i->second));
    if (gone || line_break)
      taken_.emplace_back(field.name);
    if (gone)
      x_.settings.erase(i);
    else if (line_break)
      i->second.clear();
  }

  void take_from_pattern(mount_pattern& pattern) {
    auto& rclone = pattern.rclone;
    if (rclone.remote_name && !is_safe_remote_name(*rclone.remote_name))
      reset("mount_strategy.pattern.remote_name", rclone.remote_name);
    if (rclone.config_file_path)
      reset("mount_strategy.pattern.config_file_path", rclone.config_file_path);
    if (!are_safe(rclone.extra_args))
      clear("mount_strategy.pattern.extra_args", rclone.extra_args);
    auto& endpoint = pattern.mountpoint.endpoint_url;
    if (endpoint && has_inline_authority(*endpoint))
      reset("mount_strategy.pattern.options.endpoint_url", endpoint);
    clear("mount_strategy.pattern.options.extra_options", pattern.s3files.extra_options);
  }

  void reset(const char* name, std::optional<std::string>& value) {
    taken_.emplace_back(name);
    value.reset();
  }

  template <class T>
  void clear(const char* name, std::vector<T>& values) {
    if (values.empty())
      return;
    taken_.emplace_back(name);
    values.clear();
  }

  mount_entry& x_;
  std::vector<std::string> taken_;
};

/// Whether the helper looks for credentials in its surroundings, whatever it is given.
bool finds_credentials(const mount_strategy& x) {
  return x.kind == mount_strategy_kind::in_container
         && (x.pattern.kind == mount_pattern_kind::fuse
             || x.pattern.kind == mount_pattern_kind::s3files);
}

// -- files with credentials
// -------------------------------------------------------------------------

/// No longer one exists, and joining it to many paths would cost too much.
std::string bounded_root(const manifest& x) {
  auto root = normalize_absolute(x.root);
  return root.size() < PATH_MAX ? root : "/";
}

/// The paths of such files, relative to the root; those outside of it are nobody's entry.
std::vector<std::string> credential_files(const mount_entry& x, const std::string& root) {
  std::vector<std::string> out;
  auto add = [&](std::string_view path) {
    auto absolute
      = normalize_absolute(path.starts_with('/') ? std::string{path} : (root + '/').append(path));
    auto inside = path_below(absolute, root);
    if (!path.empty() && inside)
      out.emplace_back(*inside);
  };
  for (const auto& field : type_of(x.kind).fields)
    if (auto* path = field.is(credential_file) ? setting(x, field.name) : nullptr)
      add(*path);
  const auto& rclone = x.strategy.pattern.rclone;
  add(rclone.config_file_path.value_or(""));
  for_each_argument(rclone.extra_args, [&](const std::string& name, std::string_view value, bool) {
    if (name == "config")
      add(value);
  });
  return out;
}

template <class Visit>
void for_each_mount(std::vector<named_entry>& entries, const Visit& visit) {
  for (auto& x : entries) {
    if (x.entry.is_mount())
      visit(x.entry.mount[0]);
    for_each_mount(x.entry.children, visit);
  }
}

/// Calls `visit(entry, destination)` for all entries, whose paths were checked.
template <class Entries, class Visit>
void for_each_entry(Entries& entries, const std::string& parent, const Visit& visit) {
  for (auto& x : entries) {
    auto place = join_path(parent, normalize_entry_path(x.path).value_or("."));
    visit(x.entry, place);
    for_each_entry(x.entry.children, place, visit);
  }
}

/// Sorted; entries that put content somewhere, which directories of a manifest do not.
std::vector<std::string> content_paths(const manifest& x) {
  std::vector<std::string> out;
  for_each_entry(x.entries, ".", [&](const entry& y, const std::string& place) {
    const bool structural
      = !y.is_mount() && (y.kind == entry_kind::dir || (y.kind == entry_kind::local_dir && !y.src));
    if (!structural)
      out.push_back(place);
  });
  std::ranges::sort(out);
  return out;
}

// -- checks
// -----------------------------------------------------------------------------------------

error refuse(const mount_target& x, const char* text) {
  return make_error(errc::mount_config_invalid, op::materialize, text)
    .with("mount_type", type_of(x.mount->kind).name)
    .with("strategy_type", to_string(x.mount->strategy.kind))
    .with("mount_path", x.path);
}

bool breaks_configuration(const mount_entry& x) {
  return std::ranges::any_of(type_of(x.kind).fields, [&](const mount_field& field) {
    auto* text = field.is(config_line) ? setting(x, field.name) : nullptr;
    return text && has_line_break(*text);
  });
}

/// Nothing may be shown to the helper, so that whatever would have to be is refused. Nobody here
/// can acknowledge that it is: only the client's own code could.
result<void> check_in_container(const mount_target& target) {
  const auto& x = *target.mount;
  if (x.strategy.pattern.kind == mount_pattern_kind::rclone && breaks_configuration(x))
    return unexpected(
      refuse(target, "cloud mount configuration values must not contain line breaks"));
  if (auto fields = mount_authority(x); !fields.empty())
    return unexpected(refuse(target, "credentials of a mount cannot be given to a helper inside a "
                                     "model-controlled sandbox; use a mount without credentials "
                                     "or one that is attached from outside")
                        .with("credential_fields", fields));
  if (x.kind == mount_kind::box)
    return unexpected(
      refuse(target, "in-container Box mounts require a non-interactive authentication source"));
  if (finds_credentials(x.strategy))
    return unexpected(refuse(target, "the helper of this mount takes credentials from its "
                                     "surroundings, which a model-controlled sandbox must not "
                                     "have; use a mount that is attached from outside"));
  return {};
}

bool has_program(std::string_view search_path, std::string_view name) {
  while (!search_path.empty()) {
    auto end = std::min(search_path.find(':'), search_path.size());
    std::string file{search_path.substr(0, end)};
    if (!file.empty() && ::access(file.append("/").append(name).c_str(), X_OK) == 0)
      return true;
    search_path.remove_prefix(std::min(end + 1, search_path.size()));
  }
  return false;
}

} // namespace

bool is_safe_remote_name(std::string_view name) {
  auto is_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  if (name.empty())
    return true;
  return is_word(name[0]) && name.back() != ' ' && std::ranges::all_of(name, [&](char c) {
           return is_word(c) || c == '.' || c == '-' || c == ' ';
         });
}

std::vector<std::string> mount_authority(const mount_entry& x) {
  auto copy = x;
  return authority_taker{copy}.take();
}

bool redact_mounts(manifest& x) {
  if (!has_mounts(x))
    return false;
  bool redacted = false;
  std::vector<std::string> files;
  const auto root = bounded_root(x);
  for_each_mount(x.entries, [&](mount_entry& mount) {
    auto more = credential_files(mount, root);
    std::ranges::move(more, std::back_inserter(files));
    redacted = !authority_taker{mount}.take().empty() || redacted;
  });
  // A manifest whose paths are refused cannot be used, so that nothing in it can be a credential.
  if (files.empty() || !check_entry_paths(x))
    return redacted;
  std::ranges::sort(files);
  for_each_entry(x.entries, ".", [&](entry& y, const std::string& place) {
    if (y.kind == entry_kind::file && std::ranges::binary_search(files, place))
      y.content.clear();
  });
  return redacted;
}

result<void> check_mounts(const manifest& x, backend_kind backend) {
  auto targets = mount_targets(x);
  if (!targets)
    return unexpected(std::move(targets.error()));
  if (targets->empty())
    return {};
  const auto contents = content_paths(x);
  const auto root = bounded_root(x);
  for (const auto& target : *targets) {
    const bool external = target.mount->strategy.kind == mount_strategy_kind::docker_volume;
    if (external && backend != backend_kind::docker)
      return unexpected(
        refuse(target, "docker-volume mounts are not supported by this sandbox backend")
          .with("sandbox_backend", to_string(backend)));
    for (const auto& path : credential_files(*target.mount, root))
      if (covered_by(path, contents) || covered_by(".", contents))
        return unexpected(refuse(target, "credential files stored in the manifest are not "
                                         "supported for cloud mounts; configure credentials "
                                         "outside the sandbox manifest"));
    if (external)
      continue;
    if (auto ok = check_in_container(target); !ok)
      return ok;
  }
  return {};
}

result<void> check_mounts_supported(const manifest& x, const mount_support& support) {
  if (auto ok = check_mounts(x, support.backend); !ok)
    return ok;
  auto targets = mount_targets(x);
  for (const auto& target : *targets) {
    const auto& strategy = target.mount->strategy;
    if (strategy.kind == mount_strategy_kind::docker_volume)
      continue;
    auto tool = tool_of(strategy.pattern.kind);
    // Where images put it that do not have it on the path.
    const bool elsewhere = tool == "rclone" && has_program("/usr/local/bin", tool);
    if (!elsewhere && !has_program(support.search_path, tool))
      return unexpected(make_error(errc::mount_missing_tool, op::materialize,
                                   "required mount tool missing: " + std::string{tool})
                          .with("tool", tool)
                          .with("type", type_of(target.mount->kind).name));
    if (!support.runs_rclone || strategy.pattern.kind != mount_pattern_kind::rclone)
      return unexpected(
        refuse(target, "in-container mounts are not supported by this sandbox backend")
          .with("sandbox_backend", to_string(support.backend)));
    if (target.inside.empty() || target.inside == ".")
      return unexpected(
        refuse(target, "this sandbox backend mounts below the workspace root only"));
  }
  return {};
}

} // namespace troupe::workspace
