#pragma once

#include "protocol.hpp"

namespace troupe::backends::isolated::init {

struct command {
  uint64_t id;
  int pid;
  bool ended;
  bool orphan; ///< its controller is gone
  int status;
  uint64_t user_us;
  uint64_t system_us;
  uint64_t max_rss_kib;
};

/// The end of a command's stream that its controller reads, for when that is gone.
struct spool {
  int fd;   ///< -1: at its end
  int file; ///< what was read; -1: nothing yet
  uint64_t command;
  uint32_t stream;
  uint32_t bytes; ///< in the file
  uint64_t dropped;
  bool orphan; ///< we read it
  bool ended;  ///< its command has; others may still hold the other end
  bool drop;   ///< nobody will ask for what comes
};

struct state {
  int control = -1; ///< -1: no controller
  int listener = -1;
  int null = -1;
  int proxy = -1;   ///< where the server's proxy listens
  int denials = -1; ///< where the kernel reports refused calls, and waits for our word
  uint32_t landlock_abi = 0;
  uint32_t peer_uid = 0;
  uint32_t grace_seconds = 300;
  int64_t alone_since = 0;
  char workspace[256] = {};
  uint32_t commands = 0;
  uint32_t ended = 0; ///< of these, to be reported
  uint32_t spools = 0;
  uint32_t spooled = 0;    ///< bytes, of all
  uint64_t open_files = 0; ///< limit of a command
};

extern state me;
extern command table[max_commands];
extern spool spools[max_spools];

[[noreturn]] void leave(int code);

/// Of a clock that only goes forward.
int64_t now_ms();

} // namespace troupe::backends::isolated::init
