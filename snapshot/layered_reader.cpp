#include "snapshot/layered_reader.hpp"

#include "snapshot/layer_writer.hpp"
#include "snapshot/prefetch.hpp"
#include "snapshot/zstd_stream.hpp"

#include <utility>

namespace troupe::snapshot {

namespace {

/// Layers smaller than this are not worth a thread.
constexpr uint64_t prefetch_from = 1024 * 1024;

error of_blob(const blob_id& id, error x) {
  if (x.code == errc::snapshot_restore_error && x.context.find("\"blob\"") == std::string::npos)
    x.with("blob", "sha256:" + id.digest);
  return x;
}

} // namespace

result<std::unique_ptr<index_fold>>
open_fold(const blob_store& store, const std::vector<layer_info>& layers, bool whiteouts) {
  std::vector<std::unique_ptr<index_decoder>> indexes;
  for (const auto& layer : layers) {
    auto index = open_index(store, layer);
    if (!index)
      return unexpected(std::move(index.error()));
    indexes.push_back(std::move(*index));
  }
  return std::make_unique<index_fold>(std::move(indexes), whiteouts);
}

result<layered_reader> layered_reader::open(const blob_store& store,
                                            const layered_snapshot& snapshot, bool whiteouts) {
  layered_reader x;
  auto index = open_fold(store, snapshot.layers, whiteouts);
  if (!index)
    return unexpected(std::move(index.error()));
  x.index_ = std::move(*index);
  for (const auto& info : snapshot.layers) {
    auto fd = store.open_blob(info.blob);
    if (!fd)
      return unexpected(std::move(fd.error()));
    layer one;
    one.id = info.blob;
    std::unique_ptr<byte_source> tar
      = std::make_unique<zstd_source>(std::make_unique<blob_source>(std::move(*fd), info.blob));
    if (info.blob.size >= prefetch_from)
      tar = std::make_unique<prefetch_source>(std::move(tar));
    one.bytes = std::move(tar);
    one.tar = std::make_unique<tar_reader>(*one.bytes);
    x.layers_.push_back(std::move(one));
  }
  return x;
}

result<bool> layered_reader::next_member(layer& x) {
  auto more = x.tar->next(member_);
  ++x.position;
  return more ? more : unexpected(of_blob(x.id, std::move(more.error())));
}

result<bool> layered_reader::next(index_entry& x) {
  auto more = index_->next(x);
  if (!more)
    return more;
  if (*more) {
    current_ = &layers_[x.layer];
    while (current_->position <= x.position) {
      auto found = next_member(*current_);
      if (!found)
        return found;
      if (!*found)
        return unexpected(blob_damaged(current_->id, "the tar has less than the index"));
    }
    bool plain = x.type == entry_type::file || x.type == entry_type::whiteout;
    if (plain != (member_.kind == member_kind::file)
        || (x.type == entry_type::file && member_.size != x.size))
      return unexpected(blob_damaged(current_->id, "the tar differs from the index"));
    return true;
  }
  for (auto& each : layers_)
    for (;;) {
      auto left = next_member(each);
      if (!left)
        return left;
      if (!*left)
        break;
    }
  return false;
}

result<file_piece> layered_reader::data() {
  auto piece = current_->tar->data();
  return piece ? piece : unexpected(of_blob(current_->id, std::move(piece.error())));
}

} // namespace troupe::snapshot
