#pragma once

#include "actors/sinks/callback_sink.hpp"
#include "actors/sinks/http_sink.hpp"
#include "actors/sinks/workspace_jsonl_sink.hpp"

#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace troupe::actors {

struct callback_options {
  event_callback callback;
};

struct jsonl_options {
  std::string path; ///< of the host
};

struct sink_config;

struct chained_options {
  std::vector<sink_config> sinks;
};

/// One sink as an operator or an embedder asks for it.
struct sink_config {
  std::variant<jsonl_options, http_options, workspace_jsonl_options, chained_options,
               callback_options>
    kind;
  /// Not set: `sync` and `raise` for a callback or a chain, else `best_effort` and `log`.
  std::optional<sink_mode> mode;
  std::optional<sink_on_error> on_error;
  event_policy policy;
  size_t queue_limit = 1024;
};

/// `sandbox_config_invalid` for what cannot be; for a file that cannot be written, why not.
result<std::unique_ptr<event_sink>> make_sink(const sink_config& config,
                                              const workspace_append& append);

/// The files in the workspace of `session_id` that sinks want left out of snapshots.
std::vector<std::string> ephemeral_sink_paths(const std::vector<sink_config>& sinks,
                                              const std::string& session_id);

} // namespace troupe::actors
