#pragma once

#include "snapshot/blob_store.hpp"
#include "snapshot/index_entry.hpp"
#include "snapshot/write_behind.hpp"
#include "snapshot/zstd_stream.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe::snapshot {

/// A run of bytes of a sparse file: offset and size.
using extent = std::pair<uint64_t, uint64_t>;

/// Makes the bytes of a pax tar.
class tar_encoder {
public:
  /// In an OCI layer, `.wh.{name}` is a whiteout; a file that is called so stands there as
  /// `%2Ewh.{name}`. The index has the name that it has.
  enum class use : uint8_t { archive, layer };

  explicit tar_encoder(byte_sink sink, use what = use::archive);

  /// Starts a member. Of a file, `size` bytes must follow, or with `map` those of its extents.
  result<void> begin(const index_entry& x, const std::vector<extent>* map = nullptr);

  /// Where up to `size` bytes of the current file may be put, to be taken by `put`.
  char* space(size_t& size);
  /// `content`: a digest that takes the same bytes.
  result<void> put(size_t size, sha256* content = nullptr);
  result<void> data(const char* data, size_t size);
  result<void> end_file();

  result<void> finish();

  /// All bytes so far.
  uint64_t size() const {
    return total_ + fill_;
  }

  /// Of a layer: the digest of the whole, once it is finished.
  digest_bytes digest() {
    return digest_.finish();
  }

private:
  result<void> header(const index_entry& x, char type, const std::string& name,
                      const std::string& target, uint64_t size, const std::string& records);
  result<void> flush();
  /// Digests what has not been yet.
  void digest_rest();

  byte_sink sink_;
  use use_;
  std::unique_ptr<char[]> buffer_;
  size_t fill_ = 0;
  uint64_t total_ = 0;
  sha256 digest_;
  size_t digested_ = 0; ///< of the buffer
};

/// Writes one layer: a zstd frame with a pax tar, then its index in a skippable frame:
///
///     0x184D2A58 | size | zstd frame of the index | its SHA-256 | entries, u64 | its size, u64 |
///     "troupeix"
///
/// Entries come in the order of `compare_paths`. The blob is begun with the first of them.
class layer_writer {
public:
  layer_writer(const blob_store& store, zstd_pool& pool) : store_(store), pool_(pool) {}

  /// Anything but a file.
  result<void> add(const index_entry& x);

  /// A file: `begin_file`, its bytes through `tar()`, `end_file` with its digest known.
  result<void> begin_file(const index_entry& x, const std::vector<extent>* map);
  tar_encoder& tar() {
    return open_->tar;
  }
  result<void> end_file(const index_entry& x);

  bool empty() const {
    return !open_;
  }

  /// The stored layer; not before something was added.
  result<layer_info> finish();

private:
  struct parts {
    parts(new_blob file, zstd_pool& pool, int folder);

    /// Compressed bytes of the tar.
    result<void> store(const char* data, size_t size);

    new_blob blob;
    std::optional<write_behind> behind; ///< of a large blob, while its tar is made
    zstd_writer packed;
    tar_encoder tar;
    std::string index_bytes; ///< compressed, until it is too much for memory
    unique_fd index_spool;
    uint64_t index_size = 0;
    zstd_writer packed_index;
    index_encoder index;
  };

  result<void> open();

  const blob_store& store_;
  zstd_pool& pool_;
  std::unique_ptr<parts> open_;
  layer_info info_;
};

/// The index of a stored layer. Not verified by the blob's digest but by its own, at its end.
result<std::unique_ptr<index_decoder>> open_index(const blob_store& store, const layer_info& layer);

} // namespace troupe::snapshot
