#pragma once

#include "messages/error.hpp"
#include "messages/snapshot.hpp"
#include "messages/unique_fd.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/digest.hpp"

#include <time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace troupe::snapshot {

/// Version of the layered format; 1 is the single tar with a trailer.
inline constexpr int layered_format = 2;

/// A blob by what it holds.
struct blob_id {
  std::string digest; ///< SHA-256, lower-case hexadecimal
  uint64_t size = 0;

  bool operator==(const blob_id&) const = default;
};

/// One layer of a snapshot.
struct layer_info {
  blob_id blob;
  std::string diff_id;      ///< SHA-256 of the tar inside, hexadecimal
  uint64_t entries = 0;     ///< of its index
  uint64_t file_bytes = 0;  ///< of the files in it
  uint64_t index_bytes = 0; ///< compressed, at its end

  bool operator==(const layer_info&) const = default;
};

/// All that is known of a layered snapshot: its manifest and its configuration.
struct layered_snapshot {
  snapshot_info info; ///< without `id` and `base_path`
  std::string tree;   ///< digest of the tree, hexadecimal
  std::vector<layer_info> layers;
  blob_id manifest;
  blob_id config;
};

/// What may be read or written below one `base_path`: an OCI image layout in `.layers`, and a
/// reference `{id}.tar` for each snapshot.
///
/// `shared` is for readers and writers, as many as like; `collecting` is for who removes blobs. The
/// lock is the kernel's, so that it ends with the process.
class blob_store {
public:
  enum class use : uint8_t { shared, collecting };

  /// Makes what is missing if `make`. Nullopt: there is no store, or (collecting) it is in use.
  static result<std::optional<blob_store>> open(const std::string& base_path, use how, bool make);

  blob_store(blob_store&&) = default;
  blob_store& operator=(blob_store&&) = default;

  const std::string& base_path() const {
    return base_path_;
  }
  int blobs_fd() const {
    return blobs_.get();
  }

  /// Opens a blob whose size is as expected. `snapshot_restore_error` that names it.
  result<unique_fd> open_blob(const blob_id& x) const;

  /// All of a small blob, verified.
  result<std::string> read_blob(const blob_id& x) const;

  /// Puts a small blob there; durable with `refer`.
  result<blob_id> write_blob(std::string_view bytes) const;

  /// Writes configuration and manifest for `x` and sets their ids.
  result<void> describe(layered_snapshot& x) const;

  /// The snapshot that a manifest describes.
  result<layered_snapshot> read(const blob_id& manifest) const;

  /// The configuration that a manifest names.
  result<blob_id> config_of(const blob_id& manifest) const;

  /// The configuration and the layers that a manifest names, ours or not.
  static std::optional<std::vector<blob_id>> named_in(std::string_view manifest);

  /// Bytes of all blobs, also of those that nothing refers to.
  uint64_t blob_bytes() const;

  // -- references

  /// What a reference says, byte for byte; as `index.json` an OCI layout of one image.
  static std::string reference_text(const blob_id& manifest);
  /// What stands in `oci-layout`.
  static std::string_view layout_text();
  /// The first manifest of any OCI image index.
  static result<blob_id> first_manifest(std::string_view index);

  /// What `{id}.tar` refers to; nullopt: it is an archive, not a reference.
  static result<std::optional<blob_id>> parse_reference(int fd);

  /// Makes durable what was written through this store, then makes `{id}.tar` refer to a manifest,
  /// durably, and a view of it for tools that read OCI layouts (`.layers/views/{id}`).
  result<void> refer(const std::string& id, const blob_id& manifest) const;

  /// Durably makes all of `{ids}.tar`, which are not there yet, refer to what `{id}.tar` does.
  result<void> refer_again(const std::string& id, const std::vector<std::string>& ids) const;

  /// Removes view and statistics; `{id}.tar` is the caller's.
  void forget(const std::string& id) const;

  /// Path of what is known of the files' state on this disk since `id` was written or restored.
  std::string stat_path(const std::string& id) const;

  // -- cleaning

  /// What `{id}.tar` refers to, held ones among them.
  struct named_snapshot {
    std::string id;
    timespec used{};            ///< when it was written, or touched since
    std::vector<blob_id> blobs; ///< none if it is damaged
  };
  std::vector<named_snapshot> references() const;

  /// Removes a reference, unless it was used since it was listed. Only `collecting`.
  bool drop(const named_snapshot& x) const;

  /// What `collect` did.
  struct collection {
    uint64_t freed = 0;         ///< bytes
    std::vector<error> damaged; ///< references that cannot be followed, with `snapshot_id`
  };

  /// Removes blobs that nothing refers to and files that dead processes left. Only `collecting`.
  /// A reference that cannot be followed stays, and keeps what it may name: every blob whose digest
  /// can still be read in it or in its manifest, and where that says nothing, all that any manifest
  /// names. Fails, and removes nothing, when the disk cannot be read.
  result<collection> collect() const;

private:
  blob_store() = default;
  bool has_blob(const std::string& digest) const;
  /// A new locked file in `fresh_`, which makes the folder first.
  result<unique_fd> make_file(std::string& name) const;
  result<std::string> blob_text(const std::string& digest) const;
  result<void> keep_what_may_be_named(std::string_view reference,
                                      std::unordered_set<std::string>& used) const;

  std::string base_path_;
  void make_view(const std::string& id) const;
  /// Everything unsynced and the file of a new reference; an errno value, or 0.
  int sync(int reference) const;

  unique_fd base_;
  unique_fd layers_;
  unique_fd blobs_;
  unique_fd lock_;
  mutable unique_fd fresh_; ///< one of the folders `.layers/new/*`, for what is being written
  mutable std::vector<unique_fd> unsynced_;
  friend class new_blob;
};

/// A file that becomes a blob; dropped without `commit` it leaves nothing.
class new_blob {
public:
  static result<new_blob> create(const blob_store& store);
  new_blob(new_blob&&) = default;
  new_blob& operator=(new_blob&&) = delete;
  ~new_blob();

  result<void> write(const char* data, size_t size);
  /// Gives the file its name. Durable with `blob_store::refer`.
  result<blob_id> commit();
  /// The same for one that came from elsewhere: `snapshot_restore_error` if it is not `expected`.
  result<void> commit_as(const blob_id& expected);
  uint64_t size() const {
    return size_;
  }

private:
  new_blob() = default;
  result<blob_id> put_in_place(blob_id id);

  const blob_store* store_ = nullptr;
  std::string name_;
  unique_fd fd_; ///< holds the lock
  sha256 hash_;
  uint64_t size_ = 0;
  uint64_t flushed_ = 0;
};

/// Reads a blob to its end and fails there if it is not what its name says.
class blob_source final : public byte_source {
public:
  blob_source(unique_fd fd, blob_id id)
    : fd_(std::move(fd)), file_(fd_.get(), id.size + 1), id_(std::move(id)) {}

  result<std::string_view> next() override;

private:
  unique_fd fd_;
  file_source file_;
  blob_id id_;
  sha256 hash_;
  uint64_t seen_ = 0;
  bool verified_ = false;
};

/// `snapshot_restore_error` that names the blob.
error blob_damaged(const blob_id& x, std::string_view reason);

/// `no_space` or `snapshot_persist_error`; who knows the snapshot adds its id.
error cannot_store(const std::string& path, int err);

} // namespace troupe::snapshot
