#include "backends/isolated/uid_range.hpp"

#include "messages/unique_fd.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>

namespace troupe::backends::isolated {

namespace {

constexpr uint32_t max_ranges = 16'384;

/// Beside the owner's directory, so that it finds its range again.
std::string note_of(const std::string& owner) {
  return owner + "/uid-range";
}

std::string link_target(int dir, const std::string& name) {
  std::array<char, PATH_MAX> buffer;
  auto n = ::readlinkat(dir, name.c_str(), buffer.data(), buffer.size());
  return n > 0 ? std::string{buffer.data(), static_cast<size_t>(n)} : std::string{};
}

error failed(const std::string& what, int code) {
  return make_error(errc::sandbox_config_invalid, op::start,
                    "the wall `user_range` cannot be had: " + what + ": " + std::strerror(code))
    .with("wall", "user_range")
    .with("cause", what);
}

/// Takes the range if it is free or ours.
bool take(int dir, const std::string& name, const std::string& owner) {
  if (::symlinkat(owner.c_str(), dir, name.c_str()) == 0)
    return true;
  auto target = link_target(dir, name);
  if (target == owner)
    return true;
  struct stat info {};
  if (target.empty() || ::lstat(target.c_str(), &info) == 0 || errno != ENOENT)
    return false;
  // Its owner is gone. Two who find that out at once both unlink, and one of them links.
  ::unlinkat(dir, name.c_str(), 0);
  return ::symlinkat(owner.c_str(), dir, name.c_str()) == 0;
}

} // namespace

namespace {

/// Of the ranges `first_index` to `end_index`.
result<uint32_t> take_one(const std::string& taken, uint32_t base, uint32_t first_index,
                          uint32_t end_index, const std::string& owner) {
  static std::atomic<uint32_t> next{0};
  auto dir = workspace::open_or_make_directory(taken, 0700);
  if (!dir)
    return unexpected{failed(dir.error().message, EACCES)};
  auto note = note_of(owner);
  std::array<char, 32> text{};
  if (auto n = ::readlink(note.c_str(), text.data(), text.size() - 1); n > 0) {
    auto index = static_cast<uint32_t>(std::strtoul(text.data(), nullptr, 10));
    if (index < first_index || index >= end_index
        || !take(dir->get(), std::to_string(index), owner))
      return unexpected{failed("the range of " + owner + " is another's", EEXIST)};
    return base + index * ids_per_range;
  }
  const auto count = end_index - first_index;
  for (uint32_t i = 0; i < count; ++i) {
    auto index = first_index + next++ % count;
    auto name = std::to_string(index);
    if (!take(dir->get(), name, owner)) {
      if (errno == EROFS || errno == EACCES)
        break;
      continue;
    }
    if (::symlink(name.c_str(), note.c_str()) != 0) {
      auto code = errno;
      ::unlinkat(dir->get(), name.c_str(), 0);
      return unexpected{failed(note, code)};
    }
    return base + index * ids_per_range;
  }
  return unexpected{failed("all ranges in " + taken + " are taken", errno)};
}

} // namespace

result<uint32_t> take_uid_range(const std::string& taken, uint32_t base, const std::string& owner) {
  return take_one(taken, base, 0, max_ranges, owner);
}

result<uint32_t> take_granted_range(const std::string& taken, uint32_t base, uint32_t count,
                                    const std::string& owner) {
  constexpr std::string_view shared = "shared";
  auto note = note_of(owner);
  auto noted = link_target(AT_FDCWD, note);
  auto can_be_own = [&] {
    return count > 1 && workspace::open_or_make_directory(taken, 0700)
           && ::access(taken.c_str(), W_OK) == 0;
  };
  if (noted == shared)
    return base;
  if (!noted.empty() || can_be_own())
    return take_one(taken, base, 1, std::min(count, max_ranges), owner);
  if (::symlink(shared.data(), note.c_str()) != 0)
    return unexpected{failed(note, errno)};
  return base;
}

bool move_uid_range(const std::string& taken, uint32_t base, uint32_t first,
                    const std::string& owner) {
  auto link = taken + "/" + std::to_string((first - base) / ids_per_range);
  auto beside = link + ".moving";
  ::unlink(beside.c_str());
  return ::symlink(owner.c_str(), beside.c_str()) == 0
         && ::rename(beside.c_str(), link.c_str()) == 0;
}

void release_uid_range(const std::string& taken, uint32_t base, uint32_t first) {
  ::unlink((taken + "/" + std::to_string((first - base) / ids_per_range)).c_str());
}

} // namespace troupe::backends::isolated
