#pragma once

#include "messages/error.hpp"
#include "messages/unique_fd.hpp"
#include "workspace/tree.hpp"

#include <nlohmann/json.hpp>

#include <atomic>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <sched.h>
#include <string>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

namespace troupe::test {

/// A temporary folder with a workspace `root` in it and a place `outside`; removed at the end.
struct test_folder {
  std::string path;
  std::string root;
  std::string outside;
  unique_fd fd; ///< of `root`

  explicit test_folder(const std::string& base = "/tmp") : path(base + "/troupe-test-XXXXXX") {
    if (::mkdtemp(path.data()) == nullptr)
      std::abort();
    root = path + "/root";
    outside = path + "/outside";
    ::mkdir(root.c_str(), 0755);
    ::mkdir(outside.c_str(), 0755);
    fd.reset(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~test_folder() {
    (void) workspace::remove_tree_at(path);
  }

  std::string in_root(const std::string& name) const {
    return root + '/' + name;
  }
};

/// Where directories by the thousand cost no disk.
inline std::string memory_folder() {
  return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream{path, std::ios::binary} << text;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}

inline bool exists(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0;
}

inline mode_t mode_of(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 ? st.st_mode & 07777 : 0;
}

/// A text member of an error's context; "" if there is none.
inline std::string context_of(const error& e, const char* key) {
  return nlohmann::json::parse(e.context).value(key, "");
}

inline std::string reason_of(const error& e) {
  return context_of(e, "reason");
}

/// "code: reason" of a failure, "ok" of a success.
template <class T>
std::string outcome(const result<T>& x) {
  return x ? "ok" : std::string{to_string(x.error().code)} + ": " + reason_of(x.error());
}

/// A small tmpfs that only this thread sees. False if mounting is not allowed here.
struct private_tmpfs {
  std::string path;
  bool mounted = false;

  private_tmpfs(std::string where, const char* options) : path(std::move(where)) {
    mounted = ::unshare(CLONE_NEWNS) == 0
              && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0
              && ::mount("none", path.c_str(), "tmpfs", 0, options) == 0;
  }
  ~private_tmpfs() {
    if (mounted)
      ::umount2(path.c_str(), MNT_DETACH);
  }
};

} // namespace troupe::test
