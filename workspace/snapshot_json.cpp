#include "workspace/manifest_json.hpp"
#include "workspace/path_policy.hpp"

#include <array>
#include <utility>

namespace troupe::workspace {

namespace {

constexpr std::array<std::pair<std::string_view, snapshot_kind>, 3> kinds = {{
  {"noop", snapshot_kind::noop},
  {"local", snapshot_kind::local},
  {"remote", snapshot_kind::remote},
}};

error snapshot_error(std::string text) {
  return make_error(errc::invalid_request, op::request, std::move(text));
}

/// Reads a text member; false when it is missing or no text.
bool read_text(const json& value, const char* key, std::string& out) {
  auto i = value.find(key);
  if (i == value.end() || !i->is_string())
    return false;
  out = i->get_ref<const std::string&>();
  return true;
}

} // namespace

result<snapshot_ref> parse_snapshot(const json& value, bool need_id) {
  if (!value.is_object())
    return unexpected(snapshot_error("snapshot payload must be an object"));
  std::string type;
  const snapshot_kind* kind = nullptr;
  if (read_text(value, "type", type))
    for (const auto& x : kinds)
      if (x.first == type)
        kind = &x.second;
  if (!kind)
    return unexpected(
      snapshot_error("unknown snapshot type `" + to_utf8(type.substr(0, 64)) + "`"));

  snapshot_ref out;
  out.kind = *kind;
  if (!read_text(value, "id", out.id) && (need_id || value.contains("id")))
    return unexpected(snapshot_error("snapshot `id` must be a string"));
  if (out.kind == snapshot_kind::local) {
    if (!read_text(value, "base_path", out.base_path))
      return unexpected(snapshot_error("snapshot `base_path` must be a string"));
    out.base_path = clean_path(out.base_path);
  }
  if (out.kind == snapshot_kind::remote
      && !read_text(value, "client_dependency_key", out.client_dependency_key))
    return unexpected(snapshot_error("snapshot `client_dependency_key` must be a string"));
  return out;
}

json dump_snapshot(const snapshot_ref& x) {
  auto out = json::object();
  out["type"] = kinds[static_cast<size_t>(x.kind)].first;
  out["id"] = x.id;
  if (x.kind == snapshot_kind::local)
    out["base_path"] = x.base_path;
  if (x.kind == snapshot_kind::remote)
    out["client_dependency_key"] = x.client_dependency_key;
  return out;
}

result<void> check_local_snapshot_id(std::string_view id) {
  // A colon after the first character would be a drive on Windows, where the snapshot may go next.
  size_t second = 1;
  while (second < id.size() && (static_cast<unsigned char>(id[second]) & 0xC0) == 0x80)
    ++second;
  const bool drive = second < id.size() && id[second] == ':';
  if (id.empty() || id == "." || id == ".." || drive
      || id.find_first_of(std::string_view{"/\\\0", 3}) != std::string_view::npos)
    return unexpected(snapshot_error("LocalSnapshot id must be a single path segment"));
  return {};
}

} // namespace troupe::workspace
