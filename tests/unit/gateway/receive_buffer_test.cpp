#include "gateway/http/receive_buffer.hpp"

#include <boost/test/unit_test.hpp>

#include <string>

using troupe::gateway::receive_buffer;

namespace {

void feed(receive_buffer& b, std::string_view bytes, size_t want) {
  auto space = b.prepare(want);
  BOOST_REQUIRE(space.size >= bytes.size());
  std::memcpy(space.data, bytes.data(), bytes.size());
  b.commit(bytes.size());
}

std::string_view content(const receive_buffer& b) {
  return {b.data(), b.size()};
}

} // namespace

BOOST_AUTO_TEST_CASE(bytes_stay_in_order_through_any_mix_of_sizes) {
  receive_buffer b;
  std::string expected;
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(static_cast<size_t>(i * 7 % 16), static_cast<char>('a' + i % 26));
    feed(b, bytes, i % 5 == 0 ? 256 : 64);
    expected += bytes;
    auto used = std::min(expected.size(), static_cast<size_t>(i * 5 % 19));
    b.consume(used);
    expected.erase(0, used);
    BOOST_REQUIRE(content(b) == expected);
  }
}

BOOST_AUTO_TEST_CASE(bytes_may_be_used_while_a_read_is_under_way) {
  receive_buffer b;
  feed(b, "first", 64);
  auto space = b.prepare(64);
  b.consume(5);
  std::memcpy(space.data, "second", 6);
  b.commit(6);
  BOOST_TEST(content(b) == "second");
}

BOOST_AUTO_TEST_CASE(an_empty_buffer_gives_back_what_a_large_read_took) {
  receive_buffer b;
  feed(b, std::string(100'000, 'x'), 256 * 1024);
  b.consume(100'000);
  BOOST_TEST(b.prepare(4096).size <= 2 * 4096);
}
