#pragma once

#include "gateway/native/object_reader.hpp"
#include "messages/exec.hpp"

namespace troupe::gateway {

/// Reads `command`, `shell`, `user`, `cwd`, `env` and `timeout_s`.
exec_request read_command(object_reader& in);

/// Reads `output_encoding`: whether it is `base64`; the other is `utf-8`.
bool read_base64(object_reader& in);

/// `in.finish()`, and whether an environment can hold the names in `env`.
result<void> finish_command(object_reader& in, const exec_request& request);

/// Bytes as JSON has them: in base64, or as text with U+FFFD for what is not UTF-8.
std::string encode_output(const std::string& bytes, bool base64);

} // namespace troupe::gateway
