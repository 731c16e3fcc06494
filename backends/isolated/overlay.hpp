#pragma once

#include "messages/error.hpp"
#include "messages/unique_fd.hpp"

#include <optional>
#include <string>
#include <vector>

// Workspaces that lie on read-only layers: what a session changes goes to a tree of its own.
//
// The server mounts the overlay, in the name of the machine, not of the sandbox: then its notes are
// attributes that nobody inside can write. Layers belong to one user on the disk, whom the mount
// maps to the sandbox's.

namespace troupe::backends {
struct held_layers;
}

namespace troupe::backends::isolated {

struct overlay_plan {
  std::vector<std::string> folders; ///< of the layers, the oldest first
  std::string upper;
  std::string work; ///< empty, on the same file system
};

/// (blocks) A detached mount, as root. `user_ns` maps the ids of the layers. `backend_unavailable`
/// where the kernel or the file system does not have what this takes.
result<unique_fd> mount_overlay(const overlay_plan& plan, int user_ns);

/// The directory in which a session has its overlay, in its private one: `upper`, `work` and the
/// link `lower`, which says what it lies on. While it is there, the session's workspace is this.
constexpr const char* overlay_dir = "overlay";

/// What the workspace of the session with this private directory lies on; nullopt: it is a plain
/// directory.
std::optional<held_layers> layers_below(const std::string& private_dir);

/// An empty tree in the overlay's place; the one that was there comes back unless `keep` is called.
class overlay_swap {
public:
  /// (blocks) `mode`: of the new root.
  static result<overlay_swap> make(const std::string& private_dir, const held_layers& below,
                                   unsigned mode);
  overlay_swap(overlay_swap&& other) noexcept;
  overlay_swap& operator=(overlay_swap&&) = delete;
  ~overlay_swap();

  /// (blocks) Removes what was there before.
  void keep();

private:
  overlay_swap() = default;

  std::string dir_;       ///< empty: nothing is to be undone
  bool replaced_ = false; ///< there was an overlay before
};

/// (blocks) Leaves the overlay, for a plain directory that has taken its place.
result<void> drop_overlay(const std::string& private_dir);

/// (blocks) Makes the directories ready to be mounted again.
result<void> prepare_overlay(const std::string& private_dir);

/// (blocks) What a process that died in the middle of a swap left.
void sweep_overlay(const std::string& private_dir);

} // namespace troupe::backends::isolated
