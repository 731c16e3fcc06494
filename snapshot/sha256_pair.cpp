#include "snapshot/sha256_pair.hpp"

#if defined(__x86_64__)
#  include <cpuid.h>
#  include <immintrin.h>
#endif

namespace troupe::snapshot {

#if defined(__x86_64__)

namespace {

#  define TROUPE_WITH_SHA __attribute__((target("sha,sse4.1")))

/// FIPS 180-4, 4.2.2.
alignas(16) constexpr uint32_t constants[64] = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/// The words a to h of a state as the instructions take them: a, b, e, f and c, d, g, h.
struct halves {
  __m128i abef;
  __m128i cdgh;
};

TROUPE_WITH_SHA __m128i load(const void* at) {
  return _mm_loadu_si128(static_cast<const __m128i*>(at));
}

TROUPE_WITH_SHA void store(void* at, __m128i x) {
  _mm_storeu_si128(static_cast<__m128i*>(at), x);
}

TROUPE_WITH_SHA halves split(const uint32_t* state) {
  auto badc = _mm_shuffle_epi32(load(state), 0xb1);
  auto hgfe = _mm_shuffle_epi32(load(state + 4), 0x1b);
  return {_mm_alignr_epi8(badc, hgfe, 8), _mm_blend_epi16(hgfe, badc, 0xf0)};
}

TROUPE_WITH_SHA void join(const halves& x, uint32_t* state) {
  auto abef = _mm_shuffle_epi32(x.abef, 0x1b);
  auto cdgh = _mm_shuffle_epi32(x.cdgh, 0xb1);
  store(state, _mm_blend_epi16(abef, cdgh, 0xf0));
  store(state + 4, _mm_alignr_epi8(cdgh, abef, 8));
}

TROUPE_WITH_SHA halves plus(const halves& x, const halves& y) {
  return {_mm_add_epi32(x.abef, y.abef), _mm_add_epi32(x.cdgh, y.cdgh)};
}

} // namespace

bool has_sha256_pair() {
  static const bool has = [] {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    constexpr unsigned sha = 1U << 29;
    return __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0
           && (b & sha) != 0;
  }();
  return has;
}

TROUPE_WITH_SHA void compress_sha256_pair(uint32_t* one, uint32_t* other, const unsigned char* data,
                                          size_t blocks) {
  const auto big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  auto x = split(one);
  auto y = split(other);
  for (; blocks > 0; --blocks, data += 64) {
    const auto x_before = x;
    const auto y_before = y;
    __m128i words[4]; // the last 16 of the schedule
    for (int i = 0; i < 4; ++i)
      words[i] = _mm_shuffle_epi8(load(data + 16 * i), big_endian);
#  pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) { // four rounds each
      auto sum = _mm_add_epi32(words[i & 3], load(constants + 4 * i));
      x.cdgh = _mm_sha256rnds2_epu32(x.cdgh, x.abef, sum);
      y.cdgh = _mm_sha256rnds2_epu32(y.cdgh, y.abef, sum);
      sum = _mm_shuffle_epi32(sum, 0x0e);
      x.abef = _mm_sha256rnds2_epu32(x.abef, x.cdgh, sum);
      y.abef = _mm_sha256rnds2_epu32(y.abef, y.cdgh, sum);
      if (i < 12) {
        auto last = words[(i + 3) & 3];
        auto next = _mm_sha256msg1_epu32(words[i & 3], words[(i + 1) & 3]);
        next = _mm_add_epi32(next, _mm_alignr_epi8(last, words[(i + 2) & 3], 4));
        words[i & 3] = _mm_sha256msg2_epu32(next, last);
      }
    }
    x = plus(x, x_before);
    y = plus(y, y_before);
  }
  join(x, one);
  join(y, other);
}

#else

bool has_sha256_pair() {
  return false;
}

void compress_sha256_pair(uint32_t*, uint32_t*, const unsigned char*, size_t) {}

#endif

} // namespace troupe::snapshot
