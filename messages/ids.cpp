#include "messages/ids.hpp"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>

namespace troupe {

namespace {

void ask_kernel(unsigned char* data, size_t size) {
  while (size > 0) {
    auto n = ::getrandom(data, size, 0);
    if (n < 0 && errno != EINTR)
      std::abort(); // the generator cannot fail after boot; an id must never be guessable
    if (n > 0) {
      data += n;
      size -= static_cast<size_t>(n);
    }
  }
}

/// Asks the kernel for many bytes at once: ids are made several times a request.
void fill_random(unsigned char* data, size_t size) {
  thread_local std::array<unsigned char, 1024> ahead;
  thread_local size_t left = 0;
  for (size_t i = 0; i < size; ++i) {
    if (left == 0) {
      ask_kernel(ahead.data(), ahead.size());
      left = ahead.size();
    }
    data[i] = std::exchange(ahead[--left], 0);
  }
}

std::string hex(const unsigned char* data, size_t size) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < size; ++i) {
    out += digits[data[i] >> 4];
    out += digits[data[i] & 15];
  }
  return out;
}

} // namespace

std::string random_hex(size_t n) {
  std::string bytes(n, '\0');
  fill_random(reinterpret_cast<unsigned char*>(bytes.data()), n);
  return hex(reinterpret_cast<const unsigned char*>(bytes.data()), n);
}

std::string make_uuid() {
  std::array<unsigned char, 16> b;
  fill_random(b.data(), b.size());
  b[6] = static_cast<unsigned char>((b[6] & 0x0F) | 0x40);
  b[8] = static_cast<unsigned char>((b[8] & 0x3F) | 0x80);
  auto text = hex(b.data(), b.size());
  for (size_t at : {8, 13, 18, 23})
    text.insert(at, 1, '-');
  return text;
}

bool is_uuid(std::string_view text) {
  if (text.size() != 36)
    return false;
  for (size_t i = 0; i < text.size(); ++i) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    char c = text[i];
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
      return false;
  }
  return true;
}

} // namespace troupe
