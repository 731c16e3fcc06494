#pragma once

#include <string>
#include <string_view>

namespace troupe {

/// A random version 4 UUID in lower case with dashes, from the kernel's generator.
std::string make_uuid();

/// `n` random bytes as 2n lower-case hexadecimal digits.
std::string random_hex(size_t n);

/// Whether `text` is a lower-case UUID with dashes: the only form that an id of ours has.
bool is_uuid(std::string_view text);

} // namespace troupe
