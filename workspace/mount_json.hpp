#pragma once

#include "messages/error.hpp"
#include "messages/json.hpp"
#include "workspace/json_reader.hpp"
#include "workspace/mount_kinds.hpp"

#include <optional>

namespace troupe::workspace {

/// Reads what a mount has beside the fields of every entry. A mount that is well-formed but cannot
/// be (its kind does not know the pattern) makes a `mount_config_invalid`; the first stays.
mount_entry read_mount(json_reader& read, const json& value, const location& at,
                       const mount_type& type, std::optional<error>& config_error);

/// Appends these fields to those of every entry.
void dump_mount(const mount_entry& x, json& out);

/// Whether a mount of `given` has members that `known`, the same entries as this project writes
/// them, lacks: they were dropped, and may have been credentials.
bool mounts_have_unknown_members(const json& given, const json& known);

} // namespace troupe::workspace
