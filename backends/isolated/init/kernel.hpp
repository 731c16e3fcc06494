#pragma once

#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/ioctl.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/sockios.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include <linux/wait.h>

#include <stddef.h>
#include <stdint.h>

// What the kernel's headers of older systems lack, and what the C library's would have.

// The compiler calls these too.
extern "C" void* memset(void* to, int value, size_t n);
extern "C" void* memcpy(void* to, const void* from, size_t n);

namespace troupe::backends::isolated::init {

constexpr uint64_t landlock_truncate = 1ULL << 14;
constexpr uint64_t landlock_ioctl_dev = 1ULL << 15;
constexpr uint64_t landlock_read
  = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
constexpr uint64_t landlock_of_files = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE
                                       | LANDLOCK_ACCESS_FS_READ_FILE | landlock_truncate
                                       | landlock_ioctl_dev;
struct landlock_attributes {
  uint64_t fs;
  uint64_t net;
  uint64_t scoped;
};
constexpr uint64_t landlock_scoped_sockets_and_signals = 3;

constexpr int sol_socket = 1;
constexpr int so_peercred = 17;
constexpr int scm_rights = 1;
constexpr int msg_dontwait = 0x40;
constexpr int msg_nosignal = 0x4000;
constexpr int msg_cmsg_cloexec = 0x40000000;
constexpr int msg_trunc = 0x20;
constexpr int msg_ctrunc = 8;
constexpr int sock_nonblock = 04000;
constexpr int sock_cloexec = 02000000;

struct kernel_rusage {
  __kernel_old_timeval user;
  __kernel_old_timeval system;
  long rest[14];
};

struct message_header {
  void* name;
  int name_size;
  iovec* parts;
  size_t part_count;
  void* control;
  size_t control_size;
  unsigned flags;
};

struct control_header {
  size_t size;
  int level;
  int type;
};

struct peer {
  int pid;
  uint32_t uid;
  uint32_t gid;
};

struct interface_request {
  char name[16];
  short flags;
  char rest[22];
};

struct internet_address {
  uint16_t family;
  uint16_t port;
  uint32_t address;
  unsigned char zero[8];
};

inline internet_address loopback_address(uint32_t port) {
  internet_address a{};
  a.family = 2;
  a.port = static_cast<uint16_t>((port >> 8) | (port << 8));
  a.address = 0x0100007f;
  return a;
}

} // namespace troupe::backends::isolated::init
