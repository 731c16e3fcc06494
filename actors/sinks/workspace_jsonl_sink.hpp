#pragma once

#include "actors/sinks/event_sink.hpp"

#include <functional>
#include <list>
#include <string>
#include <unordered_map>

namespace troupe::actors {

/// Appends to a file of a session's workspace, given by its path in there; blocks. False: the
/// session is not running, so nothing may be written now.
using workspace_append = std::function<result<bool>(
  const std::string& session_id, const std::string& path, std::string_view text)>;

struct workspace_jsonl_options {
  /// Relative to the workspace's root. `{session_id}` and `{session_id_hex}` (without dashes) are
  /// replaced.
  std::string path = "logs/events-{session_id}.jsonl";
  bool ephemeral = false;   ///< leave the file out of snapshots
  uint32_t flush_every = 1; ///< events
};

/// Keeps lines and appends them to a file in the session's own workspace: every `flush_every`
/// events, and before the workspace is persisted, around a stop and before a shutdown. While the
/// session is not running, or its file cannot be written, lines wait: up to 256 KiB of a session, 8
/// MiB in all.
class workspace_jsonl_sink : public event_sink {
public:
  workspace_jsonl_sink(sink_settings settings, workspace_jsonl_options options,
                       workspace_append append);

  std::string_view type() const override {
    return "workspace_jsonl";
  }

  /// Where the lines of a session go.
  static std::string path_of(const workspace_jsonl_options& options, const std::string& session_id);

protected:
  result<void> take(const event& x, const sink_context& context) override;

private:
  struct pending {
    std::string session_id;
    std::string lines;
    uint32_t events = 0;
  };
  using pending_ref = std::list<pending>::iterator;

  pending_ref pending_of(const std::string& session_id);
  void drop(pending_ref x);
  /// Drops what is too much; an error if there was any.
  result<void> keep_bounds(pending_ref newest);

  workspace_jsonl_options options_;
  workspace_append append_;
  /// Sessions with lines that are not written yet, in the order of their first line.
  std::list<pending> pending_;
  std::unordered_map<std::string, pending_ref> by_session_;
  size_t bytes_ = 0;
};

} // namespace troupe::actors
