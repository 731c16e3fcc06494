#pragma once

#include "messages/unique_fd.hpp"

#include <functional>
#include <string>
#include <string_view>

// What is being written holds a lock as long as its process lives. What is found unlocked was left
// by a dead one.

namespace troupe::snapshot {

/// Makes something under a fresh name with `make` (a descriptor, or errno negated) and locks it.
/// Survives a sweep that comes between the two. Errno negated on failure.
int make_locked(const std::function<int()>& make);

/// Removes whatever in `dir_fd` has a name that `matches` and is not locked, files and whole trees.
void remove_leftovers(int dir_fd, const std::function<bool(std::string_view name)>& matches);

} // namespace troupe::snapshot
