#include "control.hpp"
#include "channel.hpp"
#include "commands.hpp"
#include "kernel.hpp"
#include "set_up.hpp"
#include "state.hpp"
#include "sys.hpp"

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

namespace {

void answer(uint64_t id, long fd) {
  reply_message m{{message_type::reply, 0, id}, fd < 0 ? static_cast<int32_t>(-fd) : 0, 0};
  int one = static_cast<int>(fd);
  post(&m, sizeof m, &one, fd < 0 ? 0 : 1);
  if (fd >= 0)
    call(__NR_close, fd);
}

/// A socket that is connected or about to be; never waits.
long connect_to(uint32_t port) {
  if (port == 0 || port > 65535)
    return -EINVAL;
  auto s = call(__NR_socket, 2, 1 | sock_cloexec | sock_nonblock, 0);
  if (s < 0)
    return s;
  auto a = loopback_address(port);
  auto e = call(__NR_connect, s, arg(&a), sizeof a);
  if (e < 0 && e != -EINPROGRESS) {
    call(__NR_close, s);
    return e;
  }
  return s;
}

long process_of(uint64_t command_id) {
  for (uint32_t i = 0; i < me.commands; ++i)
    if (table[i].id == command_id && !table[i].ended)
      return call(__NR_pidfd_open, table[i].pid, 0);
  return -ESRCH;
}

void lose_controller() {
  call(__NR_close, me.control);
  me.control = -1;
  me.alone_since = now_ms();
  for (uint32_t i = 0; i < me.commands; ++i)
    table[i].orphan = true;
  for (uint32_t i = 0; i < me.spools; ++i) {
    spools[i].orphan = true;
    if (spools[i].ended) {
      spools[i].drop = true;
      spools[i].command = 0;
    }
  }
}

/// What a controller needs that did not start us, then what it missed.
void hand_over(const received& got) {
  if (got.size != sizeof(adopt_message)
      || reinterpret_cast<const adopt_message*>(datagram)->version != protocol_version) {
    lose_controller();
    return;
  }
  auto workspace = call(__NR_openat, AT_FDCWD, arg(me.workspace),
                        O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  auto terminals = call(__NR_openat, AT_FDCWD, arg("/dev/pts"), O_PATH | O_DIRECTORY | O_CLOEXEC);
  auto self = call(__NR_pidfd_open, 1, 0);
  auto told = say_ready(workspace, terminals, self);
  const long given[] = {workspace, terminals, self};
  for (auto fd : given)
    if (fd >= 0)
      call(__NR_close, fd);
  for (uint32_t i = 0; told && i < me.commands; ++i) {
    if (table[i].ended || !table[i].orphan)
      continue;
    orphaned_message m{{message_type::orphaned, 0, table[i].id}, table[i].pid, 0};
    told = post(&m, sizeof m); // what a full socket does not take is left out
  }
}

} // namespace

bool serve_one() {
  auto got = take(msg_dontwait);
  if (got.size == -EAGAIN || got.size == -EINTR)
    return false;
  if (got.size <= 0) {
    // Zero is the end; a broken datagram is of nobody who may control us.
    lose_controller();
    return false;
  }
  auto head = *reinterpret_cast<const header*>(datagram);
  switch (head.type) {
    case message_type::spawn: spawn(got); break;
    case message_type::open_process: answer(head.id, process_of(head.id)); break;
    case message_type::connect:
      if (got.size == sizeof(connect_message))
        answer(head.id, connect_to(reinterpret_cast<const connect_message*>(datagram)->port));
      break;
    case message_type::open_root:
      answer(head.id, call(__NR_openat, AT_FDCWD, arg(me.workspace),
                           O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
      break;
    case message_type::adopt: hand_over(got); break;
    case message_type::end: leave(0);
    default: break;
  }
  close_all(got);
  return me.control >= 0;
}

void accept_controller() {
  auto s = call(__NR_accept4, me.listener, 0, 0, sock_cloexec);
  if (s < 0)
    return;
  peer who{};
  unsigned size = sizeof who;
  if (me.control >= 0
      || call(__NR_getsockopt, s, sol_socket, so_peercred, arg(&who), arg(&size)) < 0
      || who.uid != me.peer_uid) {
    call(__NR_close, s);
    return;
  }
  me.control = static_cast<int>(s);
}

} // namespace troupe::backends::isolated::init
