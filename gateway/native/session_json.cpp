#include "gateway/native/session_json.hpp"

#include "gateway/native/object_reader.hpp"
#include "workspace/archive_limits_json.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/session_limits_json.hpp"

#include <algorithm>

namespace troupe::gateway {

namespace {

constexpr size_t max_labels = 64;
constexpr size_t max_label_size = 1024;

error invalid(const std::string& field, const std::string& message) {
  return make_error(errc::invalid_request, op::create, message).with("field", field);
}

std::optional<int64_t> milliseconds(std::optional<std::chrono::nanoseconds> x) {
  if (!x)
    return std::nullopt;
  return std::chrono::ceil<std::chrono::milliseconds>(*x).count();
}

/// `null` means no limit, a missing member the default.
void read_concurrency(object_reader& in, const char* key, std::optional<int32_t>& out) {
  if (auto value = in.integer(key, 1, 100'000))
    out = static_cast<int32_t>(*value);
  else if (in.has(key))
    out.reset();
}

} // namespace

result<void> read_limits(const json& value, backend_kind kind, session_limits& out,
                         const char* where) {
  object_reader in{value, where};
  out.exec_timeout_ms = milliseconds(in.seconds("exec_timeout_s"));
  out.output_bytes = in.integer("output_bytes", 0, int64_t{1} << 40);
  if (kind == backend_kind::isolated) {
    out.memory_bytes = in.integer("memory_bytes", 1 << 20, int64_t{1} << 50);
    out.pids = in.integer("pids", 1, 1 << 22);
    out.disk_bytes = in.integer("disk_bytes", 1, int64_t{1} << 60);
    out.disk_inodes = in.integer("disk_inodes", 1, int64_t{1} << 40);
    out.open_files = in.integer("open_files", 16, 1 << 20);
    if (auto* cpus = in.any("cpus")) {
      if (cpus->is_number() && *cpus >= 0.01 && *cpus <= 4096)
        out.cpu_millis = static_cast<int64_t>(cpus->get<double>() * 1000);
      else
        in.fail("cpus", "a number from 0.01 to 4096");
    }
    return in.finish();
  }
  // A limit that nothing enforces must not be promised.
  for (const char* key : {"cpus", "memory_bytes", "pids", "disk_bytes"})
    if (in.any(key))
      return unexpected(make_error(errc::sandbox_config_invalid, op::create,
                                   "unix_local cannot enforce `limits." + std::string{key} + "`")
                          .with("field", "limits." + std::string{key}));
  return in.finish();
}

namespace {

result<void> read_network(const json& value, session_spec& spec) {
  bool isolated = spec.state.type == backend_kind::isolated;
  if (isolated && (value == "none" || value == "host")) {
    spec.state.network = *network_from_string(value.get<std::string>());
    return {};
  }
  if (isolated && value.is_object()) {
    object_reader in{value, "network"};
    if (auto allow = in.texts("allow"))
      spec.state.network_allow = std::move(*allow);
    else
      in.fail("allow", "a list of \"host:port\"");
    spec.state.network = network_mode::allow;
    return in.finish();
  }
  if (value == "host")
    return {};
  if (value == "none" || value.is_object())
    return unexpected(make_error(errc::sandbox_config_invalid, op::create,
                                 "unix_local shares the host's network and cannot restrict it")
                        .with("field", "network"));
  return unexpected(
    invalid("network", "`network` must be \"none\", \"host\" or {\"allow\": [...]}"));
}

result<void> read_ports(const json& value, const std::string& field, std::vector<int32_t>& out) {
  if (!value.is_array())
    return unexpected(invalid(field, "`" + field + "` must be a list of ports"));
  for (const auto& port : value) {
    if (!port.is_number_integer() || port.get<int64_t>() < 1 || port.get<int64_t>() > 65535)
      return unexpected(
        invalid(field, "`" + field + "` must be a list of integers from 1 to 65535"));
    auto number = port.get<int32_t>();
    if (std::find(out.begin(), out.end(), number) == out.end())
      out.push_back(number);
  }
  return {};
}

result<void> read_options(const json& value, session_spec& spec) {
  object_reader in{value, "options"};
  if (auto type = in.text("type")) {
    auto kind = backend_from_string(*type);
    if (!kind)
      return unexpected(
        invalid("options.type", "unknown sandbox client options type `" + *type + "`"));
    spec.state.type = *kind;
  }
  if (auto text = in.text("on_conflict")) {
    auto policy = conflict_from_string(*text);
    if (!policy)
      in.fail("on_conflict", "\"snapshot_wins\", \"live_wins\" or \"fail\"");
    spec.on_conflict = policy.value_or(spec.on_conflict);
  }
  if (auto* ports = in.any("exposed_ports"))
    if (auto ok = read_ports(*ports, "options.exposed_ports", spec.state.exposed_ports); !ok)
      return ok;
  return in.finish();
}

result<snapshot_ref> read_snapshot(const json& value) {
  // A local snapshot without a place goes into the server's own folder.
  bool placeless = value.is_object() && value.contains("type") && value["type"] == "local"
                   && !value.contains("base_path");
  if (!placeless)
    return workspace::parse_snapshot(value, false);
  auto given = value;
  given["base_path"] = "/";
  auto parsed = workspace::parse_snapshot(given, false);
  if (parsed)
    parsed->base_path.clear();
  return parsed;
}

json optional_time(int64_t ms) {
  return ms > 0 ? json(rfc3339_ms(ms)) : json(nullptr);
}

} // namespace

std::map<std::string, std::string> read_labels(object_reader& in) {
  auto labels = in.text_map("labels").value_or(std::map<std::string, std::string>{});
  auto is_long = [](const auto& x) {
    return x.first.size() > max_label_size || x.second.size() > max_label_size;
  };
  if (labels.size() > max_labels || std::ranges::any_of(labels, is_long))
    in.fail("labels", "at most 64 texts with names, of at most 1024 bytes each");
  return labels;
}

result<session_spec> parse_create_request(const json& body, backend_kind default_backend) {
  session_spec spec;
  spec.state.type = default_backend;
  object_reader in{body};
  if (auto* value = in.any("manifest")) {
    auto parsed = workspace::parse_manifest(*value);
    if (!parsed)
      return unexpected(std::move(parsed.error()));
    spec.state.manifest = std::move(*parsed);
  }
  if (auto* value = in.any("snapshot")) {
    auto parsed = read_snapshot(*value);
    if (!parsed)
      return unexpected(std::move(parsed.error()));
    spec.state.snapshot = std::move(*parsed);
  }
  if (auto* value = in.any("options"))
    if (auto ok = read_options(*value, spec); !ok)
      return unexpected(std::move(ok.error()));
  if (auto* value = in.any("exposed_ports"))
    if (auto ok = read_ports(*value, "exposed_ports", spec.state.exposed_ports); !ok)
      return unexpected(std::move(ok.error()));
  if (auto* value = in.any("concurrency_limits")) {
    object_reader limits{*value, "concurrency_limits"};
    read_concurrency(limits, "manifest_entries", spec.concurrency.manifest_entries);
    read_concurrency(limits, "local_dir_files", spec.concurrency.local_dir_files);
    if (auto ok = limits.finish(); !ok)
      return unexpected(std::move(ok.error()));
  }
  if (auto* value = in.any("archive_limits"); value || in.has("archive_limits")) {
    auto limits = workspace::parse_archive_limits(value ? *value : json(nullptr));
    if (!limits)
      return unexpected(std::move(limits.error()));
    spec.archives = *limits;
  }
  if (auto* value = in.any("limits"))
    if (auto ok = read_limits(*value, spec.state.type, spec.state.limits); !ok)
      return unexpected(std::move(ok.error()));
  if (auto* value = in.any("network"))
    if (auto ok = read_network(*value, spec); !ok)
      return unexpected(std::move(ok.error()));
  spec.labels = read_labels(in);
  spec.idle_timeout_ms = milliseconds(in.seconds("idle_timeout_s"));
  spec.max_lifetime_ms = milliseconds(in.seconds("max_lifetime_s"));
  spec.start = in.boolean("start").value_or(true);
  if (auto ok = in.finish(); !ok)
    return unexpected(std::move(ok.error()));
  return spec;
}

result<session_spec> parse_resume_request(const json& body) {
  session_spec spec;
  object_reader in{body};
  auto* value = in.any("state");
  if (!value)
    return unexpected(invalid("state", "`state` is missing"));
  auto state = workspace::parse_state(*value);
  if (!state)
    return unexpected(std::move(state.error()));
  if (auto ok = workspace::check_rebound(*state); !ok)
    return unexpected(std::move(ok.error()));
  spec.state = std::move(*state);
  spec.id = spec.state.session_id;
  spec.resumed = true;
  if (auto* options = in.any("options")) {
    auto type = spec.state.type;
    if (auto ok = read_options(*options, spec); !ok)
      return unexpected(std::move(ok.error()));
    if (spec.state.type != type)
      return unexpected(
        invalid("options.type", "the options are for another backend than the state"));
  }
  if (auto ok = in.finish(); !ok)
    return unexpected(std::move(ok.error()));
  return spec;
}

namespace {

/// In the words of a request to create.
json limits_to_json(const session_limits& x) {
  auto out = workspace::dump_session_limits(x);
  out.erase("exec_timeout_ms");
  out.erase("cpu_millis");
  if (x.exec_timeout_ms)
    out["exec_timeout_s"] = static_cast<double>(*x.exec_timeout_ms) / 1000;
  if (x.cpu_millis)
    out["cpus"] = static_cast<double>(*x.cpu_millis) / 1000;
  return out;
}

json network_to_json(const session_state& x) {
  if (x.network == network_mode::allow)
    return {{"allow", x.network_allow}};
  // What shares the server's network was never asked.
  return to_string(x.type == backend_kind::isolated ? x.network : network_mode::host);
}

} // namespace

json session_to_json(const session_view& x, bool with_state) {
  const auto& spec = x.record.spec;
  const auto& live = x.record.live;
  json expires = nullptr;
  if (spec.max_lifetime_ms)
    expires = rfc3339_ms(live.created_at_ms + *spec.max_lifetime_ms);
  json walls = json::array();
  for (const auto& wall : x.walls)
    walls.push_back({{"name", wall.name}, {"enforced", wall.enforced}, {"note", wall.note}});
  json out{
    {"id", spec.id},
    {"status", to_string(live.status)},
    {"backend", to_string(spec.state.type)},
    {"node", x.node},
    {"tenant", spec.tenant},
    {"labels", json(spec.labels)},
    {"created_at", rfc3339_ms(live.created_at_ms)},
    {"started_at", optional_time(live.started_at_ms)},
    {"last_used_at", optional_time(live.last_used_at_ms)},
    {"expires_at", std::move(expires)},
    {"restarts", live.restarts},
    {"last_error", live.last_error ? error_to_json(*live.last_error) : json(nullptr)},
    {"usage",
     {{"cpu_s", static_cast<double>(x.usage.cpu_ms) / 1000.0},
      {"memory_bytes", x.usage.memory_bytes},
      {"disk_bytes", x.usage.disk_bytes ? json(*x.usage.disk_bytes) : json(nullptr)},
      {"pids", x.usage.pids}}},
    {"limits", limits_to_json(spec.state.limits)},
    {"network", network_to_json(spec.state)},
    {"walls", std::move(walls)},
    {"warnings", live.warnings},
  };
  if (spec.labels.empty())
    out["labels"] = json::object();
  if (with_state)
    out["state"] = workspace::dump_state(spec.state);
  return out;
}

json snapshot_to_json(const snapshot_info& x) {
  return {{"id", x.id},
          {"session", x.session_id},
          {"created_at", rfc3339_ms(x.created_at_ms)},
          {"size_bytes", x.size_bytes},
          {"stored_bytes", x.stored_bytes},
          {"files", x.files},
          {"layers", x.layers},
          {"parent", x.parent.empty() ? json(nullptr) : json(x.parent)},
          {"name", x.name.empty() ? json(nullptr) : json(x.name)}};
}

json diff_to_json(const workspace_diff& x) {
  json items = json::array();
  for (const auto& change : x.items) {
    json item{{"path", change.path},
              {"change", change.change},
              {"type", change.type},
              {"size", change.size},
              {"old_size", change.old_size}};
    if (!change.patch.empty())
      item["patch"] = change.patch;
    items.push_back(std::move(item));
  }
  return {{"items", std::move(items)}, {"truncated", x.truncated}};
}

} // namespace troupe::gateway
