#include "actors/session.hpp"

#include "backends/ownership.hpp"
#include "workspace/file_errors.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

// The files of a session. A path is checked by the policy, then everything happens on the I/O pool
// beneath a descriptor: the kernel decides what the names mean, at the moment of use.

namespace troupe::actors {

namespace {

constexpr int32_t chunk_limit = 1024 * 1024;

/// A handle that nobody touched for this long may be taken away when others need its place.
constexpr int64_t handle_idle_ms = 600'000;

error system_error(errc code, op operation, const std::string& what) {
  auto text = std::strerror(errno); // NOLINT(concurrency-mt-unsafe): glibc's is thread-local
  auto kind = errno == ENOSPC || errno == EDQUOT ? errc::no_space : code;
  return make_error(kind, operation, what).with("detail", text);
}

result<std::vector<char>> read_at(int fd, uint64_t offset, size_t size, const std::string& shown) {
  std::vector<char> data(size);
  size_t have = 0;
  while (have < size) {
    auto n = ::pread(fd, data.data() + have, size - have, static_cast<off_t>(offset + have));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return unexpected(system_error(errc::workspace_archive_read_error, op::read,
                                     "failed to read archive for path: " + shown)
                          .with("path", shown));
    if (n == 0)
      break;
    have += static_cast<size_t>(n);
  }
  data.resize(have);
  return data;
}

/// An unnamed file in the session's own folder, for archives on their way in or out.
result<unique_fd> scratch_file(const std::string& folder) {
  auto made = workspace::open_or_make_directory(folder, 0700);
  if (!made)
    return unexpected(std::move(made.error()));
  unique_fd fd{::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
  if (!fd)
    return unexpected(
      system_error(errc::internal, op::persist_workspace, "cannot make a scratch file"));
  return fd;
}

error unknown_handle(uint64_t handle) {
  return make_error(errc::not_found, op::read, "no such open file")
    .with("handle", static_cast<int64_t>(handle));
}

} // namespace

// -- plumbing
// -------------------------------------------------------------------------------------------

std::string session_impl::file_data(const std::string& path, const std::optional<std::string>& user,
                                    std::optional<uint64_t> size) {
  auto data = "{\"path\":" + json_quote(path) + ",\"user\":" + (user ? json_quote(*user) : "null");
  if (size)
    data += ",\"bytes\":" + std::to_string(*size);
  return data += '}';
}

result<unique_fd> session_impl::open_grant(const workspace::resolved_path& path,
                                           const std::function<result<unique_fd>()>& file_system,
                                           const std::optional<backends::user_ids>& who) {
  if (path.grant < 0)
    return unique_fd{};
  auto top = file_system();
  if (!top)
    return unexpected(std::move(top.error()));
  backends::acting_as_if identity{who};
  unique_fd fd{workspace::open_in_root(top->get(), path.base, O_RDONLY | O_DIRECTORY)};
  if (!fd)
    return unexpected(
      system_error(errc::workspace_read_not_found, op::read, "file not found: " + path.absolute)
        .with("path", path.absolute));
  auto refused = [&](const char* why) {
    return unexpected(
      make_error(errc::sandbox_config_invalid, op::read, why).with("path", path.base));
  };
  struct stat here {};
  struct stat whole {};
  struct statfs kind {};
  if (::fstat(fd.get(), &here) != 0 || ::fstat(top->get(), &whole) != 0
      || ::fstatfs(fd.get(), &kind) != 0)
    return unexpected(system_error(errc::internal, op::read, "cannot look at a path grant"));
  // One that is "/" in disguise: a link, or a mount.
  if (here.st_dev == whole.st_dev && here.st_ino == whole.st_ino)
    return refused("sandbox path grant path must not resolve to filesystem root");
  // What is there is about this process, and done with its rights.
  if (kind.f_type == PROC_SUPER_MAGIC)
    return refused("sandbox path grant path must not resolve to processes");
  return fd;
}

template <class T>
co<result<T>> session_impl::with_path(op operation, std::string path,
                                      std::optional<std::string> user, bool for_write,
                                      file_work<T> work) {
  if (auto refused = admit())
    co_return unexpected(std::move(*refused));
  if (path.find('\0') != std::string::npos)
    co_return unexpected(
      make_error(errc::invalid_request, operation, "a path must not contain NUL"));
  auto resolved = policy_.resolve_local(path, for_write);
  if (!resolved)
    co_return unexpected(std::move(resolved.error()));
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto who = identity_(user);
  if (!who) {
    who.error().operation = operation;
    co_return unexpected(std::move(who.error()));
  }
  ++in_flight_;
  record_.live.last_used_at_ms = now_ms();
  std::optional<server_write> change;
  if (for_write)
    change.emplace(*this);
  auto target = *resolved;
  auto attempt = [target, work, who = *who, top = file_system_](int root_fd) -> result<T> {
    auto grant = open_grant(target, top, who);
    if (!grant)
      return unexpected(std::move(grant.error()));
    backends::acting_as_if identity{who};
    return work(*grant ? grant->get() : root_fd, target);
  };
  auto job = [attempt, root = root_] { return attempt(root->get()); };
  auto done = co_await offload<T>(self_, shared_.io, record_.spec.tenant, std::move(job));
  if (!done && operation == op::write && target.grant < 0) {
    auto made = co_await remake_root();
    auto again = [attempt, root = root_] { return attempt(root->get()); };
    if (made && *made)
      done = co_await offload<T>(self_, shared_.io, record_.spec.tenant, std::move(again));
  }
  --in_flight_;
  // The work knows the path beneath the root only.
  if (!done && done.error().code == errc::invalid_manifest_path && path.starts_with('/'))
    done = unexpected(workspace::escape_failure(path));
  co_return done;
}

co<result<bool>> session_impl::remake_root() {
  if (is_isolated() || !root_)
    co_return false;
  auto look = [root = root_]() -> result<bool> {
    struct stat info {};
    return ::fstat(root->get(), &info) == 0 && info.st_nlink == 0;
  };
  auto gone = co_await offload<bool>(self_, shared_.io, record_.spec.tenant, look);
  if (!gone || !*gone)
    co_return gone;
  auto ready = co_await ask<sandbox_ready>(self_, backend_, reopen_root{});
  if (!ready)
    co_return unexpected(std::move(ready.error()));
  take(std::move(*ready));
  co_return true;
}

result<uint64_t> session_impl::keep(std::variant<reading, writing, importing> what) {
  auto now = now_ms();
  if (handles_.size() >= shared_.config.open_files_per_session)
    abandon([now](const auto& x) {
      return !x.second.busy && now - x.second.last_used_ms > handle_idle_ms;
    });
  if (handles_.size() >= shared_.config.open_files_per_session)
    return unexpected(
      make_error(errc::overloaded, op::read, "the session has too many files open")
        .with("limit", static_cast<int64_t>(shared_.config.open_files_per_session)));
  auto id = next_handle_++;
  handles_.emplace(id, open_handle{std::move(what), now, false, std::nullopt});
  return id;
}

void session_impl::abandon(
  const std::function<bool(const std::pair<const uint64_t, open_handle>&)>& which) {
  std::erase_if(handles_, [&](auto& x) {
    if (!which(x))
      return false;
    if (auto& event = x.second.event) {
      result<void> given_up
        = unexpected(make_error(errc::cancelled, op::write, "the file was not committed"));
      launch<void>(scope_, end(std::move(*event), std::move(given_up)), [](const result<void>&) {});
    }
    return true;
  });
}

template <class Kind>
result<Kind> session_impl::use(uint64_t handle) {
  auto i = handles_.find(handle);
  if (i == handles_.end() || !std::holds_alternative<Kind>(i->second.what))
    return unexpected(unknown_handle(handle));
  i->second.last_used_ms = now_ms();
  return std::get<Kind>(i->second.what);
}

// -- reading
// --------------------------------------------------------------------------------------------

co<result<file_opened>> session_impl::open_read(file_open_read x) {
  struct opened_file {
    std::shared_ptr<workspace::open_file> file;
    std::vector<char> first;
  };
  auto event = co_await begin(op::read, file_data(x.path, x.user, std::nullopt));
  if (!event)
    co_return unexpected(std::move(event.error()));
  auto first = static_cast<size_t>(std::clamp(x.first_chunk, 0, chunk_limit));
  file_work<opened_file> work
    = [first](int root_fd, const workspace::resolved_path& path) -> result<opened_file> {
    auto file = workspace::open_for_read(root_fd, path.relative, path.absolute);
    if (!file)
      return unexpected(std::move(file.error()));
    auto size = std::min<uint64_t>(first, file->size);
    auto data = read_at(file->fd.get(), 0, size, path.absolute);
    if (!data)
      return unexpected(std::move(data.error()));
    return opened_file{std::make_shared<workspace::open_file>(std::move(*file)), std::move(*data)};
  };
  auto opened = co_await with_path<opened_file>(op::read, x.path, x.user, false, work);
  opened = co_await end(std::move(*event), std::move(opened));
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  const auto& file = *opened->file;
  file_opened answer{0, file.size, file.mode, file.mtime_ns, file.inode, std::move(opened->first)};
  if (answer.data.size() < file.size) {
    auto handle = keep(reading{opened->file});
    if (!handle)
      co_return unexpected(std::move(handle.error()));
    answer.handle = *handle;
  }
  co_return answer;
}

co<result<file_chunk>> session_impl::read_chunk(file_read_chunk x) {
  auto file = use<reading>(x.handle);
  if (!file)
    co_return unexpected(std::move(file.error()));
  auto size = static_cast<size_t>(std::clamp(x.size, 0, chunk_limit));
  auto work = [file = file->file, offset = x.offset, size] {
    return read_at(file->fd.get(), offset, size, "");
  };
  auto data = co_await offload<std::vector<char>>(self_, shared_.io, record_.spec.tenant, work);
  if (!data)
    co_return unexpected(std::move(data.error()));
  co_return file_chunk{std::move(*data)};
}

// -- writing
// --------------------------------------------------------------------------------------------

co<result<file_handle>> session_impl::open_write(file_open_write x) {
  auto event = co_await begin(op::write, file_data(x.path, x.user, x.size));
  if (!event)
    co_return unexpected(std::move(event.error()));
  using staged = std::shared_ptr<workspace::staged_file>;
  file_work<staged> work = [](int root_fd, const workspace::resolved_path& path) -> result<staged> {
    auto file = workspace::staged_file::create(root_fd, path.relative, path.absolute);
    if (!file)
      return unexpected(std::move(file.error()));
    return std::make_shared<workspace::staged_file>(std::move(*file));
  };
  auto file = co_await with_path<staged>(op::write, x.path, x.user, true, work);
  auto who = file ? identity_(x.user) : unexpected(file.error());
  auto handle
    = who ? keep(writing{*file, *who}) : result<uint64_t>{unexpected(std::move(who.error()))};
  if (!handle) {
    auto refused = co_await end(std::move(*event), std::move(handle));
    co_return unexpected(std::move(refused.error()));
  }
  handles_.at(*handle).event = std::move(*event);
  co_return file_handle{*handle};
}

co<result<void>> session_impl::write_chunk(file_write_chunk x) {
  auto i = handles_.find(x.handle);
  if (i == handles_.end() || std::holds_alternative<reading>(i->second.what))
    co_return unexpected(unknown_handle(x.handle));
  if (i->second.busy)
    co_return unexpected(
      make_error(errc::conflict, op::write, "the piece before this one is still being written"));
  i->second.busy = true;
  i->second.last_used_ms = now_ms();
  auto what = i->second.what;
  auto data = std::make_shared<std::vector<char>>(std::move(x.data));
  auto work = [what, data, limits = record_.spec.archives,
               root = record_.spec.state.manifest.root]() -> result<void> {
    if (auto* file = std::get_if<writing>(&what))
      return file->file->append(data->data(), data->size());
    auto& archive = *std::get<importing>(what).file;
    archive.size += data->size();
    auto shown = archive.target ? archive.target->path.absolute : root;
    if (auto ok = snapshot::check_input_size(limits, archive.size, shown); !ok)
      return ok;
    if (workspace::write_all(archive.fd.get(), data->data(), data->size()) < 0)
      return unexpected(
        system_error(errc::workspace_archive_write_error, op::write, "cannot store the archive"));
    return {};
  };
  auto done = co_await offload<void>(self_, shared_.io, record_.spec.tenant, work);
  if (auto again = handles_.find(x.handle); again != handles_.end())
    again->second.busy = false;
  co_return done;
}

co<result<void>> session_impl::commit(file_commit x) {
  auto file = use<writing>(x.handle);
  if (!file)
    co_return unexpected(std::move(file.error()));
  auto event = handles_.at(x.handle).event;
  handles_.erase(x.handle);
  server_write change{*this};
  auto work = [file = file->file, who = file->who, mode = x.mode] {
    backends::acting_as_if identity{who};
    return file->commit(mode, false);
  };
  auto done = co_await offload<void>(self_, shared_.io, record_.spec.tenant, work);
  if (event)
    done = co_await end(std::move(*event), std::move(done));
  co_return done;
}

// -- directories
// ----------------------------------------------------------------------------------------

co<result<file_list>> session_impl::list(list_files x) {
  using entries = std::vector<file_entry>;
  file_work<entries> work = [](int root_fd, const workspace::resolved_path& path) {
    return workspace::list_directory(root_fd, path.relative, path.absolute);
  };
  auto found = co_await with_path<entries>(op::exec, x.path, x.user, false, work);
  if (!found)
    co_return unexpected(std::move(found.error()));
  co_return file_list{std::move(*found)};
}

co<result<void>> session_impl::mkdir(make_directory x) {
  file_work<void> work = [parents = x.parents](int root_fd, const workspace::resolved_path& path) {
    return workspace::make_directory(root_fd, path.relative, parents, path.absolute);
  };
  co_return co_await with_path<void>(op::write, x.path, x.user, true, work);
}

co<result<void>> session_impl::rm(remove_file x) {
  file_work<void> work
    = [recursive = x.recursive](int root_fd, const workspace::resolved_path& path) {
        return workspace::remove_path(root_fd, path.relative, recursive, path.absolute);
      };
  co_return co_await with_path<void>(op::write, x.path, x.user, true, work);
}

// -- whole workspaces
// -----------------------------------------------------------------------------------

co<result<file_opened>> session_impl::export_tree() {
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto event
    = co_await begin(op::persist_workspace,
                     "{\"workspace_root\":" + json_quote(record_.spec.state.manifest.root) + "}");
  if (!event)
    co_return unexpected(std::move(event.error()));
  auto folder = session_dir(shared_.config, record_.spec.id);
  auto work = [root = root_, skip = persist_skip(), folder,
               stop = stop_.get_token()]() -> result<std::shared_ptr<workspace::open_file>> {
    auto fd = scratch_file(folder);
    if (!fd)
      return unexpected(std::move(fd.error()));
    auto warnings = snapshot::write_tar(root->get(), skip, fd->get(), stop);
    if (!warnings)
      return unexpected(std::move(warnings.error()));
    struct stat info {};
    if (::fstat(fd->get(), &info) != 0)
      return unexpected(
        system_error(errc::workspace_archive_read_error, op::persist_workspace, "cannot stat"));
    auto file = std::make_shared<workspace::open_file>();
    file->fd = std::move(*fd);
    file->size = static_cast<uint64_t>(info.st_size);
    return file;
  };
  auto packed = co_await offload<std::shared_ptr<workspace::open_file>>(self_, shared_.cpu,
                                                                        record_.spec.tenant, work);
  packed = co_await end(std::move(*event), std::move(packed));
  if (!packed)
    co_return unexpected(std::move(packed.error()));
  auto handle = keep(reading{*packed});
  if (!handle)
    co_return unexpected(std::move(handle.error()));
  file_opened answer;
  answer.handle = *handle;
  answer.size = (*packed)->size;
  co_return answer;
}

co<result<file_handle>> session_impl::import_open(std::optional<extract_target> target) {
  auto folder = session_dir(shared_.config, record_.spec.id);
  auto work = [folder] { return scratch_file(folder); };
  auto fd = co_await offload<unique_fd>(self_, shared_.io, record_.spec.tenant, work);
  if (!fd)
    co_return unexpected(std::move(fd.error()));
  import_file file{std::move(*fd), 0, std::move(target)};
  auto handle = keep(importing{std::make_shared<import_file>(std::move(file))});
  if (!handle)
    co_return unexpected(std::move(handle.error()));
  co_return file_handle{*handle};
}

co<result<void>> session_impl::import_commit(commit_import x) {
  auto turn = co_await lifecycle_.acquire();
  auto archive = use<importing>(x.handle);
  if (!archive)
    co_return unexpected(std::move(archive.error()));
  if (archive->file->target)
    co_return unexpected(
      make_error(errc::conflict, op::hydrate_workspace, "this upload is not a workspace"));
  handles_.erase(x.handle);
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  const auto root = record_.spec.state.manifest.root;
  auto event = co_await begin(op::hydrate_workspace, "{\"untar_dir\":" + json_quote(root) + "}");
  if (!event)
    co_return unexpected(std::move(event.error()));
  // An overlay has no place of its own on this machine.
  auto place = layers_ ? "/proc/self/fd/" + std::to_string(root_->get())
                       : workspace_dir(shared_.config, record_.spec);
  auto work = [file = archive->file, root = std::move(place), opened_root = root_,
               limits = record_.spec.archives, stop = stop_.get_token()]() -> result<void> {
    if (::lseek(file->fd.get(), 0, SEEK_SET) != 0)
      return unexpected(system_error(errc::internal, op::hydrate_workspace, "cannot rewind"));
    return snapshot::hydrate(file->fd.get(), root, true, limits, stop);
  };
  auto done = co_await offload<void>(self_, shared_.cpu, record_.spec.tenant, work);
  if (done)
    done = co_await give_workspace();
  co_return co_await end(std::move(*event), std::move(done));
}

} // namespace troupe::actors
