#pragma once

#include "messages/error.hpp"

#include <cstdint>
#include <string>

namespace troupe::backends::isolated {

constexpr uint32_t ids_per_range = 65'536;

/// (blocks) The first of the 65,536 user ids that belong to `owner` (a directory's path) alone, on
/// this machine: the one it already has, or a free one. `taken` holds one symbolic link for each
/// range, to its owner; a link whose owner is gone is free.
result<uint32_t> take_uid_range(const std::string& taken, uint32_t base, const std::string& owner);

/// (blocks) The same of `count` ranges that are granted to this process's user, from `base` on. The
/// first is shared by all who have none of their own: where there is but one, or where `taken` is
/// no directory that this process may write to. Who has shared it once keeps it, with its files.
result<uint32_t> take_granted_range(const std::string& taken, uint32_t base, uint32_t count,
                                    const std::string& owner);

/// (blocks) Makes the range another directory's, which is there. False: it stays as it was.
bool move_uid_range(const std::string& taken, uint32_t base, uint32_t first,
                    const std::string& owner);

/// (blocks) Gives it back. Its owner's files must be gone.
void release_uid_range(const std::string& taken, uint32_t base, uint32_t first);

} // namespace troupe::backends::isolated
