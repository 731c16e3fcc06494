#include "messages/error.hpp"

#include <simdjson.h>

#include <array>
#include <cstdio>
#include <utility>

namespace troupe {

namespace {

constexpr std::array code_names = {
  "none",
  "invalid_manifest_path",
  "invalid_compression_scheme",
  "exposed_port_unavailable",
  "exec_nonzero",
  "exec_timeout",
  "exec_transport_error",
  "pty_session_not_found",
  "apply_patch_invalid_path",
  "apply_patch_invalid_diff",
  "apply_patch_file_not_found",
  "apply_patch_decode_error",
  "workspace_read_not_found",
  "workspace_archive_read_error",
  "workspace_archive_write_error",
  "workspace_write_type_error",
  "workspace_stop_error",
  "workspace_start_error",
  "workspace_root_not_found",
  "local_file_read_error",
  "local_dir_read_error",
  "local_checksum_error",
  "git_missing_in_image",
  "git_clone_error",
  "git_subpath_error",
  "git_copy_error",
  "mount_missing_tool",
  "mount_failed",
  "mount_config_invalid",
  "skills_config_invalid",
  "sandbox_config_invalid",
  "snapshot_persist_error",
  "snapshot_restore_error",
  "snapshot_not_restorable",
  "invalid_request",
  "invalid_manifest",
  "invalid_state",
  "unauthenticated",
  "not_found",
  "conflict",
  "payload_too_large",
  "quota_exceeded",
  "overloaded",
  "timeout",
  "cancelled",
  "interrupted",
  "session_restarting",
  "session_failed",
  "backend_unavailable",
  "backend_lost",
  "no_space",
  "network_denied",
  "call_denied",
  "not_implemented",
  "internal",
};
static_assert(code_names.size() == static_cast<size_t>(errc::internal) + 1);

constexpr std::array op_names = {
  "start",
  "stop",
  "exec",
  "read",
  "write",
  "shutdown",
  "running",
  "persist_workspace",
  "hydrate_workspace",
  "resolve_exposed_port",
  "materialize",
  "snapshot_persist",
  "snapshot_restore",
  "apply_patch",
  "create",
  "resume",
  "remove",
  "list",
  "request",
  "network",
  "sandbox",
};
static_assert(op_names.size() == static_cast<size_t>(op::sandbox) + 1);

template <class Enum, size_t N>
std::optional<Enum> find_name(const std::array<const char*, N>& names, std::string_view name) {
  for (size_t i = 0; i < N; ++i)
    if (name == names[i])
      return static_cast<Enum>(i);
  return std::nullopt;
}

/// Length of the valid UTF-8 sequence at `s[i]`, or 0.
size_t utf8_length(std::string_view s, size_t i) {
  auto byte = [&](size_t k) { return static_cast<unsigned char>(s[k]); };
  auto continues = [&](size_t k) { return k < s.size() && (byte(k) & 0xC0) == 0x80; };
  auto c = byte(i);
  if (c < 0x80)
    return 1;
  if (c >= 0xC2 && c <= 0xDF)
    return continues(i + 1) ? 2 : 0;
  if (c >= 0xE0 && c <= 0xEF) {
    if (!continues(i + 1) || !continues(i + 2))
      return 0;
    auto d = byte(i + 1);
    if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F)) // overlong, surrogates
      return 0;
    return 3;
  }
  if (c >= 0xF0 && c <= 0xF4) {
    if (!continues(i + 1) || !continues(i + 2) || !continues(i + 3))
      return 0;
    auto d = byte(i + 1);
    if ((c == 0xF0 && d < 0x90) || (c == 0xF4 && d > 0x8F)) // overlong, above U+10FFFF
      return 0;
    return 4;
  }
  return 0;
}

} // namespace

std::string_view to_string(errc code) {
  auto i = static_cast<size_t>(code);
  return i < code_names.size() ? code_names[i] : "internal";
}

std::string_view to_string(op operation) {
  auto i = static_cast<size_t>(operation);
  return i < op_names.size() ? op_names[i] : "request";
}

std::optional<errc> errc_from_string(std::string_view name) {
  return find_name<errc>(code_names, name);
}

std::optional<op> op_from_string(std::string_view name) {
  return find_name<op>(op_names, name);
}

std::string to_utf8(std::string_view bytes) {
  if (simdjson::validate_utf8(bytes))
    return std::string{bytes};
  std::string out;
  out.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size();) {
    if (auto n = utf8_length(bytes, i); n > 0) {
      out.append(bytes, i, n);
      i += n;
    } else {
      out += "\xEF\xBF\xBD";
      ++i;
    }
  }
  return out;
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (char c : to_utf8(text)) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char buffer[8];
          std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
          out += buffer;
        } else {
          out += c;
        }
    }
  }
  return out += '"';
}

error& error::with_json(std::string_view key, std::string_view json) & {
  context.pop_back();
  if (context.size() > 1)
    context += ',';
  context += json_quote(key);
  context += ':';
  context += json;
  context += '}';
  return *this;
}

error& error::with(std::string_view key, std::string_view value) & {
  return with_json(key, json_quote(value));
}

error& error::with(std::string_view key, int64_t value) & {
  return with_json(key, std::to_string(value));
}

error& error::with(std::string_view key, bool value) & {
  return with_json(key, value ? "true" : "false");
}

error& error::with(std::string_view key, const std::vector<std::string>& value) & {
  std::string list = "[";
  for (const auto& x : value) {
    if (list.size() > 1)
      list += ',';
    list += json_quote(x);
  }
  return with_json(key, list += ']');
}

error& error::with(std::string_view key, std::chrono::nanoseconds value) & {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%.9g", std::chrono::duration<double>(value).count());
  return with_json(key, buffer);
}

std::optional<bool> default_retryable(errc code) {
  switch (code) {
    case errc::exec_transport_error:
    case errc::workspace_archive_read_error:
    case errc::workspace_archive_write_error:
    case errc::workspace_start_error:
    case errc::workspace_stop_error:
    case errc::git_clone_error:
    case errc::git_copy_error:
    case errc::snapshot_persist_error:
    case errc::snapshot_restore_error:
    case errc::exposed_port_unavailable:
    case errc::sandbox_config_invalid:
    case errc::internal: return std::nullopt;
    case errc::overloaded:
    case errc::quota_exceeded:
    case errc::interrupted:
    case errc::session_restarting:
    case errc::backend_lost: return true;
    default: return false;
  }
}

error make_error(errc code, op operation, std::string message) {
  error e;
  e.code = code;
  e.operation = operation;
  e.message = std::move(message);
  e.retryable = default_retryable(code);
  return e;
}

std::string class_name(errc code) {
  switch (code) {
    case errc::apply_patch_invalid_diff: return "ApplyPatchDiffError";
    case errc::apply_patch_invalid_path: return "ApplyPatchPathError";
    case errc::exec_nonzero: return "ExecNonZeroError";
    case errc::mount_config_invalid: return "MountConfigError";
    case errc::mount_failed: return "MountCommandError";
    case errc::mount_missing_tool: return "MountToolMissingError";
    case errc::sandbox_config_invalid: return "ConfigurationError";
    case errc::skills_config_invalid: return "SkillsConfigError";
    default: break;
  }
  std::string out;
  bool upper = true;
  for (char c : to_string(code)) {
    if (c == '_') {
      upper = true;
      continue;
    }
    out += upper ? static_cast<char>(c - ('a' <= c && c <= 'z' ? 32 : 0)) : c;
    upper = false;
  }
  return out.ends_with("Error") ? out : out + "Error";
}

} // namespace troupe
