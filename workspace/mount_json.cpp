#include "workspace/mount_json.hpp"

#include "workspace/path_policy.hpp"

#include <algorithm>

namespace troupe::workspace {

namespace {

using need = json_reader::need;

void read_options(json_reader& read, const json& value, const location& at, const char* key,
                  bool allow_null, std::vector<mount_option>& out) {
  auto* options = read.member(value, at, key, need::optional);
  if (!options)
    return;
  location here{at, key};
  if (!options->is_object())
    return read.fail(here, "dict_type", "Input should be a valid dictionary");
  for (const auto& [name, member] : options->items()) {
    if (member.is_string())
      out.push_back({name, member.get<std::string>()});
    else if (member.is_null() && allow_null)
      out.push_back({name, std::nullopt});
    else
      read.fail({here, name}, "string_type", "Input should be a valid string");
  }
}

json dump_options(const std::vector<mount_option>& options) {
  auto out = json::object();
  for (const auto& x : options)
    out[x.name] = x.value ? json(*x.value) : json(nullptr);
  return out;
}

/// Reads the members of a message as its `inspect` names them.
class member_reader {
public:
  member_reader(json_reader& read, const json& from, const location& at)
    : read_(read), from_(from), at_(at) {}

  template <class T, class... Ts>
  void visit(T&, field_ref<Ts>... fields) {
    (take(fields.name, fields.value), ...);
  }

private:
  void take(const char* name, std::string& out) {
    read_.text(from_, at_, name, out);
  }

  void take(const char* name, std::optional<std::string>& out) {
    read_.text(from_, at_, name, out);
  }

  void take(const char* name, bool& out) {
    read_.boolean(from_, at_, name, out);
  }

  void take(const char* name, int32_t& out) {
    read_.integer(from_, at_, name, out);
  }

  void take(const char* name, std::vector<mount_option>& out) {
    read_options(read_, from_, at_, name, true, out);
  }

  void take(const char* name, std::vector<std::string>& out) {
    read_.list(from_, at_, name, [&](const json& x, const location& here) {
      if (x.is_string())
        out.push_back(x.get<std::string>());
      else
        read_.fail(here, "string_type", "Input should be a valid string");
    });
  }

  template <class T>
  void take(const char* name, std::optional<T>& out) {
    auto i = from_.find(name);
    if (i != from_.end() && !i->is_null())
      take(name, out.emplace());
  }

  json_reader& read_;
  const json& from_;
  const location& at_;
};

/// Writes them again.
class member_writer {
public:
  explicit member_writer(json& to) : to_(to) {}

  template <class T, class... Ts>
  void visit(T&, field_ref<Ts>... fields) {
    ((to_[fields.name] = written(fields.value)), ...);
  }

private:
  static json written(const std::vector<mount_option>& x) {
    return dump_options(x);
  }

  template <class T>
  static json written(const std::optional<T>& x) {
    return x ? json(*x) : json(nullptr);
  }

  template <class T>
  static json written(const T& x) {
    return x;
  }

