#include "backends/isolated/root_template.hpp"

#include "messages/ids.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

namespace troupe::backends::isolated {

namespace {

namespace fs = std::filesystem;

/// Different roots that are kept for all sessions; each is a small directory, for as long as the
/// server lives: sandboxes are on them.
constexpr size_t max_templates = 256;

constexpr const char* devices[] = {"null", "zero", "full", "random", "urandom", "tty"};

/// Of the host's /etc: what says nothing about the host, and programs want.
constexpr const char* copied[] = {"ld.so.cache",
                                  "mime.types",
                                  "protocols",
                                  "services",
                                  "shells",
                                  "ssl/openssl.cnf",
                                  "ssl/certs/ca-certificates.crt"};

error failed(const std::string& what, const std::string& why) {
  return make_error(errc::workspace_start_error, op::start,
                    "cannot make the root file system: " + what + ": " + why)
    .with("path", what);
}

/// Made by us in every root, whatever its source has.
const std::set<std::string> made_here{"dev", "proc", "sys", "tmp"};

/// Of a source that is no host: what it has besides links.
constexpr size_t max_directories = 32;

result<std::vector<std::string>> directories_of(const std::string& source,
                                                const std::string& workspace) {
  auto first = (*fs::path{workspace}.relative_path().begin()).string();
  std::vector<std::string> out;
  std::error_code code;
  for (const auto& x : fs::directory_iterator{source, code}) {
    auto name = x.path().filename().string();
    if (!x.is_symlink(code) && x.is_directory(code) && name != first && made_here.count(name) == 0)
      out.push_back(name);
  }
  if (code)
    return unexpected{failed(source, code.message())};
  if (out.size() > max_directories)
    return unexpected{failed(source, "too many directories")};
  std::sort(out.begin(), out.end());
  return out;
}

void write_text(const fs::path& path, const std::string& text) {
  unique_fd fd{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
  if (!fd || ::fchmod(fd.get(), 0644) != 0
      || workspace::write_all(fd.get(), text.data(), text.size()) < 0)
    throw fs::filesystem_error("write", path, std::error_code{errno, std::generic_category()});
}

void make_dir(const fs::path& path) {
  fs::create_directories(path);
  fs::permissions(path, fs::perms{0755});
}

void make_etc(const fs::path& etc) {
  make_dir(etc);
  write_text(etc / "passwd", "root:x:0:0:root:/root:/bin/sh\n"
                             "sandbox:x:1000:1000:sandbox:/workspace:/bin/sh\n"
                             "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
  write_text(etc / "group", "root:x:0:\ntty:x:5:\nsandbox:x:1000:\nnogroup:x:65534:\n");
  write_text(etc / "hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n");
  write_text(etc / "hostname", "sandbox\n");
  write_text(etc / "resolv.conf", "");
  write_text(etc / "nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
  write_text(etc / "profile", "");
  std::error_code ignored;
  for (auto name : copied)
    if (fs::is_regular_file(fs::path{"/etc"} / name, ignored)) {
      fs::create_directories((etc / name).parent_path());
      fs::copy_file(fs::path{"/etc"} / name, etc / name, ignored);
    }
  // Links only: names of programs that the host's packages chose.
  make_dir(etc / "alternatives");
  for (const auto& link : fs::directory_iterator{"/etc/alternatives", ignored})
    if (link.is_symlink())
      fs::copy_symlink(link.path(), etc / "alternatives" / link.path().filename(), ignored);
}

void make_tree(const fs::path& root, const std::string& workspace, const std::string& source) {
  auto host = source == "host";
  for (auto name : {"", "dev", "dev/pts", "dev/shm", "proc", "tmp", "usr", "home", "root", "var",
                    "run", "opt", "srv", "mnt"})
    make_dir(root / name);
  for (auto name : devices)
    write_text(root / "dev" / name, "");
  auto link
    = [&](const char* target, const char* name) { fs::create_symlink(target, root / name); };
  link("pts/ptmx", "dev/ptmx");
  link("/proc/self/fd", "dev/fd");
  link("/proc/self/fd/0", "dev/stdin");
  link("/proc/self/fd/1", "dev/stdout");
  link("/proc/self/fd/2", "dev/stderr");
  link("../tmp", "var/tmp");
  for (auto name : {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}) {
    if (!host)
      break;
    auto path = fs::path{"/"} / name;
    std::error_code ignored;
    if (fs::is_symlink(path, ignored))
      fs::create_symlink(fs::read_symlink(path), root / name);
    else if (fs::is_directory(path, ignored))
      make_dir(root / name);
  }
  if (host)
    make_etc(root / "etc");
  else
    for (const auto& x : fs::directory_iterator{source})
      if (auto name = x.path().filename(); made_here.count(name.string()) > 0)
        continue;
      else if (x.is_symlink() && !fs::exists(fs::symlink_status(root / name)))
        fs::create_symlink(fs::read_symlink(x.path()), root / name);
      else if (x.is_directory())
        make_dir(root / name);
  for (fs::path at = fs::path{workspace}.relative_path(), done; const auto& part : at)
    make_dir(root / (done /= part));
}

} // namespace

root_templates::root_templates(std::string dir, std::string source, bool keep_old)
  : dir_(std::move(dir)), source_(std::move(source)), swept_(keep_old) {}

result<std::string> root_templates::make(const std::string& workspace,
                                         const std::string& private_dir) {
  std::unique_lock lock{mutex_};
  if (auto i = made_.find(workspace); i != made_.end())
    return i->second;
  if (made_.size() >= max_templates) {
    lock.unlock();
    auto own = private_dir + "/root"; // of an earlier life, which nobody is on any more
    if (auto gone = workspace::remove_tree_at(own); !gone)
      return unexpected{std::move(gone.error())};
    if (auto ok = fill(own, workspace); !ok)
      return unexpected{std::move(ok.error())};
    return own;
  }
  if (auto ok = workspace::open_or_make_directory(dir_, 0700); !ok)
    return unexpected{std::move(ok.error())};
  if (!std::exchange(swept_, true)) {
    std::error_code ignored;
    for (const auto& old : fs::directory_iterator{dir_, ignored})
      if (old.path().filename().string().compare(0, 5, "root-") == 0)
        if (auto gone = workspace::remove_tree_at(old.path().string()); !gone)
          return unexpected{std::move(gone.error())};
  }
  auto path = dir_ + "/root-" + random_hex(8);
  if (auto ok = fill(path, workspace); !ok)
    return unexpected{std::move(ok.error())};
  return made_[workspace] = path;
}

result<void> root_templates::fill(const std::string& path, const std::string& workspace) const {
  try {
    make_tree(path, workspace, source_);
  } catch (const fs::filesystem_error& e) {
    return unexpected{failed(e.path1().string(), e.code().message())};
  }
  return {};
}

result<std::vector<mount_plan>> root_templates::mounts(const std::string& workspace,
                                                       const std::string& private_dir) {
  static const std::set<std::string> ours{"dev",  "proc", "tmp",   "usr",   "etc",    "bin",
                                          "sbin", "lib",  "lib32", "lib64", "libx32", "sys"};
  auto first = (*fs::path{workspace}.relative_path().begin()).string();
  if (workspace.empty() || workspace.front() != '/' || workspace.size() > 200 || ours.count(first)
      || fs::path{workspace}.lexically_normal() != fs::path{workspace})
    return unexpected{make_error(errc::sandbox_config_invalid, op::start,
                                 "the workspace of an isolated session cannot be at " + workspace)
                        .with("root", workspace)};
  auto made = make(workspace, private_dir);
  if (!made)
    return unexpected{std::move(made.error())};
  std::vector<mount_plan> out;
  auto handed = [&](const std::string& source, const std::string& target, uint32_t flags) {
    out.push_back({mount_kind::handed, flags, source, target, 0, 0});
  };
  handed(*made, "", mount_read_only);
  std::error_code ignored;
  if (source_ == "host") {
    for (auto name : {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}) {
      fs::path path = std::string{"/"} + name;
      if (fs::is_directory(path, ignored) && !fs::is_symlink(path, ignored))
        handed(path.string(), name, mount_read_only);
    }
  } else {
    auto names = directories_of(source_, workspace);
    if (!names)
      return unexpected{std::move(names.error())};
    for (const auto& name : *names)
      handed(source_ + "/" + name, name, mount_read_only);
  }
  for (auto name : devices)
    handed(std::string{"/dev/"} + name, std::string{"dev/"} + name,
           // Which keeps nobody from writing to them, but from changing whose they are.
           mount_read_only | mount_no_exec | mount_with_devices | mount_landlock_write);
  return out;
}

} // namespace troupe::backends::isolated
