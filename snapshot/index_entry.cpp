#include "snapshot/index_entry.hpp"

#include "snapshot/pack.hpp"

#include <algorithm>
#include <climits>
#include <cstring>
#include <optional>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr std::string_view magic{"troupeix\x01", 9};
constexpr unsigned char end_mark = 0x7f;
constexpr unsigned char type_bits = 0x07;
constexpr unsigned char xattrs_flag = 0x10;
constexpr unsigned char stat_flag = 0x20;
constexpr size_t buffer_size = 64 * 1024;
constexpr uint64_t max_xattr_bytes = 1024 * 1024;

void put_number(std::string& out, uint64_t x) {
  while (x >= 0x80) {
    out += static_cast<char>(x | 0x80);
    x >>= 7;
  }
  out += static_cast<char>(x);
}

void put_signed(std::string& out, int64_t x) {
  put_number(out, (static_cast<uint64_t>(x) << 1) ^ static_cast<uint64_t>(x >> 63));
}

void put_text(std::string& out, std::string_view x) {
  put_number(out, x.size());
  out += x;
}

/// Below the root by its components alone.
bool is_clean(std::string_view path) {
  if (path.empty())
    return true;
  for (;;) {
    auto slash = path.find('/');
    auto part = path.substr(0, slash);
    if (part.empty() || part == "." || part == ".." || part.find('\0') != part.npos)
      return false;
    if (slash == path.npos)
      return true;
    path.remove_prefix(slash + 1);
  }
}

} // namespace

int compare_paths(std::string_view a, std::string_view b) {
  auto n = std::min(a.size(), b.size());
  auto [x, y] = std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin());
  if (x == a.begin() + static_cast<std::ptrdiff_t>(n))
    return a.size() < b.size() ? -1 : a.size() > b.size();
  auto rank = [](char c) { return c == '/' ? 0 : 1 + static_cast<unsigned char>(c); };
  return rank(*x) - rank(*y);
}

bool lies_below(std::string_view path, std::string_view directory) {
  if (directory.empty())
    return !path.empty();
  return path.size() > directory.size() && path[directory.size()] == '/'
         && path.starts_with(directory);
}

bool same_entry(const index_entry& a, const index_entry& b) {
  return a.type == b.type && a.mode == b.mode && a.size == b.size && a.content == b.content
         && a.target == b.target && a.xattrs == b.xattrs && a.mtime.tv_sec == b.mtime.tv_sec
         && a.mtime.tv_nsec == b.mtime.tv_nsec;
}

bool is_kept_xattr(std::string_view name) {
  return name.starts_with("user.") && !name.starts_with("user.overlay.");
}

std::string encode_xattrs(const std::vector<xattr>& all) {
  std::string out;
  for (const auto& x : all) {
    put_text(out, x.name);
    put_text(out, x.value);
  }
  return out;
}

std::vector<xattr> decode_xattrs(std::string_view bytes) {
  std::vector<xattr> all;
  auto text = [&](std::string& out) {
    uint64_t size = 0;
    for (int shift = 0; shift < 32; shift += 7) {
      if (bytes.empty())
        return false;
      auto byte = static_cast<unsigned char>(bytes.front());
      bytes.remove_prefix(1);
      size |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80)
        break;
    }
    if (size > bytes.size())
      return false;
    out = bytes.substr(0, size);
    bytes.remove_prefix(size);
    return true;
  };
  for (xattr x; !bytes.empty() && text(x.name) && text(x.value);)
    all.push_back(std::move(x));
  return all;
}

// -- writing --------------------------------------------------------------------------------------

result<void> index_encoder::add(const index_entry& x) {
  auto& out = buffer_;
  auto head = static_cast<unsigned char>(x.type);
  if (!x.xattrs.empty())
    head |= xattrs_flag;
  if (x.inode != 0)
    head |= stat_flag;
  out += static_cast<char>(head);
  auto n = std::min(before_.size(), x.path.size());
  auto shared = static_cast<size_t>(
    std::mismatch(before_.begin(), before_.begin() + static_cast<std::ptrdiff_t>(n), x.path.begin())
      .first
    - before_.begin());
  put_number(out, shared);
  put_text(out, std::string_view{x.path}.substr(shared));
  before_ = x.path;
  if (x.type != entry_type::whiteout) {
    put_number(out, x.mode);
    put_number(out, x.uid);
    put_number(out, x.gid);
    put_signed(out, x.mtime.tv_sec);
    put_number(out, static_cast<uint64_t>(x.mtime.tv_nsec));
  }
  if (x.type == entry_type::file) {
    put_number(out, x.size);
    put_number(out, x.links);
    out.append(reinterpret_cast<const char*>(x.content.data()), x.content.size());
  }
  if (x.type == entry_type::symlink || x.type == entry_type::hard_link)
    put_text(out, x.target);
  if (!x.xattrs.empty())
    put_text(out, x.xattrs);
  if (x.inode != 0) {
    put_number(out, x.inode);
    put_signed(out, x.ctime.tv_sec - x.mtime.tv_sec);
    put_number(out, static_cast<uint64_t>(x.ctime.tv_nsec));
  }
  return flush(buffer_size);
}

result<void> index_encoder::finish() {
  buffer_ += static_cast<char>(end_mark);
  return flush(0);
}

