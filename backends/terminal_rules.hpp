#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

// The contract's rules for interactive processes. Pure functions.

namespace troupe::backends {

/// How long a call waits for output if it does not say.
constexpr std::chrono::milliseconds default_start_yield{10'000};
constexpr std::chrono::milliseconds default_write_yield{250};

/// Between typing and looking what came of it.
constexpr std::chrono::milliseconds pause_after_input{100};

/// Live interactive processes of a session: how many there may be, and from where on it is worth a
/// warning.
constexpr size_t max_terminals = 64;
constexpr size_t many_terminals = 60;

/// The wait that is meant by `requested`: 250 ms to 30 s; at least 5 s when `polling`, which is a
/// write of nothing.
std::chrono::milliseconds clamp_yield(std::chrono::milliseconds requested, bool polling);

/// What decides whether an interactive process goes when there is no room for another.
struct terminal_use {
  std::chrono::steady_clock::time_point last_used;
  bool exited = false;
};

/// Which one goes: never one of the 8 used last; of the others the one used least recently that
/// has exited, or else the one used least recently. nullopt if there are no others.
std::optional<size_t> choose_victim(const std::vector<terminal_use>& terminals);

/// A process id (1000 to 99999) that is not taken, at or after the place that `random` picks. One
/// must be free.
int32_t choose_terminal_id(uint64_t random, const std::function<bool(int32_t)>& taken);

} // namespace troupe::backends
