#pragma once

#include "backends/user_ids.hpp"
#include "messages/error.hpp"

#include <optional>

// Whose files are, where a sandbox has users of its own and the server works on its files.

namespace troupe::backends {

/// While it lives, what this thread does to files it does as another user: the kernel decides as
/// for that user, and what is made belongs to it. Only this thread changes; libc's own calls would
/// change all of them. Needs root, or granted ids (granted_ids.hpp); without, nothing changes.
class acting_as {
public:
  explicit acting_as(const user_ids& who);
  ~acting_as();

  acting_as(const acting_as&) = delete;
  acting_as& operator=(const acting_as&) = delete;

private:
  uint32_t uid_;
  uint32_t gid_;
  bool changed_;
};

/// The same for a user that there may not be: then nothing changes.
class acting_as_if {
public:
  explicit acting_as_if(const std::optional<user_ids>& who) {
    if (who)
      inner_.emplace(*who);
  }

private:
  std::optional<acting_as> inner_;
};

/// (blocks) Gives everything below `root_fd`, and it itself, that belongs to this process's user to
/// `to`. Follows no link.
result<void> give_tree(int root_fd, const user_ids& to);

} // namespace troupe::backends
