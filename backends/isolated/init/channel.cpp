#include "channel.hpp"
#include "kernel.hpp"
#include "parse.hpp"
#include "state.hpp"
#include "sys.hpp"

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

alignas(16) char datagram[max_datagram];

bool post(void* message, uint32_t size, const int* fds, int count) {
  static_cast<header*>(message)->size = size;
  alignas(8) char control[sizeof(control_header) + 8 * max_descriptors];
  iovec part{message, size};
  message_header m{};
  m.parts = &part;
  m.part_count = 1;
  if (count > 0) {
    auto h = reinterpret_cast<control_header*>(control);
    h->size = sizeof *h + static_cast<size_t>(count) * sizeof(int);
    h->level = sol_socket;
    h->type = scm_rights;
    memcpy(h + 1, fds, static_cast<size_t>(count) * sizeof(int));
    m.control = control;
    m.control_size = sizeof *h + ((static_cast<size_t>(count) * sizeof(int) + 7) & ~size_t{7});
  }
  return call(__NR_sendmsg, me.control, arg(&m), msg_nosignal | msg_dontwait) >= 0;
}

[[noreturn]] void fail(setup_step step, long code, uint32_t index) {
  failed_message m{{message_type::failed, 0, 0}, step, static_cast<int32_t>(-code), index, 0};
  post(&m, sizeof m);
  leave(1);
}

void check(setup_step step, long code, uint32_t index) {
  if (code < 0)
    fail(step, code, index);
}

void close_all(received& r) {
  for (int i = 0; i < r.count; ++i)
    if (r.fds[i] >= 0)
      call(__NR_close, r.fds[i]);
  r.count = 0;
}

received take(int flags) {
  received r;
  alignas(8) char control[sizeof(control_header) + 8 * max_descriptors];
  iovec part{datagram, sizeof datagram};
  message_header m{};
  m.parts = &part;
  m.part_count = 1;
  m.control = control;
  m.control_size = sizeof control;
  r.size = call(__NR_recvmsg, me.control, arg(&m), msg_cmsg_cloexec | flags);
  if (r.size < 0)
    return r;
  auto h = reinterpret_cast<control_header*>(control);
  if (m.control_size >= sizeof *h && h->level == sol_socket && h->type == scm_rights) {
    r.count = static_cast<int>((h->size - sizeof *h) / sizeof(int));
    if (r.count > max_descriptors)
      r.count = max_descriptors; // cannot be: the kernel cuts at the buffer
    memcpy(r.fds, h + 1, static_cast<size_t>(r.count) * sizeof(int));
  }
  if ((m.flags & (msg_trunc | msg_ctrunc)) != 0
      || (r.size > 0 && !is_datagram(datagram, static_cast<size_t>(r.size)))) {
    close_all(r);
    r.size = -EBADMSG;
  }
  return r;
}

} // namespace troupe::backends::isolated::init
