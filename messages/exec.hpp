#pragma once

#include "messages/inspect.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace troupe {

/// How `command` becomes an argument vector.
enum class shell_mode : uint8_t {
  on,     ///< the backend's shell: `sh -c` in unix_local
  off,    ///< the parts are the argument vector
  prefix, ///< `shell_prefix` + the joined command
};

/// A command to run in a session.
struct exec_request {
  std::vector<std::string> command;
  shell_mode shell = shell_mode::on;
  std::vector<std::string> shell_prefix;
  std::optional<std::string> user;
  std::optional<std::string> cwd; ///< relative to the workspace root, or absolute
  std::map<std::string, std::string> env;
  std::string stdin_data;
  std::optional<std::chrono::nanoseconds> timeout;
  /// Kept of each stream; the rest is read, counted and dropped. 0: the session's default.
  int64_t output_limit = 0;
};

struct exec_result {
  int32_t exit_code = 0; ///< -N: killed by signal N
  std::string stdout_data;
  std::string stderr_data;
  bool stdout_truncated = false;
  bool stderr_truncated = false;
  std::chrono::nanoseconds wall{0};
};

enum class stream_id : uint8_t { out = 1, err = 2 };

/// A piece of output of a streamed exec, in the order it was read.
struct exec_output {
  uint64_t exec_id = 0;
  stream_id stream = stream_id::out;
  uint64_t seq = 0; ///< counts pieces of one exec from 1
  std::vector<char> data;
};

template <class Inspector>
auto inspect(Inspector& f, exec_request& x) {
  return inspect_object(f, x, field("command", x.command), field("shell", x.shell),
                        field("shell_prefix", x.shell_prefix), field("user", x.user),
                        field("cwd", x.cwd), field("env", x.env), field("stdin", x.stdin_data),
                        field("timeout", x.timeout), field("output_limit", x.output_limit));
}

template <class Inspector>
auto inspect(Inspector& f, exec_result& x) {
  return inspect_object(f, x, field("exit_code", x.exit_code), field("stdout", x.stdout_data),
                        field("stderr", x.stderr_data),
                        field("stdout_truncated", x.stdout_truncated),
                        field("stderr_truncated", x.stderr_truncated), field("wall", x.wall));
}

template <class Inspector>
auto inspect(Inspector& f, exec_output& x) {
  return inspect_object(f, x, field("exec_id", x.exec_id), field("stream", x.stream),
                        field("seq", x.seq), field("data", x.data));
}

} // namespace troupe
