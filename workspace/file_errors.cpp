#include "workspace/file_errors.hpp"

#include <cerrno>
#include <system_error>

namespace troupe::workspace {

namespace {

error with_errno(error x, int err, const std::string& path) {
  x.with("path", path);
  x.with("reason", errno_reason(err));
  x.with("errno", err);
  x.with("detail", errno_text(err));
  if (err == EMFILE || err == ENFILE || err == EAGAIN)
    x.retryable = true;
  return x;
}

} // namespace

std::string_view errno_reason(int err) {
  switch (err) {
    case ENOENT: return "not_found";
    case EISDIR: return "is_directory";
    case ENOTDIR: return "not_a_directory";
    case ENXIO: // opening a socket, or a fifo for writing
    case ENODEV: return "not_a_regular_file";
    case ELOOP: return "symlink_loop";
    case EXDEV: return "escape_root";
    case EACCES:
    case EPERM: return "permission_denied";
    case ENAMETOOLONG: return "name_too_long";
    case EINVAL: return "invalid_name";
    case EEXIST: return "exists";
    case ENOTEMPTY: return "not_empty";
    case ENOSPC:
    case EDQUOT: return "no_space";
    case EFBIG: return "too_large";
    case EROFS: return "read_only";
    case EBUSY:
    case EAGAIN: return "busy";
    case EMFILE:
    case ENFILE: return "too_many_open_files";
    case EIO: return "io_error";
    default: return "os_error";
  }
}

std::string errno_text(int err) {
  return std::generic_category().message(err);
}

error escape_failure(const std::string& asked) {
  bool absolute = asked.starts_with('/');
  return make_error(
           errc::invalid_manifest_path, op::materialize,
           (absolute ? "manifest path must be relative: " : "manifest path must not escape root: ")
             + asked)
    .with("rel", asked)
    .with("reason", absolute ? "absolute" : "escape_root");
}

error read_failure(int err, const std::string& path, const std::string& relative) {
  if (err == EXDEV)
    return escape_failure(relative);
  if (err == ENOENT)
    return make_error(errc::workspace_read_not_found, op::read, "file not found: " + path)
      .with("path", path);
  return with_errno(make_error(errc::workspace_archive_read_error, op::read,
                               "failed to read archive for path: " + path),
                    err, path);
}

error write_failure(int err, const std::string& path, const std::string& relative) {
  if (err == EXDEV)
    return escape_failure(relative);
  if (err == ENOSPC || err == EDQUOT)
    return with_errno(make_error(errc::no_space, op::write, "no space left to write: " + path), err,
                      path);
  return with_errno(make_error(errc::workspace_archive_write_error, op::write,
                               "failed to write archive for path: " + path),
                    err, path);
}

error command_failure(const std::vector<std::string>& command, const std::string& text) {
  std::string joined;
  for (const auto& word : command) {
    if (!joined.empty())
      joined += ' ';
    joined += word;
  }
  return make_error(errc::exec_nonzero, op::exec, text)
    .with("command", command)
    .with("command_str", joined)
    .with("exit_code", 1)
    .with("stdout", "")
    .with("stderr", text);
}

} // namespace troupe::workspace
