#pragma once

#include "protocol.hpp"

namespace troupe::backends::isolated::init {

/// What is being read; the last datagram.
extern char datagram[max_datagram];

struct received {
  long size = 0;
  int fds[max_descriptors];
  int count = 0;
};

/// False if it cannot be taken now.
bool post(void* message, uint32_t size, const int* fds = nullptr, int count = 0);

/// Tells which step of the set-up failed, and ends.
[[noreturn]] void fail(setup_step step, long code, uint32_t index = 0);

/// Fails for what the kernel returned below zero.
void check(setup_step step, long code, uint32_t index = 0);

/// Its descriptors.
void close_all(received& r);

/// One datagram into `datagram`. The size is that of the message, or an error.
received take(int flags);

} // namespace troupe::backends::isolated::init
