#include "snapshot/layer_writer.hpp"

#include "workspace/tree.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t block = 512;
constexpr size_t buffer_size = 256 * 1024;
constexpr std::string_view frame_magic{"\x58\x2a\x4d\x18", 4};
constexpr std::string_view mark = "troupeix";
constexpr size_t head_size = 8;
constexpr size_t tail_size = 32 + 8 + 8 + 8;
constexpr size_t spool_above = 4 * 1024 * 1024;
/// Indexes that are read at once: what they take must not be much even for the longest chain.
constexpr size_t small_index = 8 * 1024;
constexpr size_t small_unpacked = 32 * 1024;
/// Blobs that are so large, of what can hardly be compressed, are digested and written on a thread
/// of their own: that is then a third of all the work, and there are processors to do it.
constexpr uint64_t behind_from = 1024 * 1024;

void octal(char* field, size_t width, uint64_t x) {
  for (auto i = width - 1; i-- > 0; x >>= 3)
    field[i] = static_cast<char>('0' + (x & 7));
}

/// A pax record says its own length.
void pax_record(std::string& out, std::string_view key, std::string_view value) {
  auto body = key.size() + value.size() + 3;
  auto size = body + 1;
  while (std::to_string(size).size() + body != size)
    ++size;
  out.append(std::to_string(size)).append(" ").append(key).append("=").append(value).append("\n");
}

std::string decimal_time(const timespec& x) {
  // Before the epoch the fraction counts backwards.
  auto seconds = x.tv_sec;
  auto nanoseconds = x.tv_nsec;
  bool negative = seconds < 0;
  if (negative && nanoseconds > 0) {
    ++seconds;
    nanoseconds = 1'000'000'000 - nanoseconds;
  }
  char text[40];
  std::snprintf(text, sizeof text, "%s%lld.%09ld", negative ? "-" : "",
                static_cast<long long>(negative ? -seconds : seconds), nanoseconds);
  return text;
}

bool is_ascii(std::string_view x) {
  return std::all_of(x.begin(), x.end(), [](char c) { return static_cast<signed char>(c) > 0; });
}

std::string sparse_map(const std::vector<extent>& map) {
  auto text = std::to_string(map.size()) + '\n';
  for (const auto& [offset, size] : map)
    text += std::to_string(offset) + '\n' + std::to_string(size) + '\n';
  text.resize((text.size() + block - 1) / block * block);
  return text;
}

std::string little_endian_bytes(uint64_t x, size_t size) {
  std::string bytes;
  for (size_t i = 0; i < size; ++i)
    bytes += static_cast<char>((x >> (8 * i)) & 0xff);
  return bytes;
}

uint64_t number_at(std::string_view bytes, size_t at, size_t size) {
  uint64_t x = 0;
  for (auto i = size; i-- > 0;)
    x = (x << 8) | static_cast<unsigned char>(bytes[at + i]);
  return x;
}

/// `path` with no component that a layer would take for a whiteout.
std::string without_whiteouts(std::string path) {
  for (size_t at = 0; (at = path.find(".wh.", at)) != path.npos; at += 4)
    if (at == 0 || path[at - 1] == '/')
      path.replace(at, 1, "%2E");
  return path;
}

} // namespace

// -- tar ------------------------------------------------------------------------------------------

tar_encoder::tar_encoder(byte_sink sink, use what)
  : sink_(std::move(sink)), use_(what),
    buffer_(std::make_unique_for_overwrite<char[]>(buffer_size)) {}

void tar_encoder::digest_rest() {
  if (use_ == use::layer)
    digest_.update(buffer_.get() + digested_, fill_ - digested_);
  digested_ = fill_;
}

result<void> tar_encoder::flush() {
  digest_rest();
  digested_ = 0;
  total_ += fill_;
  return sink_(buffer_.get(), std::exchange(fill_, 0));
}

char* tar_encoder::space(size_t& size) {
  size = std::min(size, buffer_size - fill_);
  return buffer_.get() + fill_;
}

