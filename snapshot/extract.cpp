#include "snapshot/extract.hpp"

#include "messages/unique_fd.hpp"
#include "snapshot/archive_budget.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/job.hpp"
#include "snapshot/member_index.hpp"
#include "snapshot/member_rules.hpp"
#include "snapshot/zip_directory.hpp"
#include "snapshot/zip_reader.hpp"
#include "workspace/file_errors.hpp"
#include "workspace/file_ops.hpp"
#include "workspace/path_policy.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <functional>
#include <memory>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr mode_t plain_directory_mode = 0755;
constexpr uint32_t permission_bits = 0777;
constexpr size_t max_index_memory = 128 * 1024 * 1024;
constexpr uint64_t max_extra_directories = 100'000; // that are no members

// -- judging --------------------------------------------------------------------------------------

/// The rules for one pass over an archive.
class judge {
public:
  explicit judge(const extract_request& request)
    : request_(request), budget_(request.limits, request.shown) {}

  /// Where the member goes; empty: it is the root.
  result<std::string> admit(const tar_member& member) {
    auto [path, violation] = check_member(member, name_policy::portable);
    if (violation.empty() && member.kind == member_kind::symlink)
      violation = request_.scheme == archive_scheme::zip ? "link member not allowed"
                                                         : "symlink member not allowed";
    else if (violation.empty() && member.kind == member_kind::hard_link)
      violation = "hardlink member not allowed";
    if (!violation.empty())
      return unexpected(refuse(member.name, violation));
    if (auto ok = budget_.add_member(member.name, path.empty()); !ok)
      return unexpected(std::move(ok.error()));
    if (path.empty())
      return path;
    bool is_directory = member.kind == member_kind::directory;
    if (!is_directory)
      if (auto ok = budget_.add_content(member.name, member.size); !ok)
        return unexpected(std::move(ok.error()));
    if (path.size() >= PATH_MAX)
      return unexpected(refuse(member.name, "path too long"));
    if (!index_.add(path, member.name, is_directory))
      return unexpected(refuse(member.name, "duplicate archive path: " + path));
    if (index_.memory() > max_index_memory || too_many_directories())
      return unexpected(refuse(member.name, "archive member names exceed limit"));
    return std::move(path);
  }

  /// What can be said only when all members are known.
  result<void> finish() const {
    const auto& found = index_.first_descent();
    if (!found)
      return {};
    return unexpected(
      refuse(found->member, "archive path descends through non-directory: " + found->parent));
  }

private:
  bool too_many_directories() const {
    const auto& limit = request_.limits.max_members;
    return limit && index_.paths() > static_cast<uint64_t>(*limit) + max_extra_directories;
  }

  error refuse(const std::string& member, std::string_view reason) const {
    return refused(request_.shown, reason).with("member", member);
  }

  const extract_request& request_;
  archive_budget budget_;
  member_index index_;
};

// -- writing --------------------------------------------------------------------------------------

/// Puts members below a directory, through no link.
class beneath_writer {
public:
  beneath_writer(const extract_request& request, unique_fd top)
    : request_(request), top_(std::move(top)) {}

  result<void> make_directory(const std::string& path, const tar_member& member) {
    auto mode = (member.mode & permission_bits) != 0 ? (member.mode & permission_bits) | S_IRWXU
                                                     : plain_directory_mode;
    return enter(path, member, mode);
  }

