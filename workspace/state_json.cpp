#include "messages/ids.hpp"
#include "workspace/json_reader.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/mount_json.hpp"
#include "workspace/mount_security.hpp"
#include "workspace/mount_targets.hpp"
#include "workspace/session_limits_json.hpp"

#include <boost/uuid/name_generator_sha1.hpp>
#include <boost/uuid/uuid_io.hpp>

#include <algorithm>

namespace troupe::workspace {

namespace {

constexpr const char* grants_marker = "__openai_agents_redacted_host_path_grant_paths";
constexpr const char* mounts_marker = "__openai_agents_redacted_mount_authority";

bool owns_root(backend_kind type) {
  return type != backend_kind::docker;
}

/// Reads the usual spellings of a UUID (dashed, bare, in braces, as a URN; any case).
std::optional<std::string> normalize_uuid(std::string_view text) {
  constexpr std::string_view urn = "urn:uuid:";
  if (text.starts_with(urn) && text.size() == urn.size() + 36)
    text.remove_prefix(urn.size());
  else if (text.size() == 38 && text.front() == '{' && text.back() == '}')
    text = text.substr(1, 36);
  std::string out{text};
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c | 0x20) : c; });
  if (out.size() == 32)
    for (size_t dash : {8, 13, 18, 23})
      out.insert(dash, 1, '-');
  return is_uuid(out) ? std::optional{std::move(out)} : std::nullopt;
}

void read_ports(json_reader& read, const json& value, const location& at,
                std::vector<int32_t>& out) {
  constexpr int32_t max_port = 65535;
  std::vector<bool> seen(max_port + 1);
  auto add = [&](const json& port) {
    if (!port.is_number_integer() || port < 1 || port > max_port)
      return read.fail(at, "value_error", "exposed_ports must contain ports");
    auto x = port.get<uint16_t>();
    if (!seen[x])
      out.push_back(x);
    seen[x] = true;
  };
  if (value.is_array())
    for (const auto& port : value)
      add(port);
  else if (!value.is_null())
    add(value);
}

/// Grants of host paths are never trusted from a state: only their names are kept.
void take_out_host_grants(manifest& x, std::vector<std::string>& names) {
  auto& grants = x.extra_path_grants;
  for (const auto& grant : grants)
    if (grant.host_path)
      names.push_back(grant.path);
  std::erase_if(grants, [](const path_grant& grant) { return grant.host_path.has_value(); });
}

/// Sorted, so that a state read and written again is the same.
void sort_unique(std::vector<std::string>& names) {
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
}

/// Two members of ours, written only when they say something: what a sandbox of this project may
/// use, and what it sees of networks.
bool read_walls(const json& value, session_state& out) {
  if (auto i = value.find("limits"); i != value.end()) {
    auto limits = parse_session_limits(*i, out.type);
    if (!limits)
      return false;
    out.limits = *limits;
  }
  auto i = value.find("network");
  if (i == value.end() || i->is_null())
    return true;
  if (out.type != backend_kind::isolated)
    return *i == to_string(network_mode::host);
  if (i->is_string()) {
    auto mode = network_from_string(i->get<std::string>());
    out.network = mode.value_or(network_mode::none);
    return mode && *mode != network_mode::allow;
  }
  auto names = i->is_object() ? i->find("allow") : i->end();
  if (!i->is_object() || names == i->end() || !names->is_array())
    return false;
  for (const auto& name : *names) {
    if (!name.is_string())
      return false;
    out.network_allow.push_back(name.get<std::string>());
  }
  out.network = network_mode::allow;
  return true;
}

docker_container read_container(json_reader& read, const json& value,
                                const std::vector<int32_t>& ports) {
  location top;
  docker_container out;
  read.text(value, top, "image", out.image, json_reader::need::required);
  read.text(value, top, "container_id", out.container_id, json_reader::need::required);
  read.text(value, top, "network_mode", out.network_mode);
  if (out.network_mode && (*out.network_mode != "none" || !ports.empty()))
    read.fail(top, "value_error", "exposed_ports cannot be used when network_mode='none'");
  if (auto* labels = read.member(value, top, "labels", json_reader::need::optional)) {
    if (!labels->is_object())
      read.fail(top, "dict_type", "labels must be an object");
    else
      for (const auto& [name, text] : labels->items())
        read.text(*labels, top, name.c_str(), out.labels[name]);
  }
  return out;
}

/// Whoever could reach the container could reach what its mounts have: without their credentials
/// the state names neither it nor its session, but always the same other one.
void forget_container(session_state& x) {
  x.container->container_id.clear();
  x.workspace_root_ready = false;
  boost::uuids::name_generator_sha1 named{boost::uuids::ns::url()};
  x.session_id
    = boost::uuids::to_string(named("openai-agents:mount-authority-redacted:" + x.session_id));
}

