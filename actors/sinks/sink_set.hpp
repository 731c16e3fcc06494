#pragma once

#include "actors/sinks/sink_config.hpp"
#include "actors/sinks/sink_lane.hpp"

namespace troupe::actors {

/// All sinks of a node. Thread-safe. Progress is not for sinks: they get starts and finishes.
class sink_set {
public:
  /// What sinks need of their process.
  struct host {
    sink_executor run;
    workspace_append append;
    std::function<void(const error&)> log;
  };

  static result<std::unique_ptr<sink_set>> make(std::vector<sink_config> sinks,
                                                event_policies policies, host host);

  /// Drops what is queued and waits for what is being handled.
  ~sink_set();

  /// Whether an operation has to wait for a sink.
  bool awaited() const {
    return awaited_;
  }

  /// Hands the event to every sink, in the order they were given. With `done`, a sink that is
  /// awaited has handled it before the next one gets it, and `done` hears of the first failure that
  /// is to be raised, once all have it: on another thread, or before this returns.
  void publish(event_ptr x, event_done done = {});

  /// What the sinks' policies may need of a command's output; null: nothing.
  std::shared_ptr<const event_output> capture(std::string_view stdout_data,
                                              std::string_view stderr_data) const;

  /// Paths in the workspace of a session that must not get into its snapshots.
  std::vector<std::string> ephemeral_paths(const std::string& session_id) const {
    return ephemeral_sink_paths(configs_, session_id);
  }

  /// Waits until everything published so far is handled; false if that takes longer.
  bool flush(std::chrono::milliseconds at_most);

  /// Drops what is queued and what comes.
  void close();

  std::vector<sink_stats> stats() const;

private:
  struct pass;

  sink_set() = default;
  void go_on(const std::shared_ptr<pass>& x);

  std::vector<sink_config> configs_;
  std::vector<std::shared_ptr<sink_lane>> lanes_;
  bool awaited_ = false;
  size_t output_bytes_ = 0;
};

} // namespace troupe::actors