result<void> index_encoder::flush(size_t above) {
  if (buffer_.size() <= above)
    return {};
  auto ok = sink_(buffer_.data(), buffer_.size());
  buffer_.clear();
  return ok;
}

// -- reading --------------------------------------------------------------------------------------

bool index_decoder::fill() {
  auto chunk = input_->next();
  if (!chunk) {
    input_failure_ = std::move(chunk.error());
    return false;
  }
  chunk_ = *chunk;
  return !chunk_.empty();
}

bool index_decoder::take(void* data, size_t size) {
  auto* out = static_cast<char*>(data);
  while (size > 0) {
    if (chunk_.empty() && !fill())
      return false;
    auto n = std::min(size, chunk_.size());
    std::memcpy(out, chunk_.data(), n);
    chunk_.remove_prefix(n);
    out += n;
    size -= n;
  }
  return true;
}

bool index_decoder::number(uint64_t& x) {
  x = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (chunk_.empty() && !fill())
      return false;
    auto byte = static_cast<unsigned char>(chunk_.front());
    chunk_.remove_prefix(1);
    x |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80)
      return true;
  }
  return false;
}

bool index_decoder::signed_number(int64_t& x) {
  uint64_t raw = 0;
  if (!number(raw))
    return false;
  x = static_cast<int64_t>(raw >> 1) ^ -static_cast<int64_t>(raw & 1);
  return true;
}

bool index_decoder::text(std::string& x, uint64_t limit) {
  uint64_t size = 0;
  if (!number(size) || size > limit)
    return false;
  x.resize(size);
  return take(x.data(), size);
}

bool index_decoder::parse(unsigned char head, index_entry& x) {
  auto type = head & type_bits;
  if (type > static_cast<int>(entry_type::whiteout))
    return false;
  x.type = static_cast<entry_type>(type);
  uint64_t shared = 0;
  uint64_t more = 0;
  if (!number(shared) || shared > before_.size() || !number(more) || more > max_path_size - shared)
    return false;
  x.path.resize(shared + more);
  before_.copy(x.path.data(), shared);
  if (!take(x.path.data() + shared, more))
    return false;
  // What is shared is clean and equal.
  auto slash = shared == 0 ? x.path.npos : x.path.rfind('/', shared - 1);
  auto from = slash == x.path.npos ? 0 : slash + 1;
  const std::string_view path{x.path};
  if (!is_clean(path.substr(from))
      || (started_
          && compare_paths(std::string_view{before_}.substr(shared), path.substr(shared)) >= 0))
    return false;
  before_ = x.path;
  uint64_t mode = 0;
  uint64_t uid = 0;
  uint64_t gid = 0;
  int64_t seconds = 0;
  uint64_t nanoseconds = 0;
  if (x.type != entry_type::whiteout
      && (!number(mode) || !number(uid) || !number(gid) || !signed_number(seconds)
          || !number(nanoseconds) || mode > 07777 || nanoseconds >= 1'000'000'000))
    return false;
  x.mode = static_cast<uint32_t>(mode);
  x.uid = static_cast<uint32_t>(uid);
  x.gid = static_cast<uint32_t>(gid);
  x.mtime = {seconds, static_cast<long>(nanoseconds)};
  x.size = 0;
  x.content = {};
  x.links = 1;
  if (x.type == entry_type::file
      && (!number(x.size) || !number(x.links) || !take(x.content.data(), x.content.size())))
    return false;
  x.target.clear();
  if ((x.type == entry_type::symlink || x.type == entry_type::hard_link)
      && !text(x.target, max_path_size))
    return false;
  if (x.type == entry_type::hard_link && (x.target.empty() || !is_clean(x.target)))
    return false;
  x.xattrs.clear();
  if ((head & xattrs_flag) != 0 && !text(x.xattrs, max_xattr_bytes))
    return false;
  x.inode = 0;
  x.ctime = {};
  if ((head & stat_flag) == 0)
    return true;
  int64_t after = 0;
  if (!number(x.inode) || !signed_number(after) || !number(nanoseconds))
    return false;
  x.ctime
    = {static_cast<int64_t>(static_cast<uint64_t>(x.mtime.tv_sec) + static_cast<uint64_t>(after)),
       static_cast<long>(nanoseconds)};
  return true;
}

result<bool> index_decoder::next(index_entry& x) {
  if (ended_)
    return false;
  if (!started_) {
    char begin[magic.size()];
    if (!take(begin, sizeof begin) || std::string_view{begin, sizeof begin} != magic)
      return unexpected(failure());
  }
  unsigned char head = 0;
  if (!take(&head, 1))
    return unexpected(failure());
  if (head == end_mark) {
    ended_ = true;
    if (!chunk_.empty() || fill() || input_failure_)
      return unexpected(failure());
    return false;
  }
  if (!parse(head, x))
    return unexpected(failure());
  started_ = true;
  x.position = position_++;
  return true;
}

error index_decoder::failure() {
  auto x = input_failure_ ? std::move(*input_failure_) : damaged("the index does not parse");
  if (!blob_.empty() && x.context.find("\"blob\"") == std::string::npos)
    x.with("blob", blob_);
  return x;
}

} // namespace troupe::snapshot
