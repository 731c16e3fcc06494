#include "snapshot/capture.hpp"

#include "messages/ids.hpp"
#include "snapshot/member_rules.hpp"
#include "snapshot/pack.hpp"
#include "snapshot/tree_index.hpp"
#include "snapshot/tree_writer.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t max_warnings = 100;
constexpr size_t max_extents = 4096;
constexpr size_t max_list = 64 * 1024;

/// Bytes of holes that one job digests, of all files together: they take no disk, so that no quota
/// bounds them, but as much time as any others. A disk image of 50 GB passes.
constexpr uint64_t max_holes = 64ull << 30;

error read_error(std::string_view path, std::string_view reason) {
  return make_error(errc::workspace_archive_read_error, op::read,
                    "failed to read archive for path: " + to_utf8(path))
    .with("path", path)
    .with("reason", reason);
}

bool operator<(const timespec& a, const timespec& b) {
  return a.tv_sec != b.tv_sec ? a.tv_sec < b.tv_sec : a.tv_nsec < b.tv_nsec;
}

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/// Where a file has data.
struct file_map {
  std::vector<extent> data; ///< empty: no holes, or too many to be worth it
  uint64_t holes = 0;       ///< bytes
};

file_map map_of(int fd, const struct stat& st) {
  file_map map;
  if (st.st_size == 0 || st.st_blocks * 512 >= st.st_size)
    return map;
  uint64_t data_bytes = 0;
  bool too_many = false;
  for (off_t at = 0; at < st.st_size;) {
    auto data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 || data >= st.st_size)
      break;
    auto hole = std::min<off_t>(::lseek(fd, data, SEEK_HOLE), st.st_size);
    if (hole <= data)
      return {};
    data_bytes += static_cast<uint64_t>(hole - data);
    too_many = too_many || map.data.size() == max_extents;
    if (!too_many)
      map.data.emplace_back(data, hole - data);
    at = hole;
  }
  ::lseek(fd, 0, SEEK_SET);
  auto size = static_cast<uint64_t>(st.st_size);
  map.holes = size - data_bytes;
  // The end is said by an empty run, so that there always is a map.
  if (too_many)
    map.data.clear();
  else if (map.data.empty() || map.data.back().first + map.data.back().second < size)
    map.data.emplace_back(size, 0);
  return map;
}

std::unordered_set<std::string> skipped(const std::vector<std::string>& paths) {
  std::unordered_set<std::string> all;
  for (const auto& path : paths)
    all.insert(plain_path(path));
  all.erase("");
  return all;
}

/// Comparing a walk with an index, both in the same order.
class capturer {
public:
  /// `digest` false: only whether anything changed is found out.
  capturer(const std::optional<upper_tree>& upper, const std::vector<std::string>& skip,
           capture_base base, layer_writer* out, job& work, const change_listener& listener,
           bool digest)
    : upper_(upper), base_(std::move(base)), out_(out), work_(work), listener_(listener),
      digest_(digest) {
    skip_ = skipped(skip);
  }

