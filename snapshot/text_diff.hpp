#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::snapshot {

/// The hunks of a unified diff with three lines of context, without the two lines that name the
/// files. Nullopt: one of them is no text (it holds a NUL byte or is not UTF-8), or they differ in
/// more than is of use to read.
std::optional<std::string> unified_diff(std::string_view before, std::string_view after);

} // namespace troupe::snapshot