result<void> tar_encoder::put(size_t size, sha256* content) {
  if (content != nullptr) {
    digest_rest();
    sha256::update_both(digest_, *content, buffer_.get() + fill_, size);
    digested_ += size;
  }
  fill_ += size;
  return fill_ == buffer_size ? flush() : result<void>{};
}

result<void> tar_encoder::data(const char* data, size_t size) {
  while (size > 0) {
    auto n = size;
    auto* to = space(n);
    std::memcpy(to, data, n);
    if (auto ok = put(n); !ok)
      return ok;
    data += n;
    size -= n;
  }
  return {};
}

result<void> tar_encoder::end_file() {
  static constexpr char zeros[block] = {};
  return data(zeros, (block - size() % block) % block);
}

result<void> tar_encoder::finish() {
  static constexpr char zeros[2 * block] = {};
  return data(zeros, sizeof zeros).and_then([&] { return flush(); });
}

result<void> tar_encoder::header(const index_entry& x, char type, const std::string& name,
                                 const std::string& target, uint64_t size,
                                 const std::string& records) {
  if (!records.empty()) {
    index_entry extra;
    extra.mode = 0644;
    extra.mtime = x.mtime;
    if (auto ok = header(extra, 'x', "PaxHeaders/x", {}, records.size(), {}); !ok)
      return ok;
    if (auto ok = data(records.data(), records.size()).and_then([&] { return end_file(); }); !ok)
      return ok;
  }
  char h[block] = {};
  name.copy(h, 100);
  octal(h + 100, 8, x.mode);
  octal(h + 108, 8, x.uid & 07777777);
  octal(h + 116, 8, x.gid & 07777777);
  octal(h + 124, 12, std::min<uint64_t>(size, 077777777777));
  octal(h + 136, 12, std::clamp<int64_t>(x.mtime.tv_sec, 0, 077777777777));
  std::memset(h + 148, ' ', 8);
  h[156] = type;
  if (type == '1' || type == '2')
    target.copy(h + 157, 100);
  std::memcpy(h + 257, "ustar\00000", 8);
  unsigned sum = 0;
  for (char c : h)
    sum += static_cast<unsigned char>(c);
  octal(h + 148, 7, sum);
  h[154] = '\0';
  return data(h, block);
}

result<void> tar_encoder::begin(const index_entry& x, const std::vector<extent>* map) {
  const bool in_layer = use_ == use::layer;
  std::string name = x.path.empty() ? "." : in_layer ? without_whiteouts(x.path) : x.path;
  const bool is_link = x.type == entry_type::hard_link;
  const std::string target = in_layer && is_link ? without_whiteouts(x.target) : x.target;
  char type = '0';
  uint64_t size = x.type == entry_type::file ? x.size : 0;
  std::string records;
  switch (x.type) {
    case entry_type::directory:
      type = '5';
      name += '/';
      break;
    case entry_type::symlink: type = '2'; break;
    case entry_type::hard_link: type = '1'; break;
    case entry_type::whiteout: name.insert(name.rfind('/') + 1, ".wh."); break;
    case entry_type::file: break;
  }
  std::string map_text;
  if (map) {
    map_text = sparse_map(*map);
    size = map_text.size();
    for (const auto& piece : *map)
      size += piece.second;
    pax_record(records, "GNU.sparse.major", "1");
    pax_record(records, "GNU.sparse.minor", "0");
    pax_record(records, "GNU.sparse.name", name);
    pax_record(records, "GNU.sparse.realsize", std::to_string(x.size));
    name = "GNUSparseFile.0/file";
  }
  bool long_target = target.size() > 100;
  if (name.size() > 100 || long_target) {
    if (!is_ascii(name) || !is_ascii(target))
      pax_record(records, "hdrcharset", "BINARY");
    if (name.size() > 100)
      pax_record(records, "path", name);
    if (long_target)
      pax_record(records, "linkpath", target);
  }
  if (x.mtime.tv_nsec != 0 || x.mtime.tv_sec < 0 || x.mtime.tv_sec > 077777777777)
    pax_record(records, "mtime", decimal_time(x.mtime));
  if (size > 077777777777)
    pax_record(records, "size", std::to_string(size));
  if (x.uid > 07777777)
    pax_record(records, "uid", std::to_string(x.uid));
  if (x.gid > 07777777)
    pax_record(records, "gid", std::to_string(x.gid));
  for (const auto& attribute : decode_xattrs(x.xattrs))
    pax_record(records, "SCHILY.xattr." + attribute.name, attribute.value);
  auto ok = header(x, type, name, target, size, records);
  if (ok && map)
    ok = data(map_text.data(), map_text.size());
  return ok;
}

