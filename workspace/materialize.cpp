#include "workspace/materialize.hpp"

#include "workspace/file_errors.hpp"
#include "workspace/placed_file.hpp"
#include "workspace/tree.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

namespace troupe::workspace {

namespace {

/// As chgrp reads its operand: a name, else a number.
std::optional<gid_t> find_group(const std::string& name) {
  std::vector<char> buffer(4096);
  struct ::group entry;
  struct ::group* found = nullptr;
  while (::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) == ERANGE)
    buffer.resize(buffer.size() * 2);
  if (found != nullptr)
    return found->gr_gid;
  bool number = !name.empty() && name.size() < 10
                && std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; });
  if (number)
    return static_cast<gid_t>(std::stoul(name));
  return std::nullopt;
}

result<void> set_metadata(int fd, const std::string& destination, const entry& x) {
  if (x.group) {
    const auto& name = x.group->name;
    auto failure = [&](const std::string& text) {
      return unexpected(command_failure({"chgrp", name, destination}, text));
    };
    auto gid = find_group(name);
    if (!gid)
      return failure("chgrp: invalid group: '" + name + "'");
    if (::fchownat(fd, "", static_cast<uid_t>(-1), *gid, AT_EMPTY_PATH) != 0)
      return failure(errno_text(errno) + ": " + destination);
  }
  if (int err = change_mode(fd, x.permissions.mode()); err < 0) {
    char mode[16];
    std::snprintf(mode, sizeof mode, "%04o", x.permissions.mode());
    return unexpected(
      command_failure({"chmod", mode, destination}, errno_text(-err) + ": " + destination));
  }
  return {};
}

result<void> write_inline_file(int root_fd, const inline_file& x) {
  auto file = placed_file::create(root_fd, x.destination, x.entry->permissions.mode());
  if (!file)
    return unexpected(std::move(file.error()));
  if (auto done = file->append(x.entry->content.data(), x.entry->content.size()); !done)
    return done;
  if (auto done = file->finish(); !done || !x.entry->group)
    return done;
  return apply_metadata(root_fd, x.destination, *x.entry);
}

} // namespace

result<void> write_inline_files(int root_fd, const std::vector<inline_file>& files,
                                std::stop_token stop) {
  for (const auto& x : files) {
    if (stop.stop_requested())
      return unexpected(make_error(errc::cancelled, op::materialize, "cancelled"));
    if (auto done = write_inline_file(root_fd, x); !done)
      return done;
  }
  return {};
}

result<void> make_entry_directory(int root_fd, const std::string& destination, const entry& x) {
  if (x.is_mount()) // an empty directory in its place would pass for the storage
    return unexpected(make_error(errc::mount_config_invalid, op::materialize,
                                 "mounts are not supported by this sandbox backend")
                        .with("path", destination));
  unique_fd fd{open_or_make_beneath(root_fd, destination)};
  if (!fd)
    return unexpected(write_failure(-fd.get(), destination, destination));
  return set_metadata(fd.get(), destination, x);
}

result<void> apply_metadata(int root_fd, const std::string& destination, const entry& x) {
  unique_fd fd{open_beneath(root_fd, destination, O_PATH)};
  if (!fd)
    return unexpected(write_failure(-fd.get(), destination, destination));
  return set_metadata(fd.get(), destination, x);
}

} // namespace troupe::workspace
