#include "workspace/placed_file.hpp"

#include "workspace/file_errors.hpp"
#include "workspace/tree.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace troupe::workspace {

result<placed_file> placed_file::create(int root_fd, const std::string& path, uint32_t mode) {
  placed_file x{root_fd, path, mode};
  auto open = [&] {
    x.fd_.reset(open_beneath(root_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode & 0777));
    return x.fd_.get();
  };
  int fd = open();
  if (fd == -ENOENT) {
    unique_fd parent{open_or_make_beneath(root_fd, split_last(path).parent)};
    fd = parent ? open() : parent.get();
  }
  if (fd == -EEXIST) {
    auto staged = staged_file::create(root_fd, path, path);
    if (!staged)
      return unexpected(std::move(staged.error()));
    x.staged_ = std::move(*staged);
  } else if (fd < 0) {
    return unexpected(write_failure(-fd, path, path));
  }
  return x;
}

placed_file::~placed_file() {
  if (!fd_)
    return;
  auto [parent, name] = split_last(path_);
  unique_fd dir{open_beneath(root_fd_, parent, O_PATH | O_DIRECTORY)};
  if (dir)
    ::unlinkat(dir.get(), name.c_str(), 0);
}

int placed_file::fd() const {
  return staged_ ? staged_->fd() : fd_.get();
}

result<void> placed_file::append(const char* data, size_t size) {
  if (int err = write_all(fd(), data, size); err < 0)
    return unexpected(write_failure(-err, path_, path_));
  return {};
}

result<void> placed_file::finish() {
  if (staged_)
    return staged_->commit(mode_, false);
  if (::fchmod(fd_.get(), mode_) != 0) // the umask may have taken bits
    return unexpected(write_failure(errno, path_, path_));
  fd_.reset();
  return {};
}

} // namespace troupe::workspace
