#include "spools.hpp"
#include "channel.hpp"
#include "kernel.hpp"
#include "sys.hpp"

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

void remove_spool(uint32_t i) {
  auto& x = spools[i];
  if (x.fd >= 0)
    call(__NR_close, x.fd);
  if (x.file >= 0)
    call(__NR_close, x.file);
  me.spooled -= x.bytes;
  x = spools[--me.spools];
}

namespace {

/// `POLLIN`: whether a read would not wait. 0: whether nobody has the other end any more.
bool is_ready(int fd, short event) {
  pollfd p{fd, event, 0};
  return call(__NR_poll, arg(&p), 1, 0) > 0 && (p.revents & (event | POLLHUP | POLLERR)) != 0;
}

/// Its controller has read, or reads, all of a command that ended; only what others still hold
/// could outlive it.
void release_spools(uint64_t command) {
  for (uint32_t i = 0; i < me.spools;) {
    auto& x = spools[i];
    if (x.command != command || x.orphan || x.ended) {
      ++i;
      continue;
    }
    x.ended = true;
    // A terminal's end is what tells whoever still uses it.
    if (x.stream == stream_of_terminal || is_ready(x.fd, 0))
      remove_spool(i);
    else
      ++i;
  }
}

} // namespace

bool is_full(const spool& x) {
  return x.drop || x.bytes >= max_spooled || me.spooled >= max_spooled_together;
}

void read_spool(spool& x) {
  static char buffer[64 * 1024];
  if (!is_ready(x.fd, POLLIN))
    return;
  auto n = call(__NR_read, x.fd, arg(buffer), sizeof buffer);
  if (n == -EAGAIN || n == -EINTR)
    return;
  if (n <= 0) {
    call(__NR_close, x.fd);
    x.fd = -1;
    return;
  }
  auto size = static_cast<uint32_t>(n);
  auto room = is_full(x) ? 0 : max_spooled - x.bytes;
  auto kept = size < room ? size : room;
  if (kept > 0 && x.file < 0)
    x.file = static_cast<int>(call(__NR_memfd_create, arg("spool"), 1 /* MFD_CLOEXEC */));
  if (kept == 0 || x.file < 0 || call(__NR_write, x.file, arg(buffer), kept) != kept)
    kept = 0;
  x.bytes += kept;
  me.spooled += kept;
  x.dropped += size - kept;
}

namespace {

/// False if they could not all be told.
bool tell_spools(uint64_t command) {
  for (uint32_t i = 0; i < me.spools;) {
    auto& x = spools[i];
    if (x.command != command || !x.orphan) {
      ++i;
      continue;
    }
    // It has ended: what is still in the pipe belongs to it.
    for (int reads = 0; x.fd >= 0 && reads < 16 && !is_full(x); ++reads)
      read_spool(x);
    if (x.bytes > 0 || x.dropped > 0) {
      spooled_message m{{message_type::spooled, 0, command}, x.stream, x.bytes, x.dropped};
      if (!post(&m, sizeof m, &x.file, x.file >= 0 ? 1 : 0))
        return false;
    }
    if (x.fd < 0) {
      remove_spool(i);
      continue;
    }
    // Somebody else still holds it: from now on it is only kept empty.
    if (x.file >= 0)
      call(__NR_close, x.file);
    me.spooled -= x.bytes;
    x.file = -1;
    x.bytes = 0;
    x.dropped = 0;
    x.command = 0;
    x.drop = true;
    ++i;
  }
  return true;
}

} // namespace

void report() {
  for (uint32_t i = 0; i < me.commands && me.ended > 0 && me.control >= 0;) {
    auto& c = table[i];
    if (!c.ended) {
      ++i;
      continue;
    }
    if (c.orphan && !tell_spools(c.id))
      return;
    exited_message m{{message_type::exited, 0, c.id},
                     spawn_stage::none,
                     c.status,
                     c.user_us,
                     c.system_us,
                     c.max_rss_kib};
    if (!post(&m, sizeof m))
      return;
    c = table[--me.commands];
    --me.ended;
  }
}

namespace {

uint64_t microseconds(const __kernel_old_timeval& t) {
  return static_cast<uint64_t>(t.tv_sec) * 1000000 + static_cast<uint64_t>(t.tv_usec);
}

} // namespace

void reap() {
  for (int round = 0; round < 1024; ++round) {
    int status = 0;
    kernel_rusage used{};
    auto pid = call(__NR_wait4, -1, arg(&status), 1 /* WNOHANG */ | __WALL, arg(&used));
    if (pid <= 0)
      return;
    for (uint32_t i = 0; i < me.commands; ++i) {
      auto& c = table[i];
      if (c.pid != pid || c.ended)
        continue;
      c.ended = true;
      c.status = status;
      c.user_us = microseconds(used.user);
      c.system_us = microseconds(used.system);
      c.max_rss_kib = static_cast<uint64_t>(used.rest[0]);
      ++me.ended;
      if (!c.orphan)
        release_spools(c.id);
      break;
    }
  }
}

} // namespace troupe::backends::isolated::init