  result<workspace::staged_file> begin_file(const std::string& path, const tar_member& member) {
    auto [parent, name] = workspace::split_last(path);
    if (auto ok = enter(parent == "." ? "" : parent, member, plain_directory_mode); !ok)
      return unexpected(std::move(ok.error()));
    struct stat there;
    if (::fstatat(directory_.get(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0) {
      if (S_ISLNK(there.st_mode))
        return unexpected(through_link(path, member));
      if (!S_ISREG(there.st_mode))
        return unexpected(failure(S_ISDIR(there.st_mode) ? EISDIR : ENXIO, path, member));
    } else if (errno != ENOENT) {
      return unexpected(failure(errno, path, member));
    }
    return workspace::staged_file::create(directory_.get(), name, shown(path));
  }

  error failure(int err, const std::string& path, const tar_member& member) const {
    if (err == ENOSPC || err == EDQUOT)
      return workspace::write_failure(err, shown(path), path).with("member", member.name);
    return make_error(errc::workspace_archive_write_error, op::write,
                      "failed to write archive for path: " + shown(path))
      .with("path", shown(path))
      .with("member", member.name)
      .with("detail", workspace::errno_text(err));
  }

private:
  /// Makes `path` the current directory, with what is missing of it; `mode` is for the last one.
  result<void> enter(const std::string& path, const tar_member& member, mode_t mode) {
    if (directory_ && directory_path_ == path)
      return {};
    unique_fd at{open(top_.get(), path.empty() ? "." : path)};
    if (at) {
      directory_ = std::move(at);
      directory_path_ = path;
      return {};
    }
    int above = top_.get();
    for (size_t begin = 0; begin <= path.size();) {
      auto end = std::min(path.find('/', begin), path.size());
      auto name = path.substr(begin, end - begin);
      bool is_last = end == path.size();
      int fd = open(above, name);
      if (fd == -ENOENT)
        fd = ::mkdirat(above, name.c_str(), is_last ? mode : plain_directory_mode) == 0
                 || errno == EEXIST
               ? open(above, name)
               : -errno;
      if (fd == -ELOOP)
        return unexpected(through_link(path.substr(0, end), member));
      if (fd < 0)
        return unexpected(failure(-fd, path.substr(0, end), member));
      at.reset(fd);
      directory_ = std::move(at);
      above = directory_.get();
      directory_path_ = path.substr(0, end);
      begin = end + 1;
    }
    return {};
  }

  /// Without O_NOFOLLOW, so that RESOLVE_NO_SYMLINKS tells a link (ELOOP) from a file (ENOTDIR).
  static int open(int above, const std::string& path) {
    return workspace::open_beneath(above, path, O_PATH | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS);
  }

  error through_link(const std::string& path, const tar_member& member) const {
    return refused(request_.shown, "symlink in parent path: " + path).with("member", member.name);
  }

  std::string shown(const std::string& path) const {
    return request_.shown.substr(0, request_.shown.rfind('/') + 1) + path;
  }

  const extract_request& request_;
  unique_fd top_;
  unique_fd directory_;
  std::string directory_path_;
};

// -- passes ---------------------------------------------------------------------------------------

using piece_sink = std::function<result<void>(const file_piece&)>;

class extraction {
public:
  extraction(const extract_request& request, std::stop_token stop)
    : request_(request), work_(op::write, std::move(stop), silent_) {}

  result<void> run() {
    auto ok = store_archive().and_then([&] { return validate(); }).and_then([&] {
      return write_members();
    });
    if (ok || ok.error().code != errc::snapshot_restore_error)
      return ok;
    return unexpected(make_error(errc::workspace_archive_write_error, op::write,
                                 "failed to write archive for path: " + request_.shown)
                        .with("path", request_.shown)
                        .with_json("cause", ok.error().context));
  }

private:
  result<void> store_archive() {
    struct stat st;
    if (::fstat(request_.archive_fd, &st) != 0)
      return unexpected(workspace::write_failure(errno, request_.shown, request_.path));
    archive_size_ = static_cast<uint64_t>(st.st_size);
    if (auto ok = check_input_size(request_.limits, archive_size_, request_.shown); !ok)
      return ok;
    auto file = workspace::staged_file::create(request_.root_fd, request_.path, request_.shown);
    if (!file)
      return unexpected(std::move(file.error()));
    if (auto ok = rewind(); !ok)
      return ok;
    if (int err = workspace::copy_data(request_.archive_fd, file->fd()); err < 0)
      return unexpected(workspace::write_failure(-err, request_.shown, request_.path));
    return file->commit(std::nullopt, false);
  }

  /// Reads everything, writes nothing.
  result<void> validate() {
    judge rules{request_};
    if (request_.scheme == archive_scheme::zip) {
      // Before its contents, which come in an order and with a memory of their own.
      auto seen = read_zip_directory(request_.archive_fd, [&](zip_record x) -> result<void> {
        return work_.step().and_then([&] { return rules.admit(x.member); }).map([](auto&&) {});
      });
      auto ok = seen.map([](auto&&) {}).and_then([&] { return rules.finish(); });
      if (!ok)
        return ok;
      return each_member([this](member_source& archive, const tar_member& member) {
        return member.kind == member_kind::directory ? result<void>{} : read(archive, member, {});
      });
    }
    return each_member([&](member_source& archive, const tar_member& member) -> result<void> {
             if (auto path = rules.admit(member); !path)
               return unexpected(std::move(path.error()));
             return member.kind == member_kind::directory ? result<void>{}
                                                          : read(archive, member, {});
           })
      .and_then([&] { return rules.finish(); });
  }

  result<void> write_members() {
    auto folder = workspace::split_last(request_.path).parent;
    unique_fd top{workspace::open_beneath(request_.root_fd, folder, O_PATH | O_DIRECTORY)};
    if (!top)
      return unexpected(workspace::write_failure(-top.get(), request_.shown, request_.path));
    beneath_writer out{request_, std::move(top)};
    judge rules{request_}; // nothing rests on both passes having seen the same
    return each_member([&](member_source& archive, const tar_member& member) -> result<void> {
      auto path = rules.admit(member);
      if (!path)
        return unexpected(std::move(path.error()));
      if (path->empty())
        return {};
      return member.kind == member_kind::directory ? out.make_directory(*path, member)
                                                   : write_file(archive, member, *path, out);
    });
  }

  result<void> write_file(member_source& archive, const tar_member& member, const std::string& path,
                          beneath_writer& out) {
    auto file = out.begin_file(path, member);
    if (!file)
      return unexpected(std::move(file.error()));
    uint64_t end = 0;
    auto ok = read(archive, member, [&](const file_piece& piece) -> result<void> {
      if (piece.offset != end
          && ::lseek(file->fd(), static_cast<off_t>(piece.offset), SEEK_SET) < 0)
        return unexpected(out.failure(errno, path, member));
      end = piece.offset + piece.data.size();
      return file->append(piece.data.data(), piece.data.size());
    });
    if (!ok)
      return ok;
    if (end != member.size && ::ftruncate(file->fd(), static_cast<off_t>(member.size)) != 0)
      return unexpected(out.failure(errno, path, member));
    auto mode = member.mode & permission_bits;
    return file->commit(mode != 0 ? std::optional{mode} : std::nullopt, false);
  }

  /// Reads all data of a file, which cannot be more than its size.
  result<void> read(member_source& archive, const tar_member& member, const piece_sink& sink) {
    for (;;) {
      if (auto ok = work_.step(); !ok)
        return ok;
      auto piece = archive.data();
      if (!piece)
        return unexpected(std::move(piece.error()));
      if (piece->data.empty())
        return {};
      if (piece->offset + piece->data.size() > member.size)
        return unexpected(damaged("more data than the member's size"));
      if (!sink)
        continue;
      if (auto ok = sink(*piece); !ok)
        return ok;
    }
  }

  result<void>
  each_member(const std::function<result<void>(member_source&, const tar_member&)>& visit) {
    if (request_.scheme == archive_scheme::zip) {
      zip_reader zip{request_.archive_fd};
      return each_member_of(zip, visit);
    }
    if (auto ok = rewind(); !ok)
      return ok;
    file_source file{request_.archive_fd, archive_size_};
    auto bytes = decoded(file);
    if (!bytes)
      return unexpected(std::move(bytes.error()));
    tar_reader tar{**bytes};
    return each_member_of(tar, visit);
  }

  result<void>
  each_member_of(member_source& archive,
                 const std::function<result<void>(member_source&, const tar_member&)>& visit) {
    tar_member member;
    for (;;) {
      if (auto ok = work_.step(); !ok)
        return ok;
      auto more = archive.next(member);
      if (!more)
        return unexpected(std::move(more.error()));
      if (!*more)
        return {};
      if (auto ok = visit(archive, member); !ok)
        return ok;
    }
  }

  result<void> rewind() {
    if (::lseek(request_.archive_fd, 0, SEEK_SET) == 0)
      return {};
    return unexpected(workspace::write_failure(errno, request_.shown, request_.path));
  }

  const extract_request& request_;
  progress silent_;
  job work_;
  uint64_t archive_size_ = 0;
};

} // namespace

result<archive_scheme> archive_scheme_of(const std::string& path,
                                         const std::optional<std::string>& given) {
  auto scheme = given;
  if (!scheme) {
    auto name = workspace::split_last(workspace::clean_path(path)).name;
    auto dot = name.rfind('.');
    if (dot != name.npos && dot > 0 && dot + 1 < name.size())
      scheme = name.substr(dot + 1);
  }
  if (scheme == "tar")
    return archive_scheme::tar;
  if (scheme == "zip")
    return archive_scheme::zip;
  return unexpected(make_error(errc::invalid_compression_scheme, op::write,
                               scheme ? "compression scheme must be one of 'zip' 'tar'"
                                      : "could not determine compression scheme")
                      .with("path", path)
                      .with_json("scheme", scheme ? json_quote(*scheme) : "null"));
}

result<void> check_input_size(const archive_limits& limits, uint64_t size,
                              const std::string& shown) {
  return archive_budget{limits, shown}.add_input(size);
}

result<void> extract(const extract_request& request, std::stop_token stop) {
  return extraction{request, std::move(stop)}.run();
}

} // namespace troupe::snapshot
