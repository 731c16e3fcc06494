#include "snapshot/local_store.hpp"

#include "messages/ids.hpp"
#include "snapshot/leftover.hpp"
#include "snapshot/staging.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr std::string_view suffix = ".tar";
constexpr std::string_view temporary_suffix = ".tmp";

// The disk starts on what is there while the rest is still being compressed.
constexpr uint64_t flush_every = 4 * 1024 * 1024;

bool is_single_segment(std::string_view id) {
  auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return !id.empty() && id != "." && id != ".."
         && id.find_first_of(std::string_view{"/\\\0", 3}) == id.npos
         && !(id.size() > 1 && letter(id[0]) && id[1] == ':');
}

bool is_temporary(std::string_view name) {
  return name.starts_with('.') && name.ends_with(temporary_suffix)
         && name.find(".tar.") != name.npos;
}

} // namespace

result<std::string> local_path(const snapshot_ref& ref, op operation) {
  if (!is_single_segment(ref.id))
    return unexpected(make_error(errc::sandbox_config_invalid, operation,
                                 "LocalSnapshot id must be a single path segment")
                        .with("snapshot_id", ref.id));
  return ref.base_path + '/' + ref.id + std::string{suffix};
}

// -- writing --------------------------------------------------------------------------------------

result<local_file> local_file::create(const snapshot_ref& ref, const std::string& path) {
  local_file x{ref, path};
  auto folder = workspace::open_or_make_directory(ref.base_path, 0700);
  if (!folder)
    return unexpected(x.failure(folder.error().code, folder.error().message));
  x.folder_ = std::move(*folder);
  int fd = make_locked([&] {
    x.temporary_
      = '.' + x.id_ + std::string{suffix} + '.' + random_hex(16) + std::string{temporary_suffix};
    int made = ::openat(x.folder_.get(), x.temporary_.c_str(),
                        O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return made < 0 ? -errno : made;
  });
  if (fd < 0)
    return unexpected(x.failure(-fd));
  x.fd_.reset(fd);
  return x;
}

local_file::~local_file() {
  if (fd_)
    ::unlinkat(folder_.get(), temporary_.c_str(), 0);
}

result<void> local_file::write(const char* data, size_t size) {
  if (int err = workspace::write_all(fd_.get(), data, size); err < 0)
    return unexpected(failure(-err));
  size_ += size;
  if (size_ - flushed_ >= flush_every) {
    ::sync_file_range(fd_.get(), static_cast<off_t>(flushed_), static_cast<off_t>(size_ - flushed_),
                      SYNC_FILE_RANGE_WRITE);
    flushed_ = size_;
  }
  return {};
}

result<void> local_file::commit() {
  auto name = id_ + std::string{suffix};
  if (::fsync(fd_.get()) != 0
      || ::renameat(folder_.get(), temporary_.c_str(), folder_.get(), name.c_str()) != 0)
    return unexpected(failure(errno));
  fd_.reset();
  if (::fsync(folder_.get()) != 0)
    return unexpected(failure(errno));
  return {};
}

error local_file::failure(int err) const {
  bool full = err == ENOSPC || err == EDQUOT;
  return failure(full ? errc::no_space : errc::snapshot_persist_error, std::strerror(err));
}

error local_file::failure(errc code, std::string_view reason) const {
  return make_error(code == errc::no_space ? code : errc::snapshot_persist_error,
                    op::snapshot_persist, "failed to persist snapshot")
    .with("snapshot_id", id_)
    .with("path", path_)
    .with("reason", reason);
}

// -- reading --------------------------------------------------------------------------------------

result<unique_fd> open_local(const snapshot_ref& ref, const std::string& path) {
  unique_fd fd{::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  struct stat st;
  int err = !fd || ::fstat(fd.get(), &st) != 0 ? errno : S_ISREG(st.st_mode) ? 0 : EINVAL;
  if (err == 0)
    return fd;
  return unexpected(
    make_error(errc::snapshot_restore_error, op::snapshot_restore, "failed to restore snapshot")
      .with("snapshot_id", ref.id)
      .with("path", path)
      .with("reason", std::strerror(err)));
}

void sweep_local(const std::string& folder) {
  unique_fd fd{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (fd)
    remove_leftovers(
      fd.get(), [](std::string_view name) { return is_temporary(name) || staging::is_name(name); });
}

namespace {

std::vector<std::string> ids_in(const std::string& folder, bool held) {
  std::vector<std::string> ids;
  std::error_code failed;
  for (std::filesystem::directory_iterator i{folder, failed}, end; !failed && i != end;
       i.increment(failed)) {
    auto name = i->path().filename().string();
    std::error_code gone;
    if (name.ends_with(suffix) && name.starts_with(held_prefix) == held
        && i->symlink_status(gone).type() == std::filesystem::file_type::regular)
      ids.push_back(name.substr(0, name.size() - suffix.size()));
  }
  std::ranges::sort(ids);
  return ids;
}

} // namespace

std::vector<std::string> local_ids(const std::string& folder) {
  return ids_in(folder, false);
}

std::vector<std::string> held_ids(const std::string& folder) {
  return ids_in(folder, true);
}

} // namespace troupe::snapshot
