#pragma once

#include "messages/error.hpp"
#include "messages/json.hpp"
#include "messages/manifest.hpp"
#include "messages/session.hpp"

#include <string>
#include <string_view>

namespace troupe::workspace {

/// Reads a manifest. Unknown fields are ignored, as the contract says. `invalid_manifest` with
/// context `details`: a list of `{"loc": [...], "type", "msg"}`, at most a hundred;
/// `mount_config_invalid` for a mount that is well-formed and yet cannot be.
///
/// The content of a `file` is its UTF-8 text. An extension of ours carries other bytes: `content`
/// is
/// "" and `content_base64` beside it holds them; when given, it wins over `content`.
result<manifest> parse_manifest(const json& value);

/// Writes every field, nulls and defaults included, in the contract's order.
json dump_manifest(const manifest& x);

/// SHA-256 of the canonical form (sorted keys, compact, non-ASCII escaped), lower-case hexadecimal.
std::string manifest_digest(const manifest& x);

/// Reads a session state, without host paths and without credentials of mounts. Any fault is
/// `invalid_state` with one generic message that echoes nothing. A state without a `type` is of
/// unix_local.
result<session_state> parse_state(const json& value);

/// Whether a session may be resumed from it as it is: nothing was taken out that only trusted code
/// can put back. `invalid_state`.
result<void> check_rebound(const session_state& x);

/// Writes a session state; grants with a host path are taken out and named in the marker, and what
/// gives access to mounted storage is taken out.
json dump_state(const session_state& x);

/// Reads `{"type", "id"?, ...}`; `need_id` for a snapshot, false for a spec (whose id stays empty).
/// `invalid_request`.
result<snapshot_ref> parse_snapshot(const json& value, bool need_id);
json dump_snapshot(const snapshot_ref& x);

/// Whether a local snapshot may have this id: a single path segment, for it names a file. Not part
/// of parsing, as the contract has it. `invalid_request`.
result<void> check_local_snapshot_id(std::string_view id);

/// SHA-256, lower-case hexadecimal.
std::string sha256_hex(std::string_view data);

} // namespace troupe::workspace
