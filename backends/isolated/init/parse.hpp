#pragma once

#include "protocol.hpp"

// What init reads of the datagrams that it is sent. Apart from init, so that a fuzzer can call it;
// like init it must do without a C library.

namespace troupe::backends::isolated {

/// Reads strictly from front to back. After the first fault, all that it gives is null or zero.
class reader {
public:
  reader(char* at, size_t size) : at_(at), left_(size) {}

  template <class T>
  T next() {
    T x{};
    if (auto from = bytes(sizeof x))
      __builtin_memcpy(&x, from, sizeof x);
    return x;
  }

  char* bytes(size_t n) {
    if (bad_ || n > left_) {
      bad_ = true;
      return nullptr;
    }
    auto p = at_;
    at_ += n;
    left_ -= n;
    return p;
  }

  /// With its NUL, which is the last of `n` bytes.
  char* text(size_t n) {
    auto p = n > 0 ? bytes(n) : nullptr;
    if (p == nullptr || p[n - 1] != '\0') {
      bad_ = true;
      return nullptr;
    }
    return p;
  }

  /// Up to the next NUL.
  char* word() {
    size_t n = 0;
    while (n < left_ && at_[n] != '\0')
      ++n;
    return bytes(n + 1);
  }

  size_t left() const {
    return left_;
  }
  bool bad() const {
    return bad_;
  }

private:
  char* at_;
  size_t left_;
  bool bad_ = false;
};

/// Whether a datagram is as long as it says; what the kernel cut is not.
inline bool is_datagram(const char* data, size_t size) {
  header head;
  if (size < sizeof head)
    return false;
  __builtin_memcpy(&head, data, sizeof head);
  return head.size == size;
}

struct mount_view {
  mount_entry entry;
  char* target;
};

/// The parts of a set-up, in the datagram.
struct setup_view {
  setup_message message;
  char* host_name;
  char* workspace;
  char* masked; ///< null: none
  mount_view mounts[max_mounts];
  char* filter; ///< null: none
};

/// `most_workspace`: bytes that a caller has room for.
inline bool parse_setup(char* data, size_t size, size_t most_workspace, setup_view& out) {
  constexpr size_t filter_step = 8; // of struct sock_filter
  reader in{data, size};
  out.message = in.next<setup_message>();
  const auto& m = out.message;
  if (in.bad() || m.head.type != message_type::setup || m.version != protocol_version
      || m.mounts == 0 || m.mounts > max_mounts || m.workspace_size > most_workspace
      || m.filter_size % filter_step != 0 || m.filter_size / filter_step > 65535)
    return false;
  out.host_name = in.text(m.host_name_size);
  out.workspace = in.text(m.workspace_size);
  out.masked = m.masked_size > 0 ? in.text(m.masked_size) : nullptr;
  for (uint32_t i = 0; i < m.mounts; ++i) {
    out.mounts[i].entry = in.next<mount_entry>();
    out.mounts[i].target = in.text(out.mounts[i].entry.target_size);
  }
  out.filter = m.filter_size > 0 ? in.bytes(m.filter_size) : nullptr;
  return !in.bad() && in.left() == 0;
}

/// Which descriptor of a datagram is what; -1: none.
struct spawn_descriptors {
  int streams[3] = {-1, -1, -1};
  int strings = -1;
  int kept[2] = {-1, -1};
};

/// The parts of a command's datagram.
struct spawn_view {
  spawn_message message;
  uint32_t* groups;
  char* strings; ///< null: in the file
  spawn_descriptors fds;
};

inline bool parse_spawn(char* data, size_t size, int descriptors, spawn_view& out) {
  reader in{data, size};
  out = spawn_view{};
  out.message = in.next<spawn_message>();
  const auto& m = out.message;
  if (in.bad() || m.groups > max_groups || m.strings_size == 0 || m.strings_size > max_strings
      || m.arguments == 0 || m.arguments > max_strings || m.variables > max_strings)
    return false;
  int next = 0;
  auto take = [&](uint32_t flag, int& to) {
    if ((m.flags & flag) != 0)
      to = next++;
  };
  take(spawn_has_stdin, out.fds.streams[0]);
  take(spawn_has_stdout, out.fds.streams[1]);
  take(spawn_has_stderr, out.fds.streams[2]);
  take(spawn_strings_in_file, out.fds.strings);
  take(spawn_keeps_stdout, out.fds.kept[0]);
  take(spawn_keeps_stderr, out.fds.kept[1]);
  if (next != descriptors)
    return false;
  out.groups = reinterpret_cast<uint32_t*>(in.bytes(m.groups * sizeof(uint32_t)));
  if (out.fds.strings < 0)
    out.strings = in.bytes(m.strings_size);
  return !in.bad() && in.left() == 0;
}

/// How many pointers `split_strings` needs.
inline size_t slots_of(const spawn_message& m) {
  return size_t{m.arguments} + m.variables + 2;
}

struct command_strings {
  char* cwd;
  char** argv;
  char** env;
};

/// Lists of what is in `strings`, `m.strings_size` bytes, in `slots`.
inline bool split_strings(const spawn_message& m, char* strings, char** slots,
                          command_strings& out) {
  reader in{strings, m.strings_size};
  out.cwd = in.word();
  out.argv = slots;
  for (uint32_t i = 0; i < m.arguments && !in.bad(); ++i)
    *slots++ = in.word();
  *slots++ = nullptr;
  out.env = slots;
  for (uint32_t i = 0; i < m.variables && !in.bad(); ++i)
    *slots++ = in.word();
  *slots++ = nullptr;
  return !in.bad() && in.left() == 0;
}

} // namespace troupe::backends::isolated