// -- layers ---------------------------------------------------------------------------------------

layer_writer::parts::parts(new_blob file, zstd_pool& pool, int folder)
  : blob(std::move(file)),
    packed(pool, [this](const char* data, size_t size) { return store(data, size); }),
    tar([this](const char* data, size_t size) { return packed.write(data, size); },
        tar_encoder::use::layer),
    packed_index(pool,
                 [this, folder](const char* data, size_t size) -> result<void> {
                   index_size += size;
                   index_bytes.append(data, size);
                   if (index_bytes.size() < spool_above)
                     return {};
                   if (!index_spool)
                     index_spool.reset(::openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
                   int err = workspace::write_all(index_spool.get(), index_bytes.data(),
                                                  index_bytes.size());
                   index_bytes.clear();
                   if (err < 0)
                     return unexpected(cannot_store("index", -err));
                   return {};
                 }),
    index([this](const char* data, size_t size) { return packed_index.write(data, size); }) {}

result<void> layer_writer::parts::store(const char* data, size_t size) {
  if (!behind && (blob.size() < behind_from || 2 * blob.size() < tar.size()))
    return blob.write(data, size);
  if (!behind)
    behind.emplace([this](const char* more, size_t n) { return blob.write(more, n); });
  return behind->write(data, size);
}

result<void> layer_writer::open() {
  if (open_)
    return {};
  auto blob = new_blob::create(store_);
  if (!blob)
    return unexpected(std::move(blob.error()));
  open_ = std::make_unique<parts>(std::move(*blob), pool_, store_.blobs_fd());
  return {};
}

result<void> layer_writer::add(const index_entry& x) {
  ++info_.entries;
  return open().and_then([&] { return open_->tar.begin(x); }).and_then([&] {
    return open_->index.add(x);
  });
}

result<void> layer_writer::begin_file(const index_entry& x, const std::vector<extent>* map) {
  return open().and_then([&] { return open_->tar.begin(x, map); });
}

result<void> layer_writer::end_file(const index_entry& x) {
  ++info_.entries;
  info_.file_bytes += x.size;
  return open_->tar.end_file().and_then([&] { return open_->index.add(x); });
}

result<layer_info> layer_writer::finish() {
  auto& x = *open_;
  auto ok = x.tar.finish()
              .and_then([&] { return x.packed.finish(); })
              .and_then([&] { return x.behind ? x.behind->finish() : result<void>{}; })
              .and_then([&] { return x.index.finish(); })
              .and_then([&] { return x.packed_index.finish(); });
  if (!ok)
    return unexpected(std::move(ok.error()));
  if (x.index_size > UINT32_MAX - tail_size)
    return unexpected(cannot_store("index", EFBIG));
  info_.diff_id = to_hex(x.tar.digest());
  info_.index_bytes = x.index_size;
  auto head = std::string{frame_magic} + little_endian_bytes(x.index_size + tail_size, 4);
  ok = x.blob.write(head.data(), head.size());
  sha256 hash;
  auto take = [&](const char* data, size_t size) {
    hash.update(data, size);
    return x.blob.write(data, size);
  };
  if (ok && x.index_spool) {
    ::lseek(x.index_spool.get(), 0, SEEK_SET);
    file_source spooled{x.index_spool.get()};
    for (;;) {
      auto chunk = spooled.next();
      if (!chunk)
        return unexpected(std::move(chunk.error()));
      if (chunk->empty())
        break;
      if (ok = take(chunk->data(), chunk->size()); !ok)
        break;
    }
  }
  if (ok)
    ok = take(x.index_bytes.data(), x.index_bytes.size());
  auto digest = hash.finish();
  std::string tail{reinterpret_cast<const char*>(digest.data()), digest.size()};
  tail += little_endian_bytes(info_.entries, 8) + little_endian_bytes(x.index_size, 8);
  tail += mark;
  if (ok)
    ok = x.blob.write(tail.data(), tail.size());
  if (!ok)
    return unexpected(std::move(ok.error()));
  auto id = x.blob.commit();
  if (!id)
    return unexpected(std::move(id.error()));
  info_.blob = *id;
  return info_;
}

namespace {

class text_source final : public byte_source {
public:
  explicit text_source(std::string text) : text_(std::move(text)) {}

  result<std::string_view> next() override {
    return std::exchange(given_, true) ? std::string_view{} : std::string_view{text_};
  }

private:
  std::string text_;
  bool given_ = false;
};

/// A part of a blob, verified at its end.
class part_source final : public byte_source {
public:
  part_source(unique_fd fd, uint64_t size, std::string digest, blob_id id)
    : fd_(std::move(fd)), file_(fd_.get(), size), digest_(std::move(digest)), id_(std::move(id)) {}

  result<std::string_view> next() override {
    if (verified_)
      return std::string_view{};
    auto chunk = file_.next();
    if (!chunk)
      return unexpected(blob_damaged(id_, "blob cannot be read"));
    if (!chunk->empty()) {
      hash_.update(*chunk);
      return chunk;
    }
    auto digest = hash_.finish();
    if (std::string_view{reinterpret_cast<const char*>(digest.data()), digest.size()} != digest_)
      return unexpected(blob_damaged(id_, "the index is damaged"));
    verified_ = true;
    return chunk;
  }

private:
  unique_fd fd_;
  file_source file_;
  std::string digest_;
  blob_id id_;
  sha256 hash_;
  bool verified_ = false;
};

} // namespace

result<std::unique_ptr<index_decoder>> open_index(const blob_store& store,
                                                  const layer_info& layer) {
  auto fd = store.open_blob(layer.blob);
  if (!fd)
    return unexpected(std::move(fd.error()));
  const auto end = layer.blob.size;
  // A small index comes with the tail: chains have many of them.
  std::string last(std::min<uint64_t>(end, small_index), '\0');
  if (end < head_size + tail_size
      || ::pread(fd->get(), last.data(), last.size(), static_cast<off_t>(end - last.size()))
           != static_cast<ssize_t>(last.size()))
    return unexpected(blob_damaged(layer.blob, "blob is cut"));
  auto view = std::string_view{last}.substr(last.size() - tail_size);
  auto size = number_at(view, 40, 8);
  if (view.substr(48) != mark || size != layer.index_bytes || size > end - tail_size - head_size)
    return unexpected(blob_damaged(layer.blob, "there is no index of ours"));
  const auto name = "sha256:" + layer.blob.digest;
  if (size + tail_size <= last.size()) {
    auto packed = std::string_view{last}.substr(last.size() - tail_size - size, size);
    sha256 hash;
    hash.update(packed);
    auto digest = hash.finish();
    if (view.substr(0, digest.size())
        != std::string_view{reinterpret_cast<const char*>(digest.data()), digest.size()})
      return unexpected(blob_damaged(layer.blob, "the index is damaged"));
    if (auto whole = zstd_source::small(packed, small_unpacked))
      return std::make_unique<index_decoder>(std::make_unique<text_source>(std::move(*whole)),
                                             name);
  }
  if (::lseek(fd->get(), static_cast<off_t>(end - tail_size - size), SEEK_SET) < 0)
    return unexpected(blob_damaged(layer.blob, std::strerror(errno)));
  auto part = std::make_unique<part_source>(std::move(*fd), size, std::string{view.substr(0, 32)},
                                            layer.blob);
  return std::make_unique<index_decoder>(std::make_unique<zstd_source>(std::move(part)), name);
}

} // namespace troupe::snapshot
