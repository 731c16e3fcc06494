#include "messages/event.hpp"
#include "messages/files.hpp"
#include "messages/session.hpp"

namespace troupe {

std::string_view to_string(backend_kind kind) {
  switch (kind) {
    case backend_kind::unix_local: return "unix_local";
    case backend_kind::isolated: return "isolated";
    case backend_kind::docker: return "docker";
  }
  return "unknown";
}

std::string_view to_string(session_status status) {
  switch (status) {
    case session_status::created: return "created";
    case session_status::starting: return "starting";
    case session_status::running: return "running";
    case session_status::stopping: return "stopping";
    case session_status::stopped: return "stopped";
    case session_status::failed: return "failed";
  }
  return "unknown";
}

std::string_view to_string(network_mode mode) {
  switch (mode) {
    case network_mode::host: return "host";
    case network_mode::allow: return "allow";
    default: return "none";
  }
}

std::optional<network_mode> network_from_string(std::string_view name) {
  for (auto mode : {network_mode::none, network_mode::host, network_mode::allow})
    if (name == to_string(mode))
      return mode;
  return std::nullopt;
}

std::string_view to_string(file_kind kind) {
  switch (kind) {
    case file_kind::directory: return "directory";
    case file_kind::file: return "file";
    case file_kind::symlink: return "symlink";
    case file_kind::other: return "other";
  }
  return "other";
}

std::string_view to_string(event_phase phase) {
  switch (phase) {
    case event_phase::start: return "start";
    case event_phase::finish: return "finish";
    case event_phase::progress: return "progress";
  }
  return "progress";
}

std::optional<backend_kind> backend_from_string(std::string_view name) {
  for (auto kind : {backend_kind::unix_local, backend_kind::isolated, backend_kind::docker})
    if (name == to_string(kind))
      return kind;
  return std::nullopt;
}

std::string_view to_string(workspace_conflict policy) {
  switch (policy) {
    case workspace_conflict::live_wins: return "live_wins";
    case workspace_conflict::fail: return "fail";
    default: return "snapshot_wins";
  }
}

std::optional<workspace_conflict> conflict_from_string(std::string_view name) {
  for (auto policy :
       {workspace_conflict::snapshot_wins, workspace_conflict::live_wins, workspace_conflict::fail})
    if (name == to_string(policy))
      return policy;
  return std::nullopt;
}

std::optional<session_status> status_from_string(std::string_view name) {
  for (auto status : {session_status::created, session_status::starting, session_status::running,
                      session_status::stopping, session_status::stopped, session_status::failed})
    if (name == to_string(status))
      return status;
  return std::nullopt;
}

} // namespace troupe
