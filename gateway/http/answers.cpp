#include "gateway/http/answers.hpp"

namespace troupe::gateway {

namespace {

bool helps_to_wait(errc code) {
  return code == errc::overloaded || code == errc::quota_exceeded
         || code == errc::session_restarting;
}

} // namespace

int http_status(errc code) {
  switch (code) {
    case errc::invalid_request:
    case errc::invalid_manifest:
    case errc::invalid_state:
    case errc::backend_unavailable:
    case errc::invalid_manifest_path:
    case errc::invalid_compression_scheme:
    case errc::apply_patch_invalid_path:
    case errc::apply_patch_invalid_diff:
    case errc::workspace_write_type_error:
    case errc::mount_config_invalid:
    case errc::skills_config_invalid:
    case errc::sandbox_config_invalid:
    case errc::git_subpath_error: return 400;
    case errc::unauthenticated: return 401;
    case errc::not_found:
    case errc::workspace_read_not_found:
    case errc::apply_patch_file_not_found:
    case errc::pty_session_not_found:
    case errc::exposed_port_unavailable: return 404;
    case errc::conflict:
    case errc::session_failed:
    case errc::snapshot_not_restorable:
    case errc::workspace_root_not_found: return 409;
    case errc::payload_too_large: return 413;
    case errc::exec_nonzero:
    case errc::apply_patch_decode_error:
    case errc::workspace_archive_read_error:
    case errc::workspace_archive_write_error:
    case errc::local_file_read_error:
    case errc::local_dir_read_error:
    case errc::git_clone_error:
    case errc::git_copy_error:
    case errc::git_missing_in_image:
    case errc::mount_missing_tool:
    case errc::mount_failed: return 422;
    case errc::quota_exceeded: return 429;
    case errc::cancelled: return 499;
    case errc::none:
    case errc::internal:
    case errc::workspace_start_error:
    case errc::workspace_stop_error:
    case errc::exec_transport_error:
    case errc::snapshot_persist_error:
    case errc::snapshot_restore_error:
    case errc::local_checksum_error: return 500;
    case errc::not_implemented: return 501;
    case errc::overloaded:
    case errc::interrupted:
    case errc::session_restarting:
    case errc::backend_lost: return 503;
    case errc::timeout:
    case errc::exec_timeout: return 504;
    case errc::no_space: return 507;
    case errc::network_denied:
    case errc::call_denied: return 403;
  }
  return 500;
}

response error_response(const error& failure, std::string_view request_id) {
  auto body = error_to_json(failure);
  body["request_id"] = request_id;
  auto answer = json_response(http_status(failure.code), json{{"error", std::move(body)}});
  if (failure.code == errc::unauthenticated)
    answer.headers.add("WWW-Authenticate", "Bearer");
  if (helps_to_wait(failure.code))
    answer.headers.add("Retry-After", "1");
  return answer;
}

response json_response(int status, const json& body) {
  response answer;
  answer.status = status;
  answer.headers.add("Content-Type", "application/json");
  answer.body = dump_json(body);
  return answer;
}

} // namespace troupe::gateway
