#pragma once

#include "messages/unique_fd.hpp"
#include "workspace/tree.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <string_view>
#include <sys/mman.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace troupe::fuzz {

inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Ends the run, which keeps the input as a finding.
inline void require(bool holds, const char* what) {
  if (holds)
    return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

/// The text in an anonymous file, at its start.
inline unique_fd file_of(std::string_view text) {
  unique_fd fd{::memfd_create("fuzz", MFD_CLOEXEC)};
  require(fd && workspace::write_all(fd.get(), text.data(), text.size()) == 0
            && ::lseek(fd.get(), 0, SEEK_SET) == 0,
          "there is memory for a file");
  return fd;
}

/// A folder in memory with a workspace in it, which nothing may leave.
class workspace_folder {
public:
  workspace_folder() {
    std::string pattern = "/dev/shm/troupe-fuzz-XXXXXX";
    require(::mkdtemp(pattern.data()) != nullptr, "a folder can be made");
    folder_ = pattern;
    make_root();
  }
  ~workspace_folder() {
    (void) workspace::remove_tree_at(folder_);
  }
  workspace_folder(const workspace_folder&) = delete;
  workspace_folder& operator=(const workspace_folder&) = delete;

  std::string root() const {
    return folder_ + "/ws";
  }

  /// Checks that the workspace is all there is in its folder, and empties it.
  void finish() {
    size_t entries = 0;
    for (const auto& x : std::filesystem::directory_iterator(folder_))
      entries += x.path().filename() == "ws" ? 1 : 2;
    require(entries == 1, "nothing was written beside the workspace");
    require(workspace::remove_tree_at(root()).has_value(), "what was unpacked can be removed");
    make_root();
  }

private:
  void make_root() const {
    require(::mkdir(root().c_str(), 0755) == 0, "a root can be made");
  }

  std::string folder_;
};

} // namespace troupe::fuzz
