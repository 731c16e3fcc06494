#include "workspace/file_errors.hpp"
#include "workspace/materialize.hpp"
#include "workspace/placed_file.hpp"
#include "workspace/tree.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

// Git repositories: what is run to fetch one, and how what was fetched gets into the workspace.
// Both the entry and the repository are hostile.

namespace troupe::workspace {

namespace {

bool looks_like_commit(const std::string& ref) {
  return ref.size() >= 7 && ref.size() <= 40
         && std::ranges::all_of(ref, [](unsigned char c) { return std::isxdigit(c) != 0; });
}

/// Renames `name` in `from_fd` to `destination`, which must not be there.
bool move_tree(int from_fd, const std::string& name, int root_fd, const std::string& destination) {
  struct stat st; // a link would lead away from what it was found through
  if (::fstatat(from_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(st.st_mode))
    return false;
  auto [parent, last] = split_last(destination);
  unique_fd to{open_or_make_beneath(root_fd, parent)};
  return to && ::renameat2(from_fd, name.c_str(), to.get(), last.c_str(), RENAME_NOREPLACE) == 0;
}

result<void> copy_file(const tree_item& item, int root_fd, const std::string& destination) {
  unique_fd in{
    ::openat(item.parent_fd, item.name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)};
  struct stat st;
  if (!in || ::fstat(in.get(), &st) != 0)
    return unexpected(read_failure(errno, destination, destination));
  if (!S_ISREG(st.st_mode))
    return {};
  auto out = placed_file::create(root_fd, destination, st.st_mode & 0777);
  if (!out)
    return unexpected(std::move(out.error()));
  if (int err = copy_data(in.get(), out->fd()); err < 0)
    return unexpected(write_failure(-err, destination, destination));
  return out->finish();
}

result<void> copy_link(const tree_item& item, int root_fd, const std::string& destination) {
  char target[PATH_MAX];
  auto size = ::readlinkat(item.parent_fd, item.name, target, sizeof target - 1);
  if (size < 0)
    return unexpected(read_failure(errno, destination, destination));
  target[size] = '\0';
  auto [parent, name] = split_last(destination);
  unique_fd dir{open_or_make_beneath(root_fd, parent)};
  int err = dir ? 0 : -dir.get();
  if (dir) {
    ::unlinkat(dir.get(), name.c_str(), 0);
    err = ::symlinkat(target, dir.get(), name.c_str()) == 0 ? 0 : errno;
  }
  if (err > 0)
    return unexpected(write_failure(err, destination, destination));
  return {};
}

/// Copies the tree over what is at `destination`.
result<void> merge_tree(int from_fd, int root_fd, const std::string& destination) {
  auto copied = make_directories(root_fd, destination);
  if (!copied)
    return copied;
  auto walked = walk(from_fd, [&](const tree_item& item) {
    auto path = destination + '/' + std::string{item.path};
    if (S_ISDIR(item.info->st_mode))
      copied = make_directories(root_fd, path, (item.info->st_mode & 0777) | 0700);
    else if (S_ISLNK(item.info->st_mode))
      copied = copy_link(item, root_fd, path);
    else if (S_ISREG(item.info->st_mode))
      copied = copy_file(item, root_fd, path);
    return copied ? walk_next::enter : walk_next::stop;
  });
  return walked ? copied : walked;
}

} // namespace

result<std::string> check_git_subpath(const entry& x) {
  auto subpath = x.subpath.value_or("");
  auto refuse = [&](const char* reason) {
    return unexpected(
      make_error(errc::git_subpath_error, op::materialize,
                 "git repo subpath must be a relative path inside the repository: " + subpath)
        .with("repo", x.repo)
        .with("subpath", subpath)
        .with("reason", reason));
  };
  if (subpath.empty())
    return subpath;
  auto blank = [](unsigned char c) { return std::isspace(c) != 0; };
  if (std::ranges::all_of(subpath, blank))
    return refuse("empty");
  if (subpath.starts_with('/'))
    return refuse("absolute");
  bool drive = subpath.size() > 1 && subpath[1] == ':'
               && std::isalpha(static_cast<unsigned char>(subpath[0])) != 0;
  if (drive || subpath.find('\\') != std::string::npos)
    return refuse("windows_path");
  std::string normal;
  for (size_t begin = 0; begin < subpath.size();) {
    auto end = std::min(subpath.find('/', begin), subpath.size());
    auto part = subpath.substr(begin, end - begin);
    begin = end + 1;
    if (part == "..")
      return refuse("parent_traversal");
    if (!part.empty() && part != ".")
      normal += (normal.empty() ? "" : "/") + part;
  }
  return normal;
}

std::string git_url(const entry& x) {
  return "https://" + x.host + '/' + x.repo + ".git";
}

std::vector<std::vector<std::vector<std::string>>> git_attempts(const entry& x,
                                                                const std::string& tmp) {
  // Nothing of the entry can be taken for an option: "--", "--branch=" or hexadecimal digits go
  // before or are all of it. `ext` URLs, which a redirect or a configuration could bring in, run
  // commands.
  auto git = [](std::vector<std::string> rest) {
    rest.insert(rest.begin(), {"git", "-c", "protocol.ext.allow=never"});
    return rest;
  };
  auto url = git_url(x);
  std::vector<std::vector<std::vector<std::string>>> attempts;
  if (looks_like_commit(x.ref))
    attempts.push_back({
      git({"init", "--", tmp}),
      git({"-C", tmp, "remote", "add", "--", "origin", url}),
      git({"-C", tmp, "fetch", "--depth", "1", "--no-tags", "--", "origin", x.ref}),
      git({"-C", tmp, "checkout", "--detach", "FETCH_HEAD"}),
    });
  attempts.push_back(
    {git({"clone", "--depth", "1", "--no-tags", "--branch=" + x.ref, "--", url, tmp})});
  return attempts;
}

result<void> adopt_git_tree(int root_fd, const std::string& destination, const std::string& tmp,
                            const std::string& subpath) {
  auto failure = [&](std::string_view reason, const std::string& text) {
    return unexpected(make_error(errc::git_copy_error, op::materialize, "copy from git repo failed")
                        .with("src_root", subpath.empty() ? tmp : tmp + '/' + subpath)
                        .with("dest", destination)
                        .with("reason", reason)
                        .with("stderr", text));
  };
  auto [folder, name] = split_last(tmp);
  unique_fd beside{::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  unique_fd top{
    ::openat(beside.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  if (!top)
    return failure("not_found", errno_text(errno));
  unique_fd from{open_beneath(top.get(), subpath, O_RDONLY | O_DIRECTORY)};
  if (!from) {
    int err = -from.get();
    bool missing = err == ENOENT || err == ENOTDIR;
    return failure(missing ? "not_found" : errno_reason(err), errno_text(err));
  }
  if (!subpath.empty()) {
    auto inner = split_last(subpath);
    beside.reset(open_beneath(top.get(), inner.parent, O_PATH | O_DIRECTORY));
    name = inner.name;
  }
  if (move_tree(beside.get(), name, root_fd, destination))
    return {};
  auto merged = merge_tree(from.get(), root_fd, destination);
  if (merged || merged.error().code == errc::no_space)
    return merged;
  return failure("copy_failed", merged.error().message);
}

} // namespace troupe::workspace
