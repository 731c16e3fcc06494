#pragma once

#include "messages/exec.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// Interactive processes of a session, with a terminal or without.

namespace troupe {

/// Starts one. `request.timeout` ends it; `request.stdin_data` is not used.
struct start_terminal {
  exec_request request;
  bool tty = false;
  int32_t rows = 24;
  int32_t cols = 80;
  std::optional<int64_t> yield_ms; ///< how long to collect output; default 10 s
  std::optional<int64_t> max_output_tokens;
};

/// Types into a terminal, or (empty `chars`) only collects what came since the last time.
struct write_terminal {
  int32_t process_id = 0;
  std::string chars;
  std::optional<int64_t> yield_ms; ///< default 250 ms
  std::optional<int64_t> max_output_tokens;
};

/// What a start or a write collected.
struct terminal_update {
  std::optional<int32_t> process_id;           ///< nullopt: it has ended
  std::string output;                          ///< text if a number of tokens was given, else bytes
  std::optional<int32_t> exit_code;            ///< -N: killed by signal N
  std::optional<int64_t> original_token_count; ///< set when `output` was cut
  std::chrono::nanoseconds wall{0};
};

struct list_terminals {};

struct terminal_info {
  int32_t process_id = 0;
  std::vector<std::string> command;
  bool tty = false;
  bool running = false;
  int64_t started_at_ms = 0;
};

struct terminal_list {
  std::vector<terminal_info> items;
};

struct resize_terminal {
  int32_t process_id = 0;
  int32_t rows = 0;
  int32_t cols = 0;
};

/// Ends one with its process tree; nullopt: all of the session.
struct terminate_terminal {
  std::optional<int32_t> process_id;
};

/// Raw bytes for a terminal, without waiting for an answer of it.
struct type_terminal {
  int32_t process_id = 0;
  std::vector<char> data;
};

/// Output from `cursor` on, counted in bytes since the start; answers when there is some, at the
/// end, or after `wait_ms` with none. Without a cursor: from the oldest byte that is kept.
struct read_terminal {
  int32_t process_id = 0;
  std::optional<uint64_t> cursor;
  int32_t max_bytes = 64 * 1024;
  int64_t wait_ms = 15'000;
};

struct terminal_bytes {
  uint64_t cursor = 0; ///< of the first byte of `data`; later than asked: what was between is lost
  std::vector<char> data;
  bool ended = false; ///< nothing follows `data`
  std::optional<int32_t> exit_code;
};

template <class Inspector>
auto inspect(Inspector& f, start_terminal& x) {
  return inspect_object(f, x, field("request", x.request), field("tty", x.tty),
                        field("rows", x.rows), field("cols", x.cols), field("yield_ms", x.yield_ms),
                        field("max_output_tokens", x.max_output_tokens));
}

template <class Inspector>
auto inspect(Inspector& f, write_terminal& x) {
  return inspect_object(f, x, field("process_id", x.process_id), field("chars", x.chars),
                        field("yield_ms", x.yield_ms),
                        field("max_output_tokens", x.max_output_tokens));
}

template <class Inspector>
auto inspect(Inspector& f, terminal_update& x) {
  return inspect_object(f, x, field("process_id", x.process_id), field("output", x.output),
                        field("exit_code", x.exit_code),
                        field("original_token_count", x.original_token_count),
                        field("wall", x.wall));
}

template <class Inspector>
auto inspect(Inspector& f, list_terminals& x) {
  return inspect_object(f, x);
}

template <class Inspector>
auto inspect(Inspector& f, terminal_info& x) {
  return inspect_object(f, x, field("process_id", x.process_id), field("command", x.command),
                        field("tty", x.tty), field("running", x.running),
                        field("started_at_ms", x.started_at_ms));
}

template <class Inspector>
auto inspect(Inspector& f, terminal_list& x) {
  return inspect_object(f, x, field("items", x.items));
}

template <class Inspector>
auto inspect(Inspector& f, resize_terminal& x) {
  return inspect_object(f, x, field("process_id", x.process_id), field("rows", x.rows),
                        field("cols", x.cols));
}

template <class Inspector>
auto inspect(Inspector& f, terminate_terminal& x) {
  return inspect_object(f, x, field("process_id", x.process_id));
}

template <class Inspector>
auto inspect(Inspector& f, type_terminal& x) {
  return inspect_object(f, x, field("process_id", x.process_id), field("data", x.data));
}

template <class Inspector>
auto inspect(Inspector& f, read_terminal& x) {
  return inspect_object(f, x, field("process_id", x.process_id), field("cursor", x.cursor),
                        field("max_bytes", x.max_bytes), field("wait_ms", x.wait_ms));
}

template <class Inspector>
auto inspect(Inspector& f, terminal_bytes& x) {
  return inspect_object(f, x, field("cursor", x.cursor), field("data", x.data),
                        field("ended", x.ended), field("exit_code", x.exit_code));
}

} // namespace troupe
