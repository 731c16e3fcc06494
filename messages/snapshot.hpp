#pragma once

#include "messages/inspect.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe {

enum class snapshot_kind : uint8_t { noop, local, remote };

/// Names a snapshot and says where it lives. Without an id it is a spec.
struct snapshot_ref {
  snapshot_kind kind = snapshot_kind::noop;
  std::string id;
  std::string base_path;             ///< local: folder on the host
  std::string client_dependency_key; ///< remote
};

/// What a store knows of one snapshot.
struct snapshot_info {
  std::string id;
  std::string session_id;
  std::string tenant;
  int64_t created_at_ms = 0; ///< since the epoch, UTC
  uint64_t size_bytes = 0;   ///< of the files inside
  uint64_t stored_bytes = 0; ///< on disk
  uint64_t files = 0;
  uint32_t layers = 1;
  std::string parent; ///< id of what it was made from; empty: none
  std::string name;   ///< of a restore point; empty: none
  std::string base_path;
};

/// What persisting a workspace gave.
struct snapshot_outcome {
  snapshot_info info;
  std::string fingerprint; ///< lower-case hexadecimal, of the very tree that was written
  std::string fingerprint_version;
  std::vector<std::string> warnings; ///< what was left out (fifos, sockets, devices)
  uint64_t new_bytes = 0;            ///< that this one added to the store
};

/// One path that differs between two trees.
struct workspace_change {
  std::string path;
  std::string change; ///< "A", "M" or "D"
  std::string type;   ///< what it is, or was: "directory", "file", "symlink", "hard_link"
  uint64_t size = 0;  ///< now
  uint64_t old_size = 0;
  std::string patch; ///< unified diff of a small text file, if it was asked for
};

/// What differs between two trees, in the order of paths.
struct workspace_diff {
  std::vector<workspace_change> items;
  bool truncated = false; ///< there are more
};

template <class Inspector>
auto inspect(Inspector& f, workspace_change& x) {
  return inspect_object(f, x, field("path", x.path), field("change", x.change),
                        field("type", x.type), field("size", x.size), field("old_size", x.old_size),
                        field("patch", x.patch));
}

template <class Inspector>
auto inspect(Inspector& f, workspace_diff& x) {
  return inspect_object(f, x, field("items", x.items), field("truncated", x.truncated));
}

template <class Inspector>
auto inspect(Inspector& f, snapshot_ref& x) {
  return inspect_object(f, x, field("kind", x.kind), field("id", x.id),
                        field("base_path", x.base_path),
                        field("client_dependency_key", x.client_dependency_key));
}

template <class Inspector>
auto inspect(Inspector& f, snapshot_info& x) {
  return inspect_object(
    f, x, field("id", x.id), field("session_id", x.session_id), field("tenant", x.tenant),
    field("created_at_ms", x.created_at_ms), field("size_bytes", x.size_bytes),
    field("stored_bytes", x.stored_bytes), field("files", x.files), field("layers", x.layers),
    field("parent", x.parent), field("name", x.name), field("base_path", x.base_path));
}

template <class Inspector>
auto inspect(Inspector& f, snapshot_outcome& x) {
  return inspect_object(f, x, field("info", x.info), field("fingerprint", x.fingerprint),
                        field("fingerprint_version", x.fingerprint_version),
                        field("warnings", x.warnings), field("new_bytes", x.new_bytes));
}

} // namespace troupe
