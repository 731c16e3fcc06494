#pragma once

#include "messages/error.hpp"
#include "messages/unique_fd.hpp"

#include <cstdint>

namespace troupe::backends {

/// A pseudo terminal. Both ends are closed on exec.
struct pty {
  unique_fd master; ///< the side of whoever types and looks; does not block
  unique_fd slave;  ///< the side of the program
};

/// Opens a terminal of that size. It becomes nobody's controlling terminal by that. An
/// `exec_transport_error` when the machine has no more of them (4,095 in one devpts, as a rule).
result<pty> open_pty(uint16_t rows, uint16_t cols);

/// The same in the devpts whose directory is `devpts`. It belongs to this thread's fsuid.
result<pty> open_pty_in(int devpts, uint16_t rows, uint16_t cols);

/// Resizes a terminal by its master, which tells the programs in its foreground by SIGWINCH. No
/// matter to one that is gone.
void set_window_size(int master, uint16_t rows, uint16_t cols);

} // namespace troupe::backends
