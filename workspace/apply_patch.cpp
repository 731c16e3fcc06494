#include "workspace/apply_patch.hpp"

#include "workspace/file_errors.hpp"
#include "workspace/file_ops.hpp"
#include "workspace/patch_diff.hpp"
#include "workspace/tree.hpp"
#include "workspace/unicode_text.hpp"
#include "workspace/write_files.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <map>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace troupe::workspace {

namespace {

/// Each staged file holds descriptors.
constexpr size_t max_operations = 1000;

constexpr uint64_t max_text_bytes = 32ULL * 1024 * 1024;

/// Of all texts that one patch reads and makes.
constexpr uint64_t max_total_bytes = 128ULL * 1024 * 1024;
constexpr uint64_t max_total_lines = 10 * max_patch_lines;

/// As many links in a row as the kernel follows.
constexpr int max_links = 40;

error too_large(const char* what, uint64_t limit) {
  return make_error(errc::payload_too_large, op::apply_patch, what)
    .with("limit", static_cast<int64_t>(limit));
}

// -- paths ----------------------------------------------------------------------------------------

struct patch_path {
  std::string asked;
  std::string relative; ///< beneath the root
  std::string shown;    ///< absolute, for errors
  std::string display;  ///< for the model
};

error path_error(std::string text, std::string_view path, std::string_view reason) {
  return make_error(errc::apply_patch_invalid_path, op::apply_patch, std::move(text))
    .with("path", path)
    .with("reason", reason);
}

bool is_absolute(std::string_view path) {
  return path.starts_with('/') || path.starts_with('\\') || starts_with_drive(path);
}

/// What a path is for, and with that how an error names one that no file can have.
enum class path_use : uint8_t { read, write };

result<patch_path> resolve(const path_policy& policy, const std::string& path,
                           const std::string& cwd, path_use use) {
  if (path.size() > PATH_MAX) {
    std::string start{head_of(path, PATH_MAX)};
    return unexpected(use == path_use::read ? read_failure(ENAMETOOLONG, start, start)
                                            : write_failure(ENAMETOOLONG, start, start));
  }
  if (trim(path).empty())
    return unexpected(path_error("apply_patch path must be non-empty", path, "empty"));
  const bool from_cwd = !cwd.empty() && !is_absolute(path);
  auto found = policy.resolve(from_cwd ? join_path(cwd, path) : path, false);
  if (!found || found->grant >= 0)
    return unexpected(
      path_error("apply_patch path must not escape root: " + path, path, "escape_root"));
  patch_path out{path, found->relative, found->absolute, found->relative};
  if (from_cwd)
    out.display = shown_path(cwd, out.relative);
  return out;
}

path_use use_of(const patch_operation& x) {
  return x.kind == patch_kind::create_file ? path_use::write : path_use::read;
}

// -- what a patch makes of the files --------------------------------------------------------------

/// What a patch has read and made so far.
class consumption {
public:
  result<void> add(std::string_view text) {
    bytes_ += text.size();
    lines_ += static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
    if (bytes_ > max_total_bytes)
      return unexpected(too_large("the files of one patch are too large", max_total_bytes));
    if (lines_ > max_total_lines)
      return unexpected(too_large("the files of one patch have too many lines", max_total_lines));
    return {};
  }

private:
  uint64_t bytes_ = 0;
  uint64_t lines_ = 0;
};

struct text_file {
  std::string text;
  std::optional<uint32_t> mode; ///< nullopt: as any new file
};

/// The files as a patch will have left them, on top of those that are there. Changes nothing.
class plan {
public:
  plan(int root_fd, consumption& used) : root_fd_(root_fd), used_(used) {}

  result<text_file> read(const patch_path& path) {
    if (auto* known = find(path)) {
      if (!known->text)
        return unexpected(read_failure(ENOENT, path.shown, path.relative));
      return text_file{*known->text, known->mode};
    }
    auto file = open(path);
    if (!file)
      return unexpected(std::move(file.error()));
    auto text = read_text(*file, path);
    if (!text)
      return unexpected(std::move(text.error()));
    return text_file{std::move(*text), file->mode};
  }

  /// Succeeds if there is a file to read.
  result<void> check(const patch_path& path) {
    auto* known = find(path);
    if (known != nullptr && known->text)
      return {};
    if (known != nullptr)
      return unexpected(read_failure(ENOENT, path.shown, path.relative));
    auto file = open(path);
    return file ? result<void>{} : unexpected(std::move(file.error()));
  }

