#include "workspace/file_errors.hpp"
#include "workspace/materialize.hpp"
#include "workspace/placed_file.hpp"
#include "workspace/tree.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <linux/openat2.h>
#include <memory>
#include <mutex>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

// Files and folders of the host: where they may lie, how they are opened without following a link,
// and how they are copied.

namespace troupe::workspace {

namespace {

constexpr int file_flags = O_RDONLY | O_NONBLOCK | O_NOCTTY;

error source_failure(const entry& x, const std::string& src, std::string_view reason,
                     std::string_view child = {}) {
  bool file = x.kind == entry_kind::local_file;
  auto e = make_error(
    file ? errc::local_file_read_error : errc::local_dir_read_error, op::materialize,
    (file ? "failed to read local file artifact: " : "failed to read local dir artifact: ") + src);
  e.with("src", src).with("reason", reason);
  if (!child.empty())
    e.with("child", child);
  return e;
}

error cancelled() {
  return make_error(errc::cancelled, op::materialize, "cancelled");
}

std::string join(const std::string& folder, const std::string& name) {
  return folder == "." ? name : folder.ends_with('/') ? folder + name : folder + '/' + name;
}

// -- where a source may lie -----------------------------------------------------------------------

using components = std::vector<std::string>;

/// Lexically normal: "." and ".." are gone.
components components_of(const std::string& path) {
  components parts;
  for (size_t begin = 0; begin < path.size();) {
    auto end = std::min(path.find('/', begin), path.size());
    auto part = path.substr(begin, end - begin);
    begin = end + 1;
    if (part == ".." && !parts.empty())
      parts.pop_back();
    else if (!part.empty() && part != "." && part != "..")
      parts.push_back(std::move(part));
  }
  return parts;
}

std::string absolute_path(const components& parts) {
  std::string path;
  for (const auto& part : parts)
    path += '/' + part;
  return path.empty() ? "/" : path;
}

bool inside(const components& parts, const components& folder) {
  return parts.size() >= folder.size() && std::equal(folder.begin(), folder.end(), parts.begin());
}

/// Components of a path with its links resolved; nullopt if it is not there.
std::optional<components> resolved(const std::string& path) {
  std::unique_ptr<char, decltype(&std::free)> real{::realpath(path.c_str(), nullptr), &std::free};
  if (!real)
    return std::nullopt;
  return components_of(real.get());
}

/// A source that the policy lets through.
struct source_path {
  std::string absolute;
  std::string start; ///< trusted, from here on no link is followed
  components parts;  ///< below `start`
};

result<source_path> locate_source(const local_source_policy& policy, const entry& x,
                                  const std::vector<path_grant>& grants) {
  auto src = x.src.value_or("");
  bool relative = !src.starts_with('/');
  auto base = components_of(policy.base_dir);
  auto parts = components_of(relative ? policy.base_dir + '/' + src : src);
  source_path found{absolute_path(parts), "/", parts};
  auto outside = [&] {
    auto e = source_failure(x, found.absolute, "outside_base_dir");
    e.with("base_dir", policy.base_dir);
    std::vector<std::string> paths;
    for (const auto& grant : grants)
      paths.push_back(grant.path);
    if (!paths.empty())
      e.with("extra_path_grants", paths);
    if (policy.base_dir.empty())
      e.with("detail", policy.roots.empty()
                         ? "the server's configuration lists no local source roots"
                         : "the server's configuration has no base folder for relative paths");
    return unexpected(std::move(e));
  };
  if (policy.base_dir.empty() && (policy.roots.empty() || relative))
    return outside();
  if (src.find('\0') != std::string::npos)
    return unexpected(source_failure(x, found.absolute, "invalid_name"));
  if (!policy.base_dir.empty() && inside(parts, base)) {
    if (relative) {
      found.start = policy.base_dir;
      found.parts.erase(found.parts.begin(), found.parts.begin() + base.size());
    }
    return found;
  }
  for (const auto& root : policy.roots)
    if (auto folder = resolved(root); folder && inside(parts, *folder))
      return found;
  for (const auto& grant : grants) {
    auto folder = resolved(grant.host_path.value_or(grant.path));
    if (folder && folder->empty())
      return unexpected(make_error(errc::sandbox_config_invalid, op::materialize,
                                   "sandbox path grant path must not resolve to filesystem root")
                          .with("path", grant.path));
    if (folder && inside(parts, *folder))
      return found;
  }
  return outside();
}

// -- opening --------------------------------------------------------------------------------------

/// Why a component could not be opened without following links.
std::string_view refusal_reason(int dir_fd, const std::string& name, int err) {
  struct stat st;
  if (::fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
    return "symlink_not_supported";
  switch (err) {
    case ENOENT: return "path_not_found";
    case EACCES:
    case ENOTDIR:
    case EMFILE:
    case ENFILE: return errno_reason(err);
    default: return "path_changed_during_copy";
  }
}

/// Opens each component relative to the one before; the last with `flags`.
result<unique_fd> open_source(const source_path& source, const entry& x, int flags) {
  unique_fd at{::open(source.start.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  if (!at)
    return unexpected(source_failure(x, source.absolute, "path_not_found"));
  auto parts = source.parts;
  if (parts.empty())
    parts.emplace_back(".");
  std::string label;
  for (size_t i = 0; i < parts.size(); ++i) {
    bool last = i + 1 == parts.size();
    label += (i > 0 ? "/" : "") + parts[i];
    unique_fd next{::openat(at.get(), parts[i].c_str(),
                            (last ? flags : O_PATH | O_DIRECTORY) | O_NOFOLLOW | O_CLOEXEC)};
    if (!next) {
      auto reason = refusal_reason(at.get(), parts[i], errno);
      if (last && reason == "path_not_found" && x.kind == entry_kind::local_file)
        reason = "path_changed_during_copy"; // the reference's word for a missing file
      return unexpected(source_failure(x, source.absolute, reason, label));
    }
    at = std::move(next);
  }
  return at;
}

// -- copying --------------------------------------------------------------------------------------

/// Copies files one after the other, each hashed on the way.
class hashing_copier {
public:
  hashing_copier() : digest_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {}

  /// Returns the SHA-256 of what was copied. `src` is for errors.
  result<std::string> copy(int in_fd, placed_file& out, const std::string& src,
                           const std::stop_token& stop) {
    auto checksum_failure = [&](const std::string& detail) {
      return unexpected(make_error(errc::local_checksum_error, op::materialize,
                                   "failed to checksum local artifact: " + src)
                          .with("src", src)
                          .with("detail", detail));
    };
    // Fetched once: a look-up by EVP_sha256() costs more than hashing a small file.
    static const EVP_MD* const sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    if (EVP_DigestInit_ex(digest_.get(), sha256, nullptr) != 1)
      return checksum_failure("no SHA-256");
    for (;;) {
      if (stop.stop_requested())
        return unexpected(cancelled());
      auto n = ::read(in_fd, buffer_.get(), buffer_size);
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return checksum_failure(errno_text(errno));
      if (n == 0)
        break;
      EVP_DigestUpdate(digest_.get(), buffer_.get(), static_cast<size_t>(n));
      if (auto done = out.append(buffer_.get(), static_cast<size_t>(n)); !done)
        return unexpected(std::move(done.error()));
    }
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_DigestFinal_ex(digest_.get(), sum, &size);
    std::string hex;
    for (unsigned i = 0; i < size; ++i) {
      hex += "0123456789abcdef"[sum[i] >> 4];
      hex += "0123456789abcdef"[sum[i] & 15];
    }
    return hex;
  }

private:
  static constexpr size_t buffer_size = 256 * 1024;

  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest_;
  std::unique_ptr<char[]> buffer_ = std::make_unique_for_overwrite<char[]>(buffer_size);
};

bool is_regular(int fd) {
  struct stat st;
  return ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/// Something in a source folder.
struct source_item {
  std::string path; ///< relative to the folder
  uint32_t mode = 0;
};

struct source_listing {
  std::vector<source_item> folders; ///< parents first
  std::vector<source_item> files;
};

/// Everything in a source folder. Links are refused; fifos, sockets and devices are passed over.
result<source_listing> list_source(int fd, const entry& x, const std::string& src) {
  source_listing found;
  std::string link;
  auto done = walk(fd, [&](const tree_item& item) {
    source_item copy{std::string{item.path}, item.info->st_mode & 0777};
    if (S_ISLNK(item.info->st_mode)) {
      link = std::move(copy.path);
      return walk_next::stop;
    }
    if (S_ISDIR(item.info->st_mode))
      found.folders.push_back(std::move(copy));
    else if (S_ISREG(item.info->st_mode))
      found.files.push_back(std::move(copy));
    return walk_next::enter;
  });
  if (!done)
    return unexpected(
      source_failure(x, src, "unreadable").with("detail", std::move(done.error().message)));
  if (!link.empty())
    return unexpected(source_failure(x, src, "symlink_not_supported", link));
  std::ranges::sort(found.files, {}, &source_item::path);
  return found;
}

/// One copy of a folder's files by several threads, which take them in turn. The first failure ends
/// it.
class folder_copy {
public:
  folder_copy(int source_fd, const std::string& src, int root_fd, const std::string& root,
              const std::string& destination, const entry& x, std::vector<source_item> files,
              std::stop_token stop)
    : source_fd_(source_fd), src_(src), root_fd_(root_fd), root_(root), destination_(destination),
      entry_(x), files_(std::move(files)), stop_(std::move(stop)), copied_(files_.size()) {}

  result<std::vector<materialized_file>> run(int threads,
                                             const std::function<void(uint64_t)>& report) {
    {
      std::vector<std::jthread> helpers;
      try {
        while (std::ssize(helpers) < threads - 1)
          helpers.emplace_back([this] { work({}); });
      } catch (const std::system_error&) {
        // No more threads to be had: those that there are do it.
      }
      work(report);
    }
    if (failure_)
      return unexpected(std::move(*failure_));
    if (report)
      report(copied_.size());
    return std::move(copied_);
  }

private:
  static constexpr size_t batch = 16; ///< files taken at once, mostly of the same folder

  void work(const std::function<void(uint64_t)>& report) {
    hashing_copier copier;
    for (;;) {
      auto begin = next_.fetch_add(batch);
      if (begin >= files_.size() || failed_)
        return;
      auto end = std::min(begin + batch, files_.size());
      for (auto i = begin; i < end; ++i)
        if (auto done = copy(copier, i); !done)
          return fail(std::move(done.error()));
      auto total = done_.fetch_add(end - begin) + (end - begin);
      if (report && total < files_.size())
        report(total);
    }
  }

  result<void> copy(hashing_copier& copier, size_t i) {
    const auto& file = files_[i];
    // The listing saw a regular file in real folders; anything else now is somebody's change.
    unique_fd in{open_beneath(source_fd_, file.path, file_flags, 0, RESOLVE_NO_SYMLINKS)};
    if (!in || !is_regular(in.get())) {
      auto reason = in.get() == -EACCES || in.get() == -EMFILE ? errno_reason(-in.get())
                                                               : "path_changed_during_copy";
      return unexpected(source_failure(entry_, src_, reason, file.path));
    }
    auto path = join(destination_, file.path);
    auto out = placed_file::create(root_fd_, path, file.mode);
    if (!out)
      return unexpected(std::move(out.error()));
    auto sum = copier.copy(in.get(), *out, join(src_, file.path), stop_);
    if (!sum)
      return unexpected(std::move(sum.error()));
    copied_[i] = {join(root_, path), std::move(*sum)};
    return out->finish();
  }

  void fail(error e) {
    std::lock_guard lock{mutex_};
    if (!failure_)
      failure_ = std::move(e);
    failed_ = true;
  }

  const int source_fd_;
  const std::string& src_;
  const int root_fd_;
  const std::string& root_;
  const std::string& destination_;
  const entry& entry_;
  const std::vector<source_item> files_;
  const std::stop_token stop_;

  std::vector<materialized_file> copied_; ///< each thread writes its own elements
  std::atomic<size_t> next_ = 0;
  std::atomic<size_t> done_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::optional<error> failure_; ///< under `mutex_`
};

result<void> make_folder(int root_fd, const std::string& path, uint32_t mode) {
  unique_fd fd{open_or_make_beneath(root_fd, path)};
  int err = fd ? change_mode(fd.get(), mode) : fd.get();
  if (err < 0)
    return unexpected(write_failure(-err, path, path));
  return {};
}

int thread_count(std::optional<int32_t> parallel, size_t files) {
  constexpr int32_t bound = 8;
  constexpr size_t worth_a_thread = 64;
  auto wanted = std::clamp(parallel.value_or(bound), 1, bound);
  return static_cast<int>(
    std::min<size_t>(static_cast<size_t>(wanted), 1 + files / worth_a_thread));
}

} // namespace

result<materialized_file> copy_local_file(const local_source_policy& policy, int root_fd,
                                          const std::string& root, const std::string& destination,
                                          const entry& x, const std::vector<path_grant>& grants,
                                          std::stop_token stop) {
  auto source = locate_source(policy, x, grants);
  if (!source)
    return unexpected(std::move(source.error()));
  auto in = open_source(*source, x, file_flags);
  if (!in)
    return unexpected(std::move(in.error()));
  if (!is_regular(in->get()))
    return unexpected(source_failure(x, source->absolute, "path_changed_during_copy"));
  auto out = placed_file::create(root_fd, destination, x.permissions.mode());
  if (!out)
    return unexpected(std::move(out.error()));
  auto sum = hashing_copier{}.copy(in->get(), *out, source->absolute, stop);
  if (!sum)
    return unexpected(std::move(sum.error()));
  auto done = out->finish();
  if (done && x.group)
    done = apply_metadata(root_fd, destination, x);
  if (!done)
    return unexpected(std::move(done.error()));
  return materialized_file{join(root, destination), std::move(*sum)};
}

result<std::vector<materialized_file>>
copy_local_dir(const local_source_policy& policy, int root_fd, const std::string& root,
               const std::string& destination, const entry& x,
               const std::vector<path_grant>& grants, std::optional<int32_t> parallel,
               std::stop_token stop, const std::function<void(uint64_t files)>& report) {
  std::vector<materialized_file> copied;
  source_listing found;
  if (x.src) {
    auto source = locate_source(policy, x, grants);
    if (!source)
      return unexpected(std::move(source.error()));
    auto in = open_source(*source, x, O_RDONLY | O_DIRECTORY);
    if (!in)
      return unexpected(std::move(in.error()));
    auto listed = list_source(in->get(), x, source->absolute);
    if (!listed)
      return unexpected(std::move(listed.error()));
    found = std::move(*listed);
    for (const auto& folder : found.folders)
      if (auto done = make_folder(root_fd, join(destination, folder.path), folder.mode | 0700);
          !done)
        return unexpected(std::move(done.error()));
    auto threads = thread_count(parallel, found.files.size());
    folder_copy copy{in->get(), source->absolute,       root_fd, root, destination,
                     x,         std::move(found.files), stop};
    auto files = copy.run(threads, report);
    if (!files)
      return files;
    copied = std::move(*files);
  }
  // Only now and from below, as a folder may not be open to its own owner.
  std::ranges::reverse(found.folders);
  for (const auto& folder : found.folders)
    if ((folder.mode & 0700) != 0700)
      if (auto done = make_folder(root_fd, join(destination, folder.path), folder.mode); !done)
        return unexpected(std::move(done.error()));
  if (auto done = make_entry_directory(root_fd, destination, x); !done)
    return unexpected(std::move(done.error()));
  return copied;
}

} // namespace troupe::workspace
