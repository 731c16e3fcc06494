#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::snapshot {

/// Whether this processor has the instructions that `compress_sha256_pair` needs.
bool has_sha256_pair();

/// Takes `blocks` blocks of 64 bytes into two states of SHA-256 (FIPS 180-4, 6.2.2): the schedule
/// of the blocks' words is made once, and the rounds of one state fill the time that those of the
/// other wait for their results.
void compress_sha256_pair(uint32_t* one, uint32_t* other, const unsigned char* data, size_t blocks);

} // namespace troupe::snapshot