  result<void> write(const patch_path& path, text_file file) {
    if (auto counted = used_.add(file.text); !counted)
      return counted;
    auto at = locate(path, true);
    auto [i, added] = edits_.try_emplace(at.key);
    auto& x = i->second;
    x.fresh = x.fresh || (!added && !x.text);
    x.path = std::move(at.path);
    x.shown = path.shown;
    x.text = std::move(file.text);
    x.mode = file.mode;
    return {};
  }

  void remove(const patch_path& path) {
    auto at = locate(path, false);
    auto& x = edits_[at.key];
    x.path = std::move(at.path);
    x.shown = path.shown;
    x.text.reset();
  }

  /// Whether both lead to one file.
  bool same(const patch_path& a, const patch_path& b) {
    return locate(a, true).key == locate(b, true).key;
  }

  result<void> carry_out() && {
    std::vector<file_edit> edits;
    edits.reserve(edits_.size());
    for (auto& [key, edit] : edits_)
      edits.push_back(std::move(edit));
    return write_files(root_fd_, edits);
  }

private:
  struct place {
    std::string key; ///< of the folder and the name in it, so that all ways there are one
    std::string path;
  };

  result<open_file> open(const patch_path& path) const {
    auto file = open_for_read(root_fd_, path.relative, path.shown);
    if (!file && file.error().code == errc::invalid_manifest_path)
      return unexpected(escape_failure(path.asked));
    return file;
  }

  /// Where `path` leads. `follow`: also if it ends in links, except for one that the patch removes.
  place locate(const patch_path& path, bool follow) {
    auto at = path.relative;
    for (int links = 0; links <= max_links && at.size() < PATH_MAX; ++links) {
      auto [parent, name] = split_last(at);
      auto rest = name;
      unique_fd dir{open_beneath(root_fd_, parent, O_PATH | O_DIRECTORY)};
      while (!dir && parent != ".") {
        auto up = split_last(parent);
        rest.insert(0, up.name + '/');
        parent = up.parent;
        dir.reset(open_beneath(root_fd_, parent, O_PATH | O_DIRECTORY));
      }
      struct stat st {};
      ::fstat(dir.get(), &st);
      auto key = std::to_string(st.st_dev) + ':' + std::to_string(st.st_ino) + '/' + rest;
      char target[PATH_MAX];
      auto size = follow && rest == name && edits_.count(key) == 0
                    ? ::readlinkat(dir.get(), name.c_str(), target, sizeof target)
                    : -1;
      if (size <= 0 || target[0] == '/') // an absolute link is refused at the moment of use
        return {std::move(key), std::move(at)};
      at = parent + '/' + std::string{target, static_cast<size_t>(size)};
    }
    return {at, at};
  }

  const file_edit* find(const patch_path& path) {
    auto i = edits_.find(locate(path, true).key);
    return i == edits_.end() ? nullptr : &i->second;
  }

  result<std::string> read_text(const open_file& file, const patch_path& path) {
    std::string text;
    for (ssize_t n = 1; n != 0;) {
      const auto have = text.size();
      if (have > max_text_bytes)
        return unexpected(too_large("a file is too large for apply_patch", max_text_bytes)
                            .with("path", path.shown));
      // One byte more than there should be shows the end. The file may be growing.
      text.resize(std::max<size_t>(have + 4096, std::min(file.size, max_text_bytes) + 1));
      n = ::pread(file.fd.get(), text.data() + have, text.size() - have, static_cast<off_t>(have));
      if (n < 0 && errno != EINTR)
        return unexpected(read_failure(errno, path.shown, path.relative));
      text.resize(have + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    }
    if (auto counted = used_.add(text); !counted)
      return unexpected(std::move(counted.error()));
    return text;
  }

  int root_fd_;
  consumption& used_;
  std::map<std::string, file_edit> edits_;
};

// -- operations -----------------------------------------------------------------------------------

/// Applies operations to a plan.
class patcher {
public:
  patcher(const path_policy& policy, const patch_options& options, plan& files)
    : policy_(policy), options_(options), files_(files) {}

  result<void> apply(const patch_operation& x, patch_outcome& out) {
    auto path = resolve(policy_, x.path, options_.cwd, use_of(x));
    if (!path)
      return unexpected(std::move(path.error()));
    if (x.kind == patch_kind::delete_file)
      return remove(*path, out);
    if (!x.diff)
      return unexpected(make_error(errc::apply_patch_invalid_diff, op::apply_patch,
                                   "Missing diff for operation type "
                                     + std::string{to_string(x.kind)} + " on path " + x.path)
                          .with("path", x.path));
    return x.kind == patch_kind::create_file ? create(x, *path, out) : update(x, *path, out);
  }

private:
  result<void> remove(const patch_path& path, patch_outcome& out) {
    if (auto there = files_.check(path); !there)
      return unexpected(missing_file(std::move(there.error()), path.display));
    files_.remove(path);
    report(out, "Deleted " + path.display, {path.relative, file_change::deleted, std::nullopt});
    return {};
  }