  result<capture_outcome> run(int root_fd) {
    bool had_base = base_.index != nullptr;
    root_fd_ = root_fd;
    if (auto ok = next_old(); !ok)
      return unexpected(std::move(ok.error()));
    struct stat root;
    if (::fstat(root_fd, &root) != 0)
      return unexpected(read_error(".", std::strerror(errno)));
    if (auto ok = add_root(root, had_base); !ok)
      return unexpected(std::move(ok.error()));
    auto walked = base_.ahead && !upper_
                    ? walk_and_compare(*base_.ahead)
                    : workspace::walk(upper_ ? upper_->fd : root_fd,
                                      [this](const auto& item) { return visit(item); });
    if (failure_)
      return unexpected(std::move(*failure_));
    if (!walked)
      return unexpected(std::move(walked.error()));
    while (has_old_ && !is_decided())
      if (auto ok = pass_old(); !ok)
        return unexpected(std::move(ok.error()));
    outcome_.tree = tree_.finish();
    if (more_warnings_ > 0)
      outcome_.warnings.push_back("and " + std::to_string(more_warnings_) + " more");
    if (out_ && !out_->empty()) {
      auto layer = out_->finish();
      if (!layer)
        return unexpected(std::move(layer.error()));
      outcome_.layer = std::move(*layer);
    }
    return std::move(outcome_);
  }

private:
  /// Of a tree that is known, most is only looked at and compared: at once.
  result<void> walk_and_compare(walk_ahead& ahead) {
    for (;;) {
      auto more = ahead.next();
      if (!more)
        return unexpected(std::move(more.error()));
      if (!*more)
        return {};
      const auto& items = **more;
      looked_at_ = items.begun();
      for (size_t i = 0; i < items.size(); ++i)
        if (visit({items.path(i), -1, items.name(i), &items.info(i)}) == workspace::walk_next::stop)
          return {};
    }
  }

  /// The folder of an item; errno negated on failure.
  int parent_of(const workspace::tree_item& item) {
    if (item.parent_fd >= 0)
      return item.parent_fd;
    auto slash = item.path.rfind('/');
    auto parent = slash == item.path.npos ? std::string_view{} : item.path.substr(0, slash);
    if (!parent_fd_ || parent_path_ != parent) {
      int fd = open_deep_directory(root_fd_, parent);
      if (fd < 0)
        return fd;
      parent_fd_.reset(fd);
      parent_path_ = parent;
    }
    return parent_fd_.get();
  }

