#include "snapshot/tar_writer.hpp"

#include "snapshot/c_locale.hpp"

#include <archive.h>
#include <archive_entry.h>

#include <optional>
#include <utility>

namespace troupe::snapshot {

struct tar_writer::impl {
  byte_sink sink;
  archive* writer = nullptr;
  archive_entry* entry = nullptr;
  std::optional<error> failure; ///< of the sink
  bool dropped = false;

  static la_ssize_t write(archive*, void* self, const void* data, size_t size) {
    auto& x = *static_cast<impl*>(self);
    if (x.dropped)
      return -1;
    if (auto ok = x.sink(static_cast<const char*>(data), size); !ok) {
      x.failure = std::move(ok.error());
      return -1;
    }
    return static_cast<la_ssize_t>(size);
  }

  result<void> check(la_ssize_t status) {
    // A warning says that a name is not ASCII and went in as bytes (hdrcharset=BINARY), as wanted.
    if (status >= ARCHIVE_WARN)
      return {};
    if (failure)
      return unexpected(std::move(*failure));
    const char* text = archive_error_string(writer);
    return unexpected(make_error(errc::internal, op::persist_workspace,
                                 std::string{"cannot write tar: "} + (text ? text : "unknown")));
  }
};

tar_writer::tar_writer(byte_sink sink) : impl_(std::make_unique<impl>()) {
  impl_->sink = std::move(sink);
  impl_->writer = archive_write_new();
  impl_->entry = archive_entry_new();
  archive_write_set_format_pax(impl_->writer);
  archive_write_set_bytes_per_block(impl_->writer, 0);
  archive_write_open(impl_->writer, impl_.get(), nullptr, impl::write, nullptr);
}

tar_writer::~tar_writer() {
  // Closing would finish the archive, freeing alone would leak what only closing frees.
  impl_->dropped = true;
  archive_write_close(impl_->writer);
  archive_write_free(impl_->writer);
  archive_entry_free(impl_->entry);
}

result<void> tar_writer::begin(const tar_entry& x) {
  c_locale bytes_as_they_are;
  auto* e = archive_entry_clear(impl_->entry);
  archive_entry_copy_pathname(e, x.path.c_str());
  archive_entry_set_mode(e, x.info.st_mode);
  archive_entry_set_uid(e, x.info.st_uid);
  archive_entry_set_gid(e, x.info.st_gid);
  archive_entry_set_mtime(e, x.info.st_mtim.tv_sec, x.info.st_mtim.tv_nsec);
  if (!x.hard_link_target.empty())
    archive_entry_copy_hardlink(e, x.hard_link_target.c_str());
  else if (S_ISLNK(x.info.st_mode))
    archive_entry_copy_symlink(e, x.symlink_target.c_str());
  bool has_data = S_ISREG(x.info.st_mode) && x.hard_link_target.empty();
  archive_entry_set_size(e, has_data ? x.info.st_size : 0);
  return impl_->check(archive_write_header(impl_->writer, e));
}

result<void> tar_writer::data(const char* data, size_t size) {
  return impl_->check(archive_write_data(impl_->writer, data, size));
}

result<void> tar_writer::finish() {
  return impl_->check(archive_write_close(impl_->writer));
}

} // namespace troupe::snapshot