  result<void> create(const patch_operation& x, const patch_path& path, patch_outcome& out) {
    auto text = diff_of(x, "", diff_mode::create);
    if (!text)
      return unexpected(std::move(text.error()));
    report(out, "Created " + path.display, {path.relative, file_change::created, std::nullopt});
    return files_.write(path, {std::move(*text), std::nullopt});
  }

  result<void> update(const patch_operation& x, const patch_path& path, patch_outcome& out) {
    auto file = files_.read(path);
    if (!file)
      return unexpected(missing_file(std::move(file.error()), x.path));
    if (to_utf8(file->text) != file->text)
      return unexpected(make_error(errc::apply_patch_decode_error, op::apply_patch,
                                   "apply_patch could not decode file: " + path.display)
                          .with("path", path.display));
    auto text = diff_of(x, file->text, diff_mode::update);
    if (!text)
      return unexpected(std::move(text.error()));
    file->text = std::move(*text);
    auto line = "Updated " + path.display;
    if (!x.move_to) {
      report(out, line, {path.relative, file_change::updated, std::nullopt});
      return files_.write(path, std::move(*file));
    }
    auto target = resolve(policy_, *x.move_to, options_.cwd, path_use::write);
    if (!target)
      return unexpected(std::move(target.error()));
    report(out, line + "\nMoved " + path.display + " to " + target->display,
           {path.relative, file_change::updated, target->relative});
    const bool stays = files_.same(path, *target);
    if (auto done = files_.write(*target, std::move(*file)); !done)
      return done;
    if (!stays)
      files_.remove(path);
    return {};
  }

  static result<std::string> diff_of(const patch_operation& x, std::string_view text,
                                     diff_mode mode) {
    auto made = apply_diff(text, *x.diff, mode);
    if (!made)
      made.error().with("path", x.path);
    else if (made->size() > max_text_bytes)
      return unexpected(
        too_large("a file is too large for apply_patch", max_text_bytes).with("path", x.path));
    return made;
  }

  static error missing_file(error e, const std::string& path) {
    if (e.code != errc::workspace_read_not_found)
      return e;
    return make_error(errc::apply_patch_file_not_found, op::apply_patch,
                      "apply_patch missing file: " + path)
      .with("path", path);
  }

  static void report(patch_outcome& out, const std::string& line, patched_file file) {
    out.text.append(out.text.empty() ? "" : "\n").append(line);
    out.files.push_back(std::move(file));
  }

  const path_policy& policy_;
  const patch_options& options_;
  plan& files_;
};

result<void> check_paths(const path_policy& policy, const std::vector<patch_operation>& operations,
                         const patch_options& options) {
  for (const auto& x : operations) {
    auto path = resolve(policy, x.path, options.cwd, use_of(x));
    if (path && x.move_to)
      path = resolve(policy, *x.move_to, options.cwd, path_use::write);
    if (!path)
      return unexpected(std::move(path.error()));
  }
  return {};
}

} // namespace

std::string_view to_string(file_change change) {
  switch (change) {
    case file_change::created: return "created";
    case file_change::updated: return "updated";
    case file_change::deleted: break;
  }
  return "deleted";
}

result<patch_outcome> apply_patch(int root_fd, const path_policy& policy,
                                  const std::vector<patch_operation>& operations,
                                  const patch_options& options) {
  if (operations.size() > max_operations)
    return unexpected(too_large("too many operations in one patch", max_operations));
  if (options.paths_first)
    if (auto checked = check_paths(policy, operations, options); !checked)
      return unexpected(std::move(checked.error()));
  patch_outcome out;
  consumption used;
  // A batch is what takes effect together.
  const size_t batch = options.all_or_nothing ? operations.size() : 1;
  for (size_t i = 0; i < operations.size();) {
    plan files{root_fd, used};
    patcher work{policy, options, files};
    for (size_t end = i + batch; i < end; ++i)
      if (auto done = work.apply(operations[i], out); !done)
        return unexpected(std::move(done.error()));
    if (auto done = std::move(files).carry_out(); !done)
      return unexpected(std::move(done.error()));
  }
  return out;
}

} // namespace troupe::workspace
