#pragma once

#include "messages/error.hpp"
#include "messages/unique_fd.hpp"

#include <sys/stat.h>

#include <map>
#include <string>

namespace troupe::snapshot {

/// A private directory that a new tree is written to before it takes the place of `root`: beside
/// it, so that the change is one rename; or, where that cannot be (the parent is not writable, the
/// root is a mount point), inside it. Dropped, it removes whatever is still in it.
class staging {
public:
  /// Makes missing parents of `root`. One of ours in /proc/self/fd has no parent: inside it is.
  static result<staging> make(const std::string& root);

  /// Removes what a process that died had begun beside `root`.
  static void sweep(const std::string& root);

  /// Whether `name` is that of a directory that `make` makes beside a root.
  static bool is_name(std::string_view name);

  staging(staging&&) = default;
  staging& operator=(staging&&) = delete;
  ~staging();

  int fd() const {
    return fd_.get();
  }

  std::string path() const;

  /// Puts the new tree in place of the old one and removes the old one. Beside: in one step.
  /// Inside: entry by entry, put back on failure. The root keeps its mode and owner; a new one has
  /// the mode of the tree if `has_mode`, else 0755.
  result<void> replace(bool has_mode);

  /// Moves the new tree over the old one: directories are merged, files replaced. Checked first, so
  /// that a conflict changes nothing. `implied`: directories that are there only to hold others,
  /// with the member to blame.
  result<void> merge(const std::map<std::string, std::string>& implied);

private:
  staging() = default;

  int container() const {
    return inside_ ? old_root_.get() : parent_.get();
  }
  int create(const std::string& name);
  result<void> replace_entries();

  std::string root_;
  std::string root_name_;
  unique_fd parent_;
  unique_fd old_root_; ///< empty: there is none
  struct stat old_info_ {};
  bool inside_ = false;
  std::string name_; ///< in `container()`
  unique_fd fd_;     ///< holds the lock
};

} // namespace troupe::snapshot
