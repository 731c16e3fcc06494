#pragma once

#include "messages/inspect.hpp"

#include <tl/expected.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// Stable machine-readable codes. Up to `snapshot_not_restorable` they are the session contract's;
/// the rest are ours and never reuse one of those.
enum class errc : uint8_t {
  none = 0,
  invalid_manifest_path,
  invalid_compression_scheme,
  exposed_port_unavailable,
  exec_nonzero,
  exec_timeout,
  exec_transport_error,
  pty_session_not_found,
  apply_patch_invalid_path,
  apply_patch_invalid_diff,
  apply_patch_file_not_found,
  apply_patch_decode_error,
  workspace_read_not_found,
  workspace_archive_read_error,
  workspace_archive_write_error,
  workspace_write_type_error,
  workspace_stop_error,
  workspace_start_error,
  workspace_root_not_found,
  local_file_read_error,
  local_dir_read_error,
  local_checksum_error,
  git_missing_in_image,
  git_clone_error,
  git_subpath_error,
  git_copy_error,
  mount_missing_tool,
  mount_failed,
  mount_config_invalid,
  skills_config_invalid,
  sandbox_config_invalid,
  snapshot_persist_error,
  snapshot_restore_error,
  snapshot_not_restorable,
  // -- ours -------------------------------------------------------------------------------------
  invalid_request,  ///< malformed or unknown input; context names it
  invalid_manifest, ///< a manifest that does not parse; context has `details`
  invalid_state,    ///< a session state that does not parse or may not be resumed here
  unauthenticated,
  not_found,
  conflict, ///< the session's status does not allow this
  payload_too_large,
  quota_exceeded,
  overloaded, ///< a bounded queue is full; retry later
  timeout,
  cancelled,           ///< the client went away, or the session was deleted meanwhile
  interrupted,         ///< an actor died with this request in flight; safe to retry
  session_restarting,  ///< the session is between two lives; retry shortly
  session_failed,      ///< restarts are used up; see the session's `last_error`
  backend_unavailable, ///< this build or this machine lacks that backend
  backend_lost,        ///< the sandbox died under the request
  no_space,            ///< disk or quota full
  network_denied,      ///< the sandbox's network rules say no
  call_denied,         ///< a system call that the sandbox's walls refuse
  not_implemented,
  internal,
};

/// The operation an error or event speaks of. Up to `apply_patch` the contract's names.
enum class op : uint8_t {
  start,
  stop,
  exec,
  read,
  write,
  shutdown,
  running,
  persist_workspace,
  hydrate_workspace,
  resolve_exposed_port,
  materialize,
  snapshot_persist,
  snapshot_restore,
  apply_patch,
  // -- ours
  create,
  resume,
  remove,
  list,
  request,
  network, ///< what the sandbox's proxy was asked for, and what it decided
  sandbox, ///< what happened to a sandbox by itself: it died, was taken over, met a limit
};

std::string_view to_string(errc code);
std::string_view to_string(op operation);
std::optional<errc> errc_from_string(std::string_view name);
std::optional<op> op_from_string(std::string_view name);

/// A failure on its way to whoever asked: code, operation, text, structured details, and whether
/// trying again can help (nullopt: unknown).
struct error {
  errc code = errc::none;
  op operation = op::request;
  std::string message;
  std::optional<bool> retryable;
  /// A JSON object, as text, so that errors need no JSON library to be made or moved.
  std::string context = "{}";

  /// Adds one member to `context`; the key must not be there yet.
  error& with(std::string_view key, std::string_view value) &;
  error& with(std::string_view key, const char* value) & {
    return with(key, std::string_view{value});
  }
  error& with(std::string_view key, int64_t value) &;
  error& with(std::string_view key, int value) & {
    return with(key, static_cast<int64_t>(value));
  }
  error& with(std::string_view key, bool value) &;
  error& with(std::string_view key, const std::vector<std::string>& value) &;
  /// Written as a number of seconds.
  error& with(std::string_view key, std::chrono::nanoseconds value) &;
  /// `json` must be valid JSON text.
  error& with_json(std::string_view key, std::string_view json) &;
  template <class T>
  error&& with(std::string_view key, const T& value) && {
    return std::move(with(key, value));
  }
  error&& with_json(std::string_view key, std::string_view json) && {
    return std::move(with_json(key, json));
  }
};

/// The contract's fixed retryability for `code`, nullopt where it says "null" or "given".
std::optional<bool> default_retryable(errc code);

/// An error with the default retryability of its code.
error make_error(errc code, op operation, std::string message);

/// `"text"` with JSON escapes; bytes that are not UTF-8 become U+FFFD.
std::string json_quote(std::string_view text);

/// Text with every byte sequence that is not UTF-8 replaced by U+FFFD.
std::string to_utf8(std::string_view bytes);

/// What the contract calls the class of such errors; made up in the same way for codes of ours.
std::string class_name(errc code);

/// The outcome of anything that can fail below the actors.
template <class T = void>
using result = tl::expected<T, error>;
using tl::unexpected;

template <class Inspector>
auto inspect(Inspector& f, error& x) {
  return inspect_object(f, x, field("code", x.code), field("op", x.operation),
                        field("message", x.message), field("retryable", x.retryable),
                        field("context", x.context));
}

} // namespace troupe
