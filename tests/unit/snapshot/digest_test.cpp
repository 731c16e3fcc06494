#include "snapshot/digest.hpp"

#include <boost/test/unit_test.hpp>

#include <random>

using namespace troupe::snapshot;

BOOST_AUTO_TEST_CASE(digests_what_the_standard_says) {
  sha256 x;
  x.update("abc");
  BOOST_TEST(to_hex(x.finish())
             == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  BOOST_TEST(to_hex(x.finish())
             == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

BOOST_AUTO_TEST_CASE(two_digests_of_the_same_bytes_are_those_of_one_each) {
  std::mt19937 random{20261123};
  std::string text(100'000, '\0');
  for (auto& c : text)
    c = static_cast<char>(random());
  auto alone = [](std::string_view before, std::string_view bytes) {
    sha256 x;
    x.update(before);
    x.update(bytes);
    return to_hex(x.finish());
  };
  for (size_t before : {0, 1, 63, 64, 65, 512}) {
    for (size_t other_before : {0, 1, 65, 512, 1000}) {
      sha256 one;
      sha256 other;
      std::string_view all{text};
      one.update(all.substr(0, before));
      other.update(all.substr(0, other_before));
      size_t done = 0;
      while (done < all.size()) {
        auto piece = all.substr(done, random() % 3 == 0 ? random() % 70 : random() % 9000);
        sha256::update_both(one, other, piece.data(), piece.size());
        done += piece.size();
      }
      BOOST_TEST(to_hex(one.finish()) == alone(all.substr(0, before), all));
      BOOST_TEST(to_hex(other.finish()) == alone(all.substr(0, other_before), all));
    }
  }
}

BOOST_AUTO_TEST_CASE(lengths_beyond_32_bits_of_bits_count) {
  sha256 one;
  sha256 other;
  sha256 alone;
  std::string piece(16 << 20, 'x');
  for (int i = 0; i < 40; ++i) { // 640 MiB are more bits than 32 bits tell
    sha256::update_both(one, other, piece.data(), piece.size());
    alone.update(piece);
  }
  auto expected = to_hex(alone.finish());
  BOOST_TEST(to_hex(one.finish()) == expected);
  BOOST_TEST(to_hex(other.finish()) == expected);
}
