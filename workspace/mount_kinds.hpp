#pragma once

#include "messages/mount.hpp"

#include <optional>
#include <span>
#include <string>
#include <string_view>

// What the contract says of each kind of mount, as tables.

namespace troupe::workspace {

/// What a text field of a mount is; a sum of these.
enum mount_field_trait : unsigned {
  needed = 1,
  config_line = 2,     ///< becomes a line of an rclone configuration
  credential = 4,      ///< gives access to the storage
  credential_file = 8, ///< the path of a file that does
  url = 16,            ///< gives access if it holds a user, a password or a query
};

struct mount_field {
  std::string_view name;
  unsigned traits = 0;
  std::string_view fallback = {}; ///< what it is if it is not given; empty: null

  bool is(mount_field_trait trait) const {
    return (traits & trait) != 0;
  }
};

struct mount_type {
  mount_kind kind;
  std::string_view name;               ///< in JSON
  std::span<const mount_field> fields; ///< in the order of JSON
  std::span<const mount_pattern_kind> patterns;
  std::span<const std::string_view> drivers; ///< of docker_volume
};

const mount_type& type_of(mount_kind kind);
const mount_type* find_mount_type(std::string_view name);
std::span<const mount_type> mount_types();

std::string_view to_string(mount_strategy_kind kind);
std::string_view to_string(mount_pattern_kind kind);
std::optional<mount_strategy_kind> mount_strategy_from_string(std::string_view name);
std::optional<mount_pattern_kind> mount_pattern_from_string(std::string_view name);

/// The program that the helper is.
std::string_view tool_of(mount_pattern_kind kind);

/// Whether the strategy is that of a provider which this project has no backend for.
bool is_hosted_strategy(std::string_view name);

/// The setting, or null.
const std::string* setting(const mount_entry& x, std::string_view name);

} // namespace troupe::workspace
