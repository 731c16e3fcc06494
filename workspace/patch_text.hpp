#pragma once

#include "messages/json.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// The forms in which a patch arrives. Every fault is `apply_patch_invalid_diff`, with no path in
// its context.

namespace troupe::workspace {

enum class patch_kind : uint8_t { create_file, update_file, delete_file };

std::string_view to_string(patch_kind kind);

/// One change to one file. `diff` is needed to create and to update; `move_to` is for updates.
struct patch_operation {
  patch_kind kind = patch_kind::update_file;
  std::string path;
  std::optional<std::string> diff;
  std::optional<std::string> move_to;
};

/// What a model wrote: the text from `*** Begin Patch` to `*** End Patch`, or JSON.
result<std::vector<patch_operation>> parse_patch(std::string_view text);

/// What a client sent as `operations`: one object, or an array of them. An absent diff is no fault
/// here.
result<std::vector<patch_operation>> read_patch_operations(const json& operations);

} // namespace troupe::workspace
