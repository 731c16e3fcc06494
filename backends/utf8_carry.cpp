#include "backends/utf8_carry.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace troupe::backends {

namespace {

/// Bytes of the character that `lead` begins; 0 if it begins none of more than one byte.
size_t length_of(unsigned char lead) {
  if (lead >= 0xC2 && lead <= 0xDF)
    return 2;
  if (lead >= 0xE0 && lead <= 0xEF)
    return 3;
  return lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
}

bool is_continuation(unsigned char byte) {
  return (byte & 0xC0) == 0x80;
}

/// Whether `second` may follow `lead`: no overlong forms, no surrogates, nothing above U+10FFFF.
bool may_follow(unsigned char lead, unsigned char second) {
  switch (lead) {
    case 0xE0: return second >= 0xA0;
    case 0xED: return second <= 0x9F;
    case 0xF0: return second >= 0x90;
    case 0xF4: return second <= 0x8F;
    default: return true;
  }
}

/// Bytes at the end of `text` that begin a character and do not end it.
size_t open_tail(std::string_view text) {
  auto byte = [&](size_t back) { return static_cast<unsigned char>(text[text.size() - back]); };
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    if (is_continuation(byte(back)))
      continue;
    bool open
      = length_of(byte(back)) > back && (back == 1 || may_follow(byte(back), byte(back - 1)));
    return open ? back : 0;
  }
  return 0;
}

} // namespace

std::string utf8_carry::take(std::string_view bytes) {
  auto out = std::exchange(carried_, {}).append(bytes);
  auto tail = open_tail(out);
  carried_ = out.substr(out.size() - tail);
  out.resize(out.size() - tail);
  return out;
}

std::string utf8_carry::flush() {
  return std::exchange(carried_, {});
}

} // namespace troupe::backends
