#pragma once

#include "messages/error.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// Ids of users that this process may give to files and processes though it is no root: those that
// /etc/subuid and /etc/subgid grant to its user. It has them in a user namespace of its own, in
// which its own id and the granted ones are what they are outside, and nobody else has a number.
// What it executes has no rights over them.

namespace troupe::backends {

struct id_range {
  uint32_t first = 0;
  uint32_t count = 0;

  friend bool operator==(const id_range&, const id_range&) = default;
};

/// What this process has; nullopt: nothing. Real root needs none.
const std::optional<id_range>& granted_ids();

/// Why it has none; empty: it has, or nobody asked.
const std::string& why_no_granted_ids();

/// (blocks; while there is one thread) Moves this process into the namespace that sandboxes of an
/// earlier server on `state_dir` live in, or into a new one. It gives up its supplementary groups,
/// which have no number there. On failure nothing has changed; the error names the wall
/// `user_range` and the cause.
result<void> enter_granted_ids(const std::string& state_dir);

/// Of /etc/subuid and files like it: the first range of the user that holds at least `least` ids.
std::optional<id_range> find_id_range(const std::string& text, const std::string& user,
                                      uint32_t uid, uint32_t least);

/// Whether this thread may do what it likes with files of the granted ids. Only in a process that
/// has some; otherwise nothing happens.
void use_file_rights(bool yes);

} // namespace troupe::backends
