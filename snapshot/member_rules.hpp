#pragma once

#include "snapshot/tar_reader.hpp"

#include <string>
#include <string_view>

namespace troupe::snapshot {

/// Which names are let through.
enum class name_policy : uint8_t {
  portable, ///< archives from clients: nothing that means something else on Windows
  own,      ///< snapshots: every name that a Linux workspace can hold
};

/// Where a member goes, or why it may not.
struct checked_member {
  std::string path;           ///< relative to the root, normal; empty: the root itself
  std::string_view violation; ///< the contract's reason text; empty: none
};

/// Judges a member by itself; what it does to earlier members is for the disk to say.
checked_member check_member(const tar_member& member, name_policy policy);

/// The normal form of the path of an earlier member that a hard link names; empty: not one inside
/// the root.
std::string hard_link_path(std::string_view target);

/// A skip path as `workspace::walk` would say it: no empty or "." components.
std::string plain_path(std::string_view path);

} // namespace troupe::snapshot