  json& to_;
};

template <class T>
void read_members(json_reader& read, const json& from, const location& at, T& out) {
  member_reader members{read, from, at};
  inspect(members, out);
}

template <class T>
void write_members(T x, json& to) {
  member_writer members{to};
  inspect(members, x);
}

void clean(std::optional<std::string>& path) {
  if (path)
    path = clean_path(*path);
}

error config_fault(const char* text) {
  return make_error(errc::mount_config_invalid, op::materialize, text);
}

// -- patterns
// ---------------------------------------------------------------------------------------

void check_literal(json_reader& read, const location& at, const char* key, std::string_view value,
                   std::string_view one, std::string_view other) {
  if (value != one && value != other)
    read.fail({at, key}, "literal_error",
              "Input should be '" + std::string{one} + "' or '" + std::string{other} + "'");
}

/// The object that some patterns keep their fields in.
template <class T>
void read_pattern_options(json_reader& read, const json& value, const location& at, T& out) {
  auto* options = read.member(value, at, "options", need::optional);
  location here{at, "options"};
  if (options && options->is_object())
    read_members(read, *options, here, out);
  else if (options)
    read.fail(here, "dataclass_type", "Input should be an object");
}

void read_pattern_fields(json_reader& read, const json& value, const location& at,
                         mount_pattern& out, std::optional<error>& config_error) {
  switch (out.kind) {
    case mount_pattern_kind::fuse:
      read_members(read, value, at, out.fuse);
      check_literal(read, at, "cache_type", out.fuse.cache_type, "block_cache", "file_cache");
      clean(out.fuse.cache_path);
      if (out.fuse.cache_path && !normalize_entry_path(*out.fuse.cache_path) && !config_error)
        config_error = config_fault("blobfuse cache_path must be relative to the workspace root")
                         .with("cache_path", shortened(*out.fuse.cache_path));
      break;
    case mount_pattern_kind::mountpoint:
      read_pattern_options(read, value, at, out.mountpoint);
      break;
    case mount_pattern_kind::rclone:
      read_members(read, value, at, out.rclone);
      check_literal(read, at, "mode", out.rclone.mode, "fuse", "nfs");
      clean(out.rclone.config_file_path);
      break;
    case mount_pattern_kind::s3files: read_pattern_options(read, value, at, out.s3files); break;
  }
}

/// Whether the pattern's kind is known.
bool read_pattern(json_reader& read, const json& value, const location& at, mount_pattern& out,
                  std::optional<error>& config_error) {
  auto fail = [&](const char* type, std::string text) {
    read.fail(at, type, std::move(text));
    return false;
  };
  if (!value.is_object())
    return fail("model_attributes_type", "Input should be a valid dictionary");
  auto type = value.find("type");
  if (type == value.end())
    return fail("union_tag_not_found", "mount pattern must include a `type` field");
  auto kind = type->is_string() ? mount_pattern_from_string(type->get_ref<const std::string&>())
                                : std::nullopt;
  if (!kind)
    return fail("union_tag_invalid", "mount pattern must be of type `fuse`, `mountpoint`, `rclone` "
                                     "or `s3files`");
  out.kind = *kind;
  read_pattern_fields(read, value, at, out, config_error);
  return true;
}

json dump_pattern(const mount_pattern& x) {
  json out{{"type", to_string(x.kind)}};
  switch (x.kind) {
    case mount_pattern_kind::fuse: write_members(x.fuse, out); break;
    case mount_pattern_kind::mountpoint:
      out["options"] = json::object();
      write_members(x.mountpoint, out["options"]);
      break;
    case mount_pattern_kind::rclone: write_members(x.rclone, out); break;
    case mount_pattern_kind::s3files:
      out["options"] = json::object();
      write_members(x.s3files, out["options"]);
      break;
  }
  return out;
}

// -- strategies
// -------------------------------------------------------------------------------------

void read_in_container(json_reader& read, const json& value, const location& at,
                       const mount_type& type, mount_strategy& out,
                       std::optional<error>& config_error) {
  auto* pattern = read.member(value, at, "pattern", need::required);
  if (!pattern || !read_pattern(read, *pattern, {at, "pattern"}, out.pattern, config_error))
    return;
  if (std::ranges::find(type.patterns, out.pattern.kind) == type.patterns.end() && !config_error)
    config_error = config_fault("invalid mount_pattern type").with("type", type.name);
}

void read_docker_volume(json_reader& read, const json& value, const location& at,
                        const mount_type& type, mount_strategy& out,
                        std::optional<error>& config_error) {
  read.text(value, at, "driver", out.driver, need::required);
  read_options(read, value, at, "driver_options", false, out.driver_options);
  if (std::ranges::find(type.drivers, out.driver) == type.drivers.end() && !config_error)
    config_error = config_fault("invalid Docker volume driver")
                     .with("type", type.name)
                     .with("driver", shortened(out.driver));
}

mount_strategy read_strategy(json_reader& read, const json& value, const location& at,
                             const mount_type& type, std::optional<error>& config_error) {
  mount_strategy out;
  auto fail = [&](const char* fault, std::string text) {
    read.fail(at, fault, std::move(text));
    return mount_strategy{};
  };
  if (!value.is_object())
    return fail("type_error", "mount strategy must be an object");
  auto name = value.find("type");
  if (name == value.end() || !name->is_string())
    return fail("value_error", "mount strategy must include a string `type` field");
  const auto& wanted = name->get_ref<const std::string&>();
  if (is_hosted_strategy(wanted)) {
    if (!config_error)
      config_error = config_fault("mount strategy is not supported by this sandbox backend")
                       .with("mount_type", type.name)
                       .with("strategy_type", wanted);
    return out;
  }
  auto kind = mount_strategy_from_string(wanted);
  if (!kind)
    return fail("value_error", "Unknown mount strategy type `" + shortened(wanted)
                                 + "`. Registered types: docker_volume, in_container");
  out.kind = *kind;
  switch (out.kind) {
    case mount_strategy_kind::in_container:
      read_in_container(read, value, at, type, out, config_error);
      break;
    case mount_strategy_kind::docker_volume:
      read_docker_volume(read, value, at, type, out, config_error);
      break;
  }
  return out;
}

json dump_strategy(const mount_strategy& x) {
  json out{{"type", to_string(x.kind)}};
  switch (x.kind) {
    case mount_strategy_kind::in_container: out["pattern"] = dump_pattern(x.pattern); break;
    case mount_strategy_kind::docker_volume:
      out["driver"] = x.driver;
      out["driver_options"] = dump_options(x.driver_options);
      break;
  }
  return out;
}

// -- mounts
// -----------------------------------------------------------------------------------------

void read_setting(json_reader& read, const json& value, const location& at,
                  const mount_field& field, mount_entry& out) {
  const bool never_null = field.is(needed) || !field.fallback.empty();
  std::optional<std::string> text;
  if (never_null)
    read.text(value, at, field.name.data(), text.emplace(field.fallback),
              field.is(needed) ? need::required : need::optional);
  else
    read.text(value, at, field.name.data(), text);
  if (text)
    out.settings.emplace(field.name, std::move(*text));
}

/// Whether `given` has a member that `known` lacks, also in the objects that both have.
bool has_more_members(const json& given, const json& known) {
  if (!given.is_object() || !known.is_object())
    return false;
  return std::ranges::any_of(given.items(), [&](const auto& x) {
    auto i = known.find(x.key());
    return i == known.end() || has_more_members(x.value(), *i);
  });
}

} // namespace

mount_entry read_mount(json_reader& read, const json& value, const location& at,
                       const mount_type& type, std::optional<error>& config_error) {
  mount_entry out;
  out.kind = type.kind;
  auto* path = read.member(value, at, "mount_path", need::optional);
  if (path && path->is_string())
    out.mount_path = clean_path(path->get_ref<const std::string&>());
  else if (path && !path->is_null())
    read.fail({at, "mount_path"}, "path_type", "Input is not a valid path");
  read.boolean(value, at, "read_only", out.read_only);
  if (auto* strategy = read.member(value, at, "mount_strategy", need::required))
    out.strategy = read_strategy(read, *strategy, {at, "mount_strategy"}, type, config_error);
  for (const auto& field : type.fields)
    read_setting(read, value, at, field, out);
  if (type.kind == mount_kind::box)
    check_literal(read, at, "box_sub_type", *setting(out, "box_sub_type"), "user", "enterprise");
  if (type.kind == mount_kind::s3_files)
    read_options(read, value, at, "extra_options", true, out.extra_options);
  return out;
}

void dump_mount(const mount_entry& x, json& out) {
  out["mount_path"] = x.mount_path ? json(*x.mount_path) : json(nullptr);
  out["read_only"] = x.read_only;
  out["mount_strategy"] = dump_strategy(x.strategy);
  for (const auto& field : type_of(x.kind).fields) {
    auto* text = setting(x, field.name);
    out[std::string{field.name}] = text ? json(*text) : json(nullptr);
  }
  if (x.kind == mount_kind::s3_files)
    out["extra_options"] = dump_options(x.extra_options);
}

bool mounts_have_unknown_members(const json& given, const json& known) {
  if (!given.is_object())
    return false;
  return std::ranges::any_of(given.items(), [&](const auto& x) {
    const auto& entry = known.at(x.key());
    if (entry.contains("mount_strategy"))
      return has_more_members(x.value(), entry);
    auto children = x.value().find("children");
    return children != x.value().end() && entry.contains("children")
           && mounts_have_unknown_members(*children, entry.at("children"));
  });
}

} // namespace troupe::workspace
