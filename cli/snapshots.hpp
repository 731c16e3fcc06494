#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace troupe::cli {

/// `troupe snapshots ...`: works on a folder of snapshots, beside a server that uses it or without.
struct snapshots_options {
  std::string action; ///< list, show, diff, export, import, verify or prune
  std::string store;  ///< the folder
  std::string id;
  std::string other; ///< diff: the second id; export, import: where to, from
  std::string format = "tar";
  bool text = false;
  bool dry_run = false;
  bool force = false; ///< prune: also what sessions of a server may need
  std::optional<int64_t> max_age_s;
  std::optional<int64_t> max_count;
  std::optional<int64_t> max_bytes;
};

/// Prints what it found; gives the exit code.
int snapshots(const snapshots_options& options);

} // namespace troupe::cli
