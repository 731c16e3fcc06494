#pragma once

#include "messages/session.hpp"

#include <string>
#include <vector>

namespace troupe::cli {

struct run_options {
  std::string manifest;     ///< file; empty with `resume`
  std::string backend;      ///< empty: unix_local
  std::string snapshot_dir; ///< empty: no snapshot, or the resumed state's own
  std::string resume;       ///< state file
  std::string save;         ///< state file
  std::string events;       ///< file that gets a line per event; empty: none
  bool keep = false;        ///< leave the workspace where it is and say where
  std::vector<std::string> command;
};

/// One whole life of a session in this process: create, materialise, exec with this process's own
/// streams, stop into a snapshot, shut down. Returns the command's exit code (128 + N for signal
/// N), or 125 when Troupe itself failed. SIGINT and SIGTERM must be blocked in every thread: they
/// end the command, not the stop.
int run(const run_options& options);

} // namespace troupe::cli
