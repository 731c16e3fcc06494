#pragma once

#include <stddef.h>
#include <stdint.h>

// What the server and the init of a sandbox say to each other, over a seqpacket socket: one fixed
// struct a datagram, some with a tail. Included by init, which has no C library: no more headers.
//
// Both sides check every length and number that they read.

namespace troupe::backends::isolated {

constexpr uint32_t protocol_version = 2;

/// Bytes of one datagram. What is longer (arguments, as a rule) goes through a memory file.
constexpr size_t max_datagram = 64 * 1024;
/// Bytes of the strings of a command; the kernel takes about as much.
constexpr uint32_t max_strings = 4 * 1024 * 1024;
constexpr uint32_t max_groups = 64;
constexpr uint32_t max_mounts = 64;
/// Commands that run at once in one sandbox, and ended ones whose end nobody took yet.
constexpr uint32_t max_commands = 4096;
/// Streams of commands that init can go on reading when its controller is gone, and what it keeps
/// of each and of all.
constexpr uint32_t max_spools = 1024;
constexpr uint32_t max_spooled = 256 * 1024;
constexpr uint32_t max_spooled_together = 4 * 1024 * 1024;
/// Descriptors of one datagram.
constexpr int max_descriptors = 8;

enum class message_type : uint32_t {
  // -- to init
  setup = 1, ///< once, first
  spawn,
  open_process, ///< answered by `reply` with a pidfd
  connect,      ///< answered by `reply` with a socket
  open_root,    ///< answered by `reply` with the workspace root
  end,          ///< ends the sandbox
  adopt,        ///< of a later controller, first; answered by `ready`, then by what it missed
  // -- from init
  ready, ///< with the descriptors that it names
  failed,
  exited,
  reply,
  orphaned, ///< a command of an earlier controller that still runs
  spooled,  ///< with a file: what such a command put out; before its `exited`
  denied,   ///< a system call that was refused
};

struct header {
  message_type type;
  uint32_t size; ///< of the whole datagram
  uint64_t id;   ///< of the command, or of the request that a reply is for
};

/// Of a mount that is handed over or made.
enum mount_flag : uint32_t {
  mount_read_only = 1,
  mount_no_exec = 2,
  mount_with_devices = 4, ///< else nodev
  mount_landlock_write = 8,
};

/// How init gets a mount.
enum class mount_kind : uint32_t {
  handed, ///< the next of the descriptors that were left open over exec
  proc,
  tmpfs,
  devpts,
  sent, ///< the next of the descriptors that came with the set-up
};

/// Followed in the tail by `target_size` bytes: the place below the root, without a leading slash.
/// The first mount is the root itself and has an empty target.
struct mount_entry {
  mount_kind kind;
  uint32_t flags;
  uint64_t bytes;  ///< tmpfs
  uint64_t inodes; ///< tmpfs
  uint32_t target_size;
  uint32_t reserved;
};

/// Before a path that is not masked but made read-only.
constexpr char mark_of_read_only = '=';

/// Tail: host name, workspace target, paths to be masked (NUL-terminated), mount entries, the
/// seccomp filter.
struct setup_message {
  header head;
  uint32_t version;
  uint32_t grace_seconds; ///< how long to live without a controller
  uint32_t peer_uid;      ///< of a controller, as it looks from inside
  uint32_t host_name_size;
  uint32_t workspace_size;
  uint32_t masked_size; ///< of all masked paths together
  uint32_t mounts;
  uint32_t filter_size; ///< bytes
  uint32_t landlock;    ///< 0: waived
  uint32_t network;     ///< bring up the loopback
  uint32_t proxy_port;  ///< of the loopback, where the server's proxy listens; 0: none
  uint32_t reserved;
  uint64_t open_files;
  uint64_t processes; ///< 0: no limit by RLIMIT_NPROC
  uint64_t file_size; ///< 0: no limit
};

/// Which part of the set-up failed.
enum class setup_step : uint32_t {
  message = 1,
  mount_root,
  mount_entry,
  pivot,
  masks,
  host_name,
  loopback,
  limits,
  landlock,
  rights,
  seccomp,
  workspace,
  proxy,
};

struct failed_message {
  header head;
  setup_step step;
  int32_t error;  ///< errno
  uint32_t index; ///< of the mount
  uint32_t reserved;
};

/// Descriptors that come along, in this order.
enum given_flag : uint32_t {
  given_root = 1,      ///< of the workspace
  given_terminals = 2, ///< the directory of its devpts
  given_proxy = 4,     ///< the proxy's listening socket
  given_self = 8,      ///< a pidfd of init; of an adoption
};

struct ready_message {
  header head;
  uint32_t landlock_abi; ///< 0: none
  uint32_t given;
};

enum spawn_flag : uint32_t {
  spawn_has_stdin = 1,
  spawn_has_stdout = 2,
  spawn_has_stderr = 4,
  spawn_controlling_terminal = 8, ///< stdin is a terminal; it becomes the command's
  spawn_strings_in_file = 16,     ///< the tail is in a memory file
  spawn_keeps_stdout = 32,        ///< with the end that the server reads, for when it is gone
  spawn_keeps_stderr = 64,
};

/// Tail: groups, then `cwd`, arguments and environment, each ended by NUL. Descriptors: what the
/// flags name, in their order.
struct spawn_message {
  header head;
  uint32_t flags;
  uint32_t uid;
  uint32_t gid;
  uint32_t groups;
  uint32_t arguments;
  uint32_t variables;
  uint32_t strings_size; ///< of the NUL-ended strings
  uint32_t reserved;
};

struct connect_message {
  header head;
  uint32_t port;
  uint32_t reserved;
};

struct bare_message {
  header head;
};

/// Where the start of a command failed.
enum class spawn_stage : uint32_t { none, request, clone, rights, directory, exec };

struct exited_message {
  header head;
  spawn_stage failed; ///< none: it ran
  int32_t status;     ///< as of wait, or errno
  uint64_t user_us;
  uint64_t system_us;
  uint64_t max_rss_kib;
};

struct adopt_message {
  header head;
  uint32_t version;
  uint32_t reserved;
};

struct orphaned_message {
  header head; ///< the command's id, of its first controller
  int32_t pid; ///< inside
  uint32_t reserved;
};

constexpr uint32_t stream_of_terminal = 3;

struct spooled_message {
  header head;
  uint32_t stream; ///< 1: stdout, 2: stderr, 3: a terminal
  uint32_t bytes;  ///< in the file
  uint64_t dropped;
};

/// The first time of each call, and then each time that the count has doubled.
struct denied_message {
  header head;
  int32_t call; ///< its number
  int32_t pid;  ///< inside
  uint64_t count;
};

struct reply_message {
  header head;
  int32_t error; ///< errno; 0: with a descriptor
  uint32_t reserved;
};

} // namespace troupe::backends::isolated
