#pragma once

#include "actors/local_messages.hpp"
#include "actors/services.hpp"
#include "backends/terminal.hpp"
#include "backends/utf8_carry.hpp"

#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace troupe::actors {

/// One interactive process: what it printed lately, who reads it, who waits for a yield time to
/// pass. It ends its process when it dies; the session that owns it decides when that is.
class terminal_state {
public:
  using handle_type = terminal_actor;
  static constexpr const char* name = "troupe.terminal";

  terminal_state(self_ptr<handle_type> self, services& shared, backend_actor backend,
                 sandbox_terminal command);
  ~terminal_state();

  handle_type::behavior_type make_behavior();

private:
  using time_point = std::chrono::steady_clock::time_point;

  /// A start or a write that waits for its yield time, or for the end.
  struct collection {
    reply_to<terminal_update> reply;
    std::optional<int64_t> max_tokens;
    time_point begun;
    uint64_t id = 0;
  };

  struct reader {
    reply_to<terminal_bytes> reply;
    read_terminal request;
    uint64_t id = 0;
  };

  void start();
  caf::result<terminal_update> collect(collect_terminal& x);
  caf::result<terminal_bytes> read(read_terminal& x);
  caf::result<void> type(type_terminal& x);
  caf::result<void> terminate();
  caf::result<void> on_output(exec_output& x);
  void on_end(result<exec_result> outcome);
  /// Lets the process print on, as fast as a reader could read and not faster.
  void grant(int64_t bytes);
  /// Ends the wait of a collection, if it is still on.
  std::optional<collection> take_collection(uint64_t id);
  void finish(const collection& x);
  /// Answers `x` if there is something for it; with `now` also if there is not.
  bool try_answer(const reader& x, bool now);
  std::string take_output(uint64_t& lost);

  self_ptr<handle_type> self_;
  services& shared_;
  backend_actor backend_;
  sandbox_terminal command_;
  backends::output_ring ring_;
  backends::utf8_carry carry_;
  uint64_t taken_ = 0; ///< cursor of the collections
  std::list<collection> collections_;
  std::list<reader> readers_;
  std::vector<reply_to<void>> terminations_;
  std::optional<result<exec_result>> end_;
  uint64_t next_id_ = 1;
  /// Bytes granted since `window_`, which starts anew each tenth of a second.
  int64_t granted_ = 0;
  time_point window_{};
};

} // namespace troupe::actors
