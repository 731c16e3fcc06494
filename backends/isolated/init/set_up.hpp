#pragma once

#include "protocol.hpp"

namespace troupe::backends::isolated::init {

constexpr int limit_of_files = 7; // RLIMIT_NOFILE

/// Descriptors that the server left open over exec: the control socket, the listening socket, then
/// the mounts that it hands over.
struct inherited {
  int fds[max_mounts + 2];
  uint32_t count = 0;
};

/// They are written as eight hexadecimal digits each: the child that wrote them had no more to
/// write with.
inherited read_inherited(const char* text);

/// `self`: a pidfd, for who did not start us.
bool say_ready(long workspace, long terminals, long self = -1);

/// Builds the file system and gives up rights, as the first message says; ends if it cannot.
void set_up(const inherited& handed);

} // namespace troupe::backends::isolated::init