std::optional<session_state> read_state(const json& value) {
  if (!value.is_object())
    return std::nullopt;
  session_state out;
  json_reader read;
  location top;

  std::string type{to_string(out.type)};
  read.text(value, top, "type", type);
  auto kind = backend_from_string(type);
  if (!kind)
    return std::nullopt;
  out.type = *kind;

  if (value.contains("session_id")) {
    std::string id;
    read.text(value, top, "session_id", id);
    out.session_id = normalize_uuid(id).value_or("");
    if (out.session_id.empty())
      return std::nullopt;
  } else {
    out.session_id = make_uuid();
  }

  auto* snapshot = read.member(value, top, "snapshot", json_reader::need::required);
  auto* manifest = read.member(value, top, "manifest", json_reader::need::required);
  if (!snapshot || !manifest)
    return std::nullopt;
  auto parsed_snapshot = parse_snapshot(*snapshot, true);
  auto parsed_manifest = parse_manifest(*manifest);
  if (!parsed_snapshot || !parsed_manifest)
    return std::nullopt;
  out.snapshot = std::move(*parsed_snapshot);
  out.manifest = std::move(*parsed_manifest);
  // Not yet redacted: what this project does not know may have been a credential.
  if (has_mounts(out.manifest))
    out.mount_authority_redacted = mounts_have_unknown_members(
      manifest->at("entries"), dump_manifest(out.manifest)["entries"]);

  if (auto* ports = read.member(value, top, "exposed_ports", json_reader::need::optional))
    read_ports(read, *ports, top, out.exposed_ports);
  if (!read_walls(value, out))
    return std::nullopt;
  read.text(value, top, "snapshot_fingerprint", out.snapshot_fingerprint);
  read.text(value, top, "snapshot_fingerprint_version", out.snapshot_fingerprint_version);
  read.boolean(value, top, "workspace_root_ready", out.workspace_root_ready);
  if (owns_root(out.type))
    read.boolean(value, top, "workspace_root_owned", out.workspace_root_owned);
  else
    out.container = read_container(read, value, out.exposed_ports);

  if (auto marker = value.find(grants_marker); marker != value.end() && marker->is_array())
    for (const auto& path : *marker)
      if (path.is_string())
        out.redacted_host_path_grants.push_back(path.get<std::string>());
  take_out_host_grants(out.manifest, out.redacted_host_path_grants);
  sort_unique(out.redacted_host_path_grants);
  auto marker = value.find(mounts_marker);
  const bool marked = marker != value.end() && *marker == true;
  out.mount_authority_redacted
    = redact_mounts(out.manifest) || marked || out.mount_authority_redacted;
  return read.ok() ? std::optional{std::move(out)} : std::nullopt;
}

json or_null(const std::optional<std::string>& x) {
  return x ? json(*x) : json(nullptr);
}

} // namespace

result<session_state> parse_state(const json& value) {
  auto out = read_state(value);
  if (!out)
    return unexpected(
      make_error(errc::invalid_state, op::resume, "sandbox session state payload is invalid"));
  return std::move(*out);
}

result<void> check_rebound(const session_state& x) {
  if (!x.redacted_host_path_grants.empty())
    return unexpected(make_error(errc::invalid_state, op::resume,
                                 "the state's host path grants must be bound again by trusted code")
                        .with("paths", x.redacted_host_path_grants));
  if (x.mount_authority_redacted)
    return unexpected(make_error(errc::invalid_state, op::resume,
                                 "the credentials of the state's mounts must be bound again by "
                                 "trusted code"));
  return {};
}

json dump_state(const session_state& x) {
  auto stored = x.manifest;
  auto redacted = x.redacted_host_path_grants;
  take_out_host_grants(stored, redacted);
  sort_unique(redacted);
  const bool mounts_redacted = redact_mounts(stored) || x.mount_authority_redacted;

  if (mounts_redacted && x.container && !x.container->container_id.empty()) {
    auto nameless = x;
    forget_container(nameless);
    return dump_state(nameless);
  }
  auto out = json::object();
  out["type"] = to_string(x.type);
  out["session_id"] = x.session_id;
  out["snapshot"] = dump_snapshot(x.snapshot);
  out["manifest"] = dump_manifest(stored);
  out["exposed_ports"] = x.exposed_ports;
  out["snapshot_fingerprint"] = or_null(x.snapshot_fingerprint);
  out["snapshot_fingerprint_version"] = or_null(x.snapshot_fingerprint_version);
  out["workspace_root_ready"] = x.workspace_root_ready;
  if (owns_root(x.type))
    out["workspace_root_owned"] = x.workspace_root_owned;
  if (x.container) {
    out["image"] = x.container->image;
    out["container_id"] = x.container->container_id;
    out["network_mode"] = or_null(x.container->network_mode);
    out["labels"] = json(x.container->labels);
  }
  if (auto limits = dump_session_limits(x.limits); !limits.empty())
    out["limits"] = std::move(limits);
  if (x.network == network_mode::allow)
    out["network"] = {{"allow", x.network_allow}};
  else if (x.network != network_mode::none)
    out["network"] = to_string(x.network);
  if (!redacted.empty())
    out[grants_marker] = redacted;
  if (mounts_redacted)
    out[mounts_marker] = true;
  return out;
}

} // namespace troupe::workspace