  int open_item(const workspace::tree_item& item, int flags) {
    int dir = parent_of(item);
    if (dir >= 0)
      return ::openat(dir, item.name, flags | O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    errno = -dir;
    return -1;
  }

  /// The clock when the information of an item was got, or before.
  timespec clock_of(const workspace::tree_item& item) const {
    return item.parent_fd < 0 ? looked_at_ : file_clock();
  }

  workspace::walk_next visit(const workspace::tree_item& item) {
    using workspace::walk_next;
    if (!skip_.empty() && skip_.contains(std::string{item.path}))
      return walk_next::skip;
    auto ok = work_.step();
    while (ok && has_old_ && compare_paths(old_.path, item.path) < 0)
      ok = pass_old();
    if (ok)
      ok = add(item);
    if (ok)
      return is_decided() ? walk_next::stop : walk_next::enter;
    failure_ = std::move(ok.error());
    return walk_next::stop;
  }

  bool is_decided() const {
    return !digest_ && outcome_.changed;
  }

  // -- the index

  result<void> next_old() {
    has_old_ = false;
    if (!base_.index)
      return {};
    auto more = base_.index->next(old_);
    if (!more)
      return unexpected(std::move(more.error()));
    has_old_ = *more;
    return {};
  }

  /// The walk has come to or beyond the old entry and did not meet it.
  result<void> pass_old() {
    // What lies below something that is no directory any more went with it.
    bool gone = hidden_ && lies_below(old_.path, *hidden_);
    if (gone) {
      break_links();
      tell(nullptr, &old_);
    } else {
      bool stays = upper_ && old_.layer < upper_->lower_layers
                   && !(opaque_ && lies_below(old_.path, *opaque_)) && !skip_covers(old_.path);
      if (stays)
        return keep_below();
      if (upper_ && old_.layer >= upper_->lower_layers
          && !(opaque_ && lies_below(old_.path, *opaque_)) && !skip_covers(old_.path)) {
        auto kept = keep_moved();
        if (!kept || *kept)
          return kept.map([](bool) {});
      }
      if (auto ok = remove(old_.path); !ok)
        return ok;
    }
    return next_old();
  }

  /// Keeps what the overlay shows of its lower layers.
  result<void> keep_below() {
    if (old_.type == entry_type::hard_link)
      if (auto broken = broken_.find(old_.target); broken != broken_.end())
        return move_link(broken->second);
    return keep_old();
  }

  /// What the overlay shows at the path of the old entry, whose folder `dir` keeps open.
  std::optional<workspace::tree_item> shown(unique_fd& dir, std::string& path, struct stat& st) {
    path = old_.path;
    auto slash = path.rfind('/');
    dir.reset(workspace::open_beneath(root_fd_, slash == path.npos ? "." : path.substr(0, slash),
                                      O_RDONLY | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS));
    const auto* name = path.c_str() + (slash == path.npos ? 0 : slash + 1);
    if (!dir || ::fstatat(dir.get(), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
      return std::nullopt;
    return workspace::tree_item{path, dir.get(), name, &st};
  }

  /// An overlay that copies a file up takes it from its other names: those stay what they were, so
  /// the first of them has to become the file. `home`: that one, if there is one already.
  result<void> move_link(std::string& home) {
    unique_fd dir;
    std::string path;
    struct stat st;
    auto item = shown(dir, path, st);
    if (!item)
      return drop_old(workspace::tree_item{path, -1, "", &st});
    if (!home.empty())
      return add_hard_link(*item, names{home, true});
    home = path;
    st.st_nlink = 1;
    return add_file(*item);
  }

  /// Of what newer layers have and the upper tree lacks, only such a file is still there.
  result<bool> keep_moved() {
    unique_fd dir;
    std::string path;
    struct stat st;
    if (old_.type != entry_type::file && old_.type != entry_type::hard_link)
      return false;
    auto item = shown(dir, path, st);
    if (!item || !S_ISREG(st.st_mode))
      return false;
    return add_file(*item).map([] { return true; });
  }

  /// A file of a lower layer is not what its other names are any more.
  void break_links() {
    if (upper_ && old_.type == entry_type::file && old_.links > 1
        && old_.layer < upper_->lower_layers)
      broken_.try_emplace(old_.path);
  }

  bool skip_covers(const std::string& path) const {
    if (skip_.empty())
      return false;
    for (auto end = path.find('/');; end = path.find('/', end + 1)) {
      if (skip_.contains(path.substr(0, end)))
        return true;
      if (end == path.npos)
        return false;
    }
  }

  result<void> remove(const std::string& path) {
    break_links();
    tell(nullptr, &old_);
    outcome_.changed = true;
    hidden_ = path;
    if (!out_)
      return {};
    index_entry x;
    x.path = path;
    x.type = entry_type::whiteout;
    return write(x);
  }

  /// Every layer says of each directory above what it has how that is, so that the layer can be
  /// unpacked by itself.
  result<void> write_parents(const std::string& path) {
    leave_to(path);
    for (auto& [directory, written] : above_)
      if (!std::exchange(written, true))
        if (auto ok = out_->add(directory); !ok)
          return ok;
    return {};
  }

  void leave_to(const std::string& path) {
    while (!above_.empty() && !lies_below(path, above_.back().first.path))
      above_.pop_back();
  }

  result<void> write(const index_entry& x) {
    if (!out_)
      return {};
    if (auto ok = write_parents(x.path); !ok)
      return ok;
    if (x.type == entry_type::directory && !x.path.empty())
      above_.emplace_back(x, true);
    return out_->add(x);
  }

  void tell(const index_entry* now, const index_entry* before) const {
    if (listener_)
      listener_(now, before);
  }

  // -- one item

  result<void> add_root(const struct stat& info, bool had_base) {
    index_entry x;
    x.type = entry_type::directory;
    fill(x, info);
    bool known = has_old_ && old_.path.empty();
    // Its time follows its entries, and a restore leaves mode and owner of a root as they are.
    bool same = known && old_.mode == x.mode;
    if (known)
      if (auto ok = next_old(); !ok)
        return ok;
    if (same || (had_base && upper_))
      return {};
    outcome_.changed = true;
    return write(x);
  }

  result<void> add(const workspace::tree_item& item) {
    auto depth = static_cast<size_t>(std::ranges::count(item.path, '/')) + 1;
    if (item.path.size() > max_path_size || depth > max_path_depth)
      return unexpected(read_error(item.path.substr(0, PATH_MAX), "path too long to be restored"));
    const auto& st = *item.info;
    if (at_old(item))
      break_links();
    switch (st.st_mode & S_IFMT) {
      case S_IFDIR: return add_directory(item);
      case S_IFLNK: return add_symlink(item);
      case S_IFREG: return add_file(item);
      case S_IFIFO: return left_out(item, "fifo");
      case S_IFSOCK: return left_out(item, "socket");
      default:
        if (upper_ && S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0))
          return drop_old(item);
        return left_out(item, "device");
    }
  }

  static void fill(index_entry& x, const struct stat& st) {
    x.mode = st.st_mode & 07777;
    x.uid = st.st_uid;
    x.gid = st.st_gid;
    x.mtime = st.st_mtim;
  }

  /// What is known of how a file was: its inode and time of change, from the index or from the
  /// statistics, if that still is how it is.
  bool is_untouched(const workspace::tree_item& item) {
    const auto& st = *item.info;
    auto seen = [&](const index_entry& x) {
      return x.inode == st.st_ino && same_time(x.ctime, st.st_ctim);
    };
    bool moved = old_.mode != (st.st_mode & 07777) || !same_time(old_.mtime, st.st_mtim)
                 || (S_ISREG(st.st_mode) && old_.type == entry_type::file
                     && old_.size != static_cast<uint64_t>(st.st_size));
    if (moved)
      return false;
    if (old_.inode != 0 && seen(old_))
      return true;
    if (upper_)
      return false;
    while (base_.stats && (!has_stat_ || compare_paths(stat_.path, item.path) < 0)) {
      auto more = base_.stats->next(stat_);
      has_stat_ = true;
      if (!more || !*more)
        base_.stats.reset();
    }
    return base_.stats && stat_.path == item.path && seen(stat_);
  }

  bool at_old(const workspace::tree_item& item) const {
    return has_old_ && old_.path == item.path;
  }

  /// Keeps the entry as it was.
  result<void> keep_old() {
    count(old_);
    if (out_ && old_.type == entry_type::directory && !old_.path.empty()) {
      leave_to(old_.path);
      above_.emplace_back(old_, false);
    }
    return next_old();
  }

  /// Puts a new entry, unless the index has the same.
  result<void> put(const index_entry& x, const workspace::tree_item& item) {
    bool known = at_old(item);
    bool same = known && same_entry(old_, x);
    if (same)
      return keep_old();
    tell(&x, known ? &old_ : nullptr);
    outcome_.changed = true;
    if (x.type != entry_type::directory)
      hidden_ = x.path;
    count(x);
    if (known)
      if (auto ok = next_old(); !ok)
        return ok;
    return write(x);
  }

  void count(const index_entry& x) {
    if (!digest_)
      return;
    switch (x.type) {
      case entry_type::directory: tree_.add_directory(x.path, x.mode); break;
      case entry_type::symlink: tree_.add_symlink(x.path, x.target); break;
      case entry_type::hard_link: tree_.add_hard_link(x.path, x.target); break;
      case entry_type::file:
        tree_.add_file(x.path, x.mode, x.size, x.content);
        ++outcome_.files;
        ++work_.files;
        outcome_.bytes += x.size;
        break;
      default: break;
    }
  }

  result<void> add_directory(const workspace::tree_item& item) {
    index_entry x;
    x.type = entry_type::directory;
    x.path = item.path;
    fill(x, *item.info);
    bool opaque = false;
    if (upper_ || !at_old(item) || !has_time(item)) {
      unique_fd fd{open_item(item, O_DIRECTORY)};
      if (!fd)
        return not_readable(item, errno);
      auto young = clock_of(item);
      x.xattrs = xattrs_of(fd.get(), item);
      opaque = upper_ && is_opaque(fd.get());
      set_stat(x, *item.info, young);
    } else {
      x.xattrs = old_.xattrs;
    }
    // It replaces what the overlay has there.
    if (upper_ && opaque && !(opaque_ && lies_below(x.path, *opaque_)))
      opaque_ = x.path;
    return put(x, item);
  }

  bool has_time(const workspace::tree_item& item) {
    const auto& st = *item.info;
    auto seen = [&](const index_entry& y) {
      return y.inode == st.st_ino && same_time(y.ctime, st.st_ctim);
    };
    return old_.type == entry_type::directory
           && ((old_.inode != 0 && seen(old_)) || is_untouched(item));
  }

  static void set_stat(index_entry& x, const struct stat& st, const timespec& young) {
    x.links = st.st_nlink;
    // Another change in the same tick of the clock would not be seen.
    if (!(st.st_ctim < young))
      return;
    x.inode = st.st_ino;
    x.ctime = st.st_ctim;
  }

  result<void> add_symlink(const workspace::tree_item& item) {
    if (at_old(item) && old_.type == entry_type::symlink && is_untouched(item))
      return keep_old();
    char target[PATH_MAX];
    auto young = clock_of(item);
    int dir = parent_of(item);
    auto n = dir < 0 ? -1 : ::readlinkat(dir, item.name, target, sizeof target);
    if (n < 0)
      return not_readable(item, dir < 0 ? -dir : errno);
    index_entry x;
    x.type = entry_type::symlink;
    x.path = item.path;
    fill(x, *item.info);
    x.target.assign(target, static_cast<size_t>(n));
    set_stat(x, *item.info, young);
    return put(x, item);
  }

  /// The names of a file with several.
  struct names {
    std::string first;
    bool written = false; ///< the file itself is in this layer: so are its other names
  };

  result<void> add_file(const workspace::tree_item& item) {
    const auto& st = *item.info;
    names* shared = nullptr;
    if (st.st_nlink > 1) {
      auto [known, is_new]
        = linked_.try_emplace({st.st_dev, st.st_ino}, names{std::string{item.path}, false});
      if (!is_new)
        return add_hard_link(item, known->second);
      shared = &known->second;
    }
    if (at_old(item) && old_.type == entry_type::file && is_untouched(item))
      return keep_old();
    auto young = file_clock();
    unique_fd fd{open_item(item, 0)};
    struct stat now;
    if (!fd || ::fstat(fd.get(), &now) != 0)
      return not_readable(item, errno);
    if (!S_ISREG(now.st_mode))
      return left_out(item, "not a file any more");
    index_entry x;
    x.type = entry_type::file;
    x.path = item.path;
    fill(x, now);
    x.size = static_cast<uint64_t>(now.st_size);
    x.xattrs = xattrs_of(fd.get(), item);
    set_stat(x, now, young);
    if (upper_ && has_metacopy(fd.get()))
      return unexpected(read_error(item.path, "the overlay copied up no contents"));
    auto map = map_of(fd.get(), now);
    if (map.holes > max_holes - holes_)
      return unexpected(
        read_error(item.path, "more than 64 GiB of holes in the files to be saved"));
    holes_ += map.holes;
    const auto* runs = map.data.empty() ? nullptr : &map.data;
    // Perhaps only the time of change moved: what the index has says whether it did. Of a file with
    // several names that may mean another name, and all of them belong in one layer.
    if (!shared && at_old(item) && looks_same(x)) {
      if (auto ok = read_content(item, fd.get(), x, runs, false); !ok)
        return ok;
      if (x.content == old_.content) {
        outcome_.hashed_again += x.size;
        return keep_old();
      }
      ::lseek(fd.get(), 0, SEEK_SET);
      x.content = {};
    }
    if ((x.mode & ~restored_file_mode) != 0)
      warn(item.path, "set-user-ID, set-group-ID and sticky bits are not given back");
    if (shared)
      shared->written = true;
    tell(&x, at_old(item) ? &old_ : nullptr);
    outcome_.changed = true;
    if (is_decided())
      return {};
    if (at_old(item))
      if (auto ok = next_old(); !ok)
        return ok;
    hidden_ = x.path;
    if (out_)
      if (auto ok = write_parents(x.path).and_then([&] { return out_->begin_file(x, runs); }); !ok)
        return ok;
    if (auto ok = read_content(item, fd.get(), x, runs, out_ != nullptr); !ok)
      return ok;
    if (out_)
      if (auto ok = out_->end_file(x); !ok)
        return ok;
    count(x);
    return {};
  }

  result<void> add_hard_link(const workspace::tree_item& item, const names& shared) {
    index_entry x;
    x.type = entry_type::hard_link;
    x.path = item.path;
    fill(x, *item.info);
    x.target = shared.first;
    bool same = at_old(item) && old_.type == entry_type::hard_link && old_.target == x.target
                && !shared.written;
    if (same)
      return keep_old();
    tell(&x, at_old(item) ? &old_ : nullptr);
    outcome_.changed = true;
    if (at_old(item))
      if (auto ok = next_old(); !ok)
        return ok;
    hidden_ = x.path;
    count(x);
    return write(x);
  }

  /// All but the contents.
  bool looks_same(const index_entry& x) const {
    return old_.type == x.type && old_.mode == x.mode && old_.size == x.size
           && old_.xattrs == x.xattrs && same_time(old_.mtime, x.mtime);
  }

  // -- contents

  /// Digests the content of a file and, if `store`, writes it; as many bytes as `x` says, whatever
  /// the file does meanwhile.
  result<void> read_content(const workspace::tree_item& item, int fd, index_entry& x,
                            const std::vector<extent>* map, bool store) {
    uint64_t at = 0;
    std::vector<extent> whole{{0, x.size}};
    bool ended = false;
    for (const auto& [offset, size] : map ? *map : whole) {
      if (auto ok = hash_zeros(offset - at); !ok)
        return ok;
      if (map && ::lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0)
        return not_readable(item, errno);
      for (auto left = size; left > 0;) {
        if (auto ok = work_.step(); !ok)
          return ok;
        auto want = static_cast<size_t>(std::min<uint64_t>(left, buffer_size));
        char* to = store ? out_->tar().space(want) : buffer();
        auto n = ended ? 0 : ::read(fd, to, want);
        if (n < 0 && errno == EINTR)
          continue;
        if (n < 0)
          return unexpected(read_error(item.path, std::strerror(errno)));
        if (n == 0) {
          if (!std::exchange(ended, true))
            warn(item.path, "shrank while it was read; padded");
          n = static_cast<ssize_t>(want);
          std::memset(to, 0, want);
          x.inode = 0;
        }
        work_.bytes += static_cast<uint64_t>(n);
        left -= static_cast<uint64_t>(n);
        if (!store)
          content_.update(to, static_cast<size_t>(n));
        else if (auto ok = out_->tar().put(static_cast<size_t>(n), &content_); !ok)
          return ok;
      }
      at = offset + size;
    }
    if (auto ok = hash_zeros(x.size - at); !ok)
      return ok;
    x.content = content_.finish();
    if (!store || x.size == 0 || ended)
      return {};
    struct stat after;
    if (::fstat(fd, &after) != 0 || !same_time(after.st_ctim, x.ctime)) {
      if (static_cast<uint64_t>(after.st_size) > x.size)
        warn(item.path, "grew while it was read; cut");
      x.inode = 0;
    }
    return {};
  }

  result<void> hash_zeros(uint64_t size) {
    static constexpr char zeros[64 * 1024] = {};
    work_.bytes += size;
    while (size > 0) {
      if (auto ok = work_.step(); !ok)
        return ok;
      auto n = std::min<uint64_t>(size, sizeof zeros);
      content_.update(zeros, n);
      size -= n;
    }
    return {};
  }

  char* buffer() {
    if (!buffer_)
      buffer_ = std::make_unique_for_overwrite<char[]>(buffer_size);
    return buffer_.get();
  }

  // -- extended attributes

  std::string xattrs_of(int fd, const workspace::tree_item& item) {
    auto size = ::flistxattr(fd, nullptr, 0);
    if (size <= 0)
      return {};
    std::string list(std::min<size_t>(static_cast<size_t>(size), max_list), '\0');
    size = ::flistxattr(fd, list.data(), list.size());
    if (size <= 0)
      return {};
    list.resize(static_cast<size_t>(size));
    std::vector<xattr> all;
    for (size_t at = 0; at < list.size();) {
      std::string name{list.c_str() + at};
      at += name.size() + 1;
      if (!is_kept_xattr(name)) {
        if (is_missed(name))
          warn(item.path, "extended attribute " + to_utf8(name) + " left out");
        continue;
      }
      xattr x{name, std::string(64 * 1024, '\0')};
      auto n = ::fgetxattr(fd, name.c_str(), x.value.data(), x.value.size());
      if (n < 0) {
        warn(item.path, "extended attribute " + to_utf8(name) + " left out");
        continue;
      }
      x.value.resize(static_cast<size_t>(n));
      all.push_back(std::move(x));
    }
    std::ranges::sort(all, {}, &xattr::name);
    return encode_xattrs(all);
  }

  /// Of what is not kept: whether somebody gave it to the file. An overlay notes some itself, and
  /// security modules do.
  bool is_missed(std::string_view name) const {
    return name.starts_with("user.") || name.starts_with("system.posix_acl_")
           || name == "security.capability"
           || (name.starts_with("trusted.") && !(upper_ && name.starts_with("trusted.overlay.")));
  }

  // What an overlay notes of itself is believed in the trusted namespace only: whoever works in the
  // tree can write attributes of the user's.

  static bool is_opaque(int fd) {
    char value[2];
    return ::fgetxattr(fd, "trusted.overlay.opaque", value, sizeof value) == 1 && value[0] == 'y';
  }

  static bool has_metacopy(int fd) {
    return ::fgetxattr(fd, "trusted.overlay.metacopy", nullptr, 0) >= 0;
  }

  // -- what cannot be taken

  result<void> not_readable(const workspace::tree_item& item, int err) {
    switch (err) {
      case ENOENT: return left_out(item, "vanished");
      case EINVAL: // of readlinkat
      case ENOTDIR:
      case ELOOP:
      case ENXIO: return left_out(item, "replaced");
      default: return unexpected(read_error(item.path, std::strerror(err)));
    }
  }

  result<void> left_out(const workspace::tree_item& item, std::string_view why) {
    warn(item.path, "left out: " + std::string{why});
    return drop_old(item);
  }

  /// What was at the place of `item` is gone.
  result<void> drop_old(const workspace::tree_item& item) {
    if (!at_old(item))
      return {};
    return remove(old_.path).and_then([&] { return next_old(); });
  }

  void warn(std::string_view path, const std::string& what) {
    if (outcome_.warnings.size() < max_warnings)
      outcome_.warnings.push_back(to_utf8(path) + ": " + what);
    else
      ++more_warnings_;
  }

  static constexpr size_t buffer_size = 256 * 1024;

  std::optional<upper_tree> upper_;
  capture_base base_;
  layer_writer* out_;
  job& work_;
  const change_listener& listener_;
  const bool digest_;
  std::unordered_set<std::string> skip_;
  index_entry old_;
  bool has_old_ = false;
  index_entry stat_;
  bool has_stat_ = false;
  /// The directories above the current path, and whether the layer has them.
  std::vector<std::pair<index_entry, bool>> above_;
  std::optional<std::string> hidden_; ///< what the index has below this is gone with it
  std::optional<std::string> opaque_; ///< nothing of the overlay's lower layers is seen below this
  std::map<std::pair<dev_t, ino_t>, names> linked_;
  /// Files that an overlay took from their other names, and the first of those, once it is known.
  std::unordered_map<std::string, std::string> broken_;
  int root_fd_ = -1;
  timespec looked_at_{};
  std::string parent_path_; ///< of an item that came without its folder
  unique_fd parent_fd_;
  tree_index tree_;
  uint64_t holes_ = 0; ///< bytes of them so far
  sha256 content_;
  std::unique_ptr<char[]> buffer_;
  capture_outcome outcome_;
  size_t more_warnings_ = 0;
  std::optional<error> failure_;
};

} // namespace

result<capture_outcome> capture(int root_fd, const std::optional<upper_tree>& upper,
                                const std::vector<std::string>& skip, capture_base base,
                                layer_writer* out, job& work, const change_listener& listener) {
  return capturer{upper, skip, std::move(base), out, work, listener, true}.run(root_fd);
}

std::unique_ptr<walk_ahead> look_ahead(int root_fd, const std::vector<std::string>& skip) {
  return std::make_unique<walk_ahead>(root_fd, [out = skipped(skip)](std::string_view path) {
    return !out.empty() && out.contains(std::string{path});
  });
}

result<bool> differs(int root_fd, const std::optional<upper_tree>& upper,
                     const std::vector<std::string>& skip, capture_base base, job& work) {
  const change_listener nobody;
  auto found = capturer{upper, skip, std::move(base), nullptr, work, nobody, false}.run(root_fd);
  return std::move(found).map([](const capture_outcome& x) { return x.changed; });
}

// -- statistics -----------------------------------------------------------------------------------

timespec file_clock() {
  timespec now;
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now;
}

void write_stats(int root_fd, const std::string& path, const timespec& before, zstd_pool& pool) {
  auto temporary = path + '.' + random_hex(8) + ".tmp";
  unique_fd fd{
    ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)};
  if (!fd)
    return;
  zstd_writer packed{pool, [&](const char* data, size_t size) -> result<void> {
                       if (workspace::write_all(fd.get(), data, size) < 0)
                         return unexpected(cannot_store(path, errno));
                       return {};
                     }};
  index_encoder index{[&](const char* data, size_t size) { return packed.write(data, size); }};
  result<void> ok;
  auto walked = workspace::walk(root_fd, [&](const workspace::tree_item& item) {
    const auto& st = *item.info;
    if (st.st_ctim < before && item.path.size() <= max_path_size) {
      index_entry x; // as a whiteout it has no more than this
      x.type = entry_type::whiteout;
      x.path = item.path;
      x.inode = st.st_ino;
      x.ctime = st.st_ctim;
      ok = index.add(x);
    }
    return ok ? workspace::walk_next::enter : workspace::walk_next::stop;
  });
  if (walked && ok)
    ok = index.finish().and_then([&] { return packed.finish(); });
  if (!walked || !ok || ::rename(temporary.c_str(), path.c_str()) != 0)
    ::unlink(temporary.c_str());
}

std::unique_ptr<index_decoder> read_stats(const std::string& path) {
  struct open_file final : byte_source {
    unique_fd fd;
    file_source source;
    explicit open_file(unique_fd x) : fd(std::move(x)), source(fd.get()) {}
    result<std::string_view> next() override {
      return source.next();
    }
  };
  unique_fd fd{::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
  if (!fd)
    return nullptr;
  return std::make_unique<index_decoder>(
    std::make_unique<zstd_source>(std::make_unique<open_file>(std::move(fd))));
}

} // namespace troupe::snapshot
