#include "backends/isolated/init/parse.hpp"
#include "tests/fuzz/support.hpp"

#include <cstring>
#include <memory>
#include <vector>

using namespace troupe;
using namespace troupe::backends::isolated;

namespace {

/// Everything that was given lies inside the datagram, and every text ends there.
struct bounds {
  const char* begin;
  const char* end;

  void text(const char* at, size_t size) const {
    fuzz::require(at >= begin && size > 0 && at + size <= end && at[size - 1] == '\0',
                  "a text ends inside its datagram");
  }
  void word(const char* at) const {
    fuzz::require(at >= begin && at < end
                    && std::memchr(at, 0, static_cast<size_t>(end - at)) != nullptr,
                  "a word ends inside its strings");
  }
};

void set_up(char* data, size_t size) {
  constexpr size_t room = 256;
  setup_view x;
  if (!parse_setup(data, size, room, x))
    return;
  bounds in{data, data + size};
  in.text(x.host_name, x.message.host_name_size);
  in.text(x.workspace, x.message.workspace_size);
  fuzz::require(x.message.workspace_size <= room, "there is room for the workspace's path");
  for (uint32_t i = 0; i < x.message.mounts; ++i)
    in.text(x.mounts[i].target, x.mounts[i].entry.target_size);
  if (x.filter != nullptr)
    fuzz::require(x.filter + x.message.filter_size == in.end, "the filter is the last of it");
}

void spawn(char* data, size_t size, int descriptors) {
  spawn_view x;
  if (!parse_spawn(data, size, descriptors, x))
    return;
  const auto& m = x.message;
  int named = 0;
  auto count = [&](int fd) {
    fuzz::require(fd >= -1 && fd < descriptors, "a descriptor is one that came");
    named += fd >= 0;
  };
  for (auto fd : x.fds.streams)
    count(fd);
  for (auto fd : x.fds.kept)
    count(fd);
  count(x.fds.strings);
  fuzz::require(named == descriptors, "each descriptor is for one thing");
  // As if from a file, when they are in one.
  std::vector<char> file(x.strings == nullptr ? m.strings_size : 0, 'x');
  auto strings = x.strings == nullptr ? file.data() : x.strings;
  if (slots_of(m) > 1'000'000)
    return; // init would ask for memory; here the machine's is shared
  auto slots = std::make_unique<char*[]>(slots_of(m));
  command_strings y;
  if (!split_strings(m, strings, slots.get(), y))
    return;
  bounds in{strings, strings + m.strings_size};
  in.word(y.cwd);
  for (uint32_t i = 0; i < m.arguments; ++i)
    in.word(y.argv[i]);
  for (uint32_t i = 0; i < m.variables; ++i)
    in.word(y.env[i]);
  fuzz::require(y.argv[m.arguments] == nullptr && y.env[m.variables] == nullptr,
                "the lists have their ends");
}

} // namespace

// The input is how many descriptors come along, then a datagram.
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0)
    return 0;
  // As in init: aligned, and nothing behind it.
  auto length = size - 1;
  std::unique_ptr<char[]> copy{new char[length]};
  std::memcpy(copy.get(), data + 1, length);
  // What no fuzzer finds by chance.
  if (length >= sizeof(header)) {
    auto whole = static_cast<uint32_t>(length);
    std::memcpy(copy.get() + offsetof(header, size), &whole, sizeof whole);
  }
  if (!is_datagram(copy.get(), length))
    return 0;
  set_up(copy.get(), length);
  spawn(copy.get(), length, data[0] % (max_descriptors + 1));
  return 0;
}
