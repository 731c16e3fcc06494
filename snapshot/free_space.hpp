#pragma once

#include "messages/error.hpp"
#include "messages/snapshot.hpp"

#include <cstdint>
#include <string>

namespace troupe::snapshot {

/// Whether `needed` bytes, and some for names and lists, fit on the disk of `fd`. `no_space` with
/// `path`, `needed_bytes` and `free_bytes`; it does not pass by waiting.
result<void> check_space(int fd, uint64_t needed, const std::string& path,
                         op operation = op::snapshot_persist);

/// What a snapshot takes when it is restored: its files, whole blocks of them.
uint64_t space_for(const snapshot_info& x);

} // namespace troupe::snapshot
