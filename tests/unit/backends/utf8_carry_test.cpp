#include "backends/utf8_carry.hpp"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <string>
#include <vector>

using troupe::backends::utf8_carry;

namespace {

const std::vector<std::string> characters
  = {"a", "é", "€", "\xED\x9F\xBF", "😀", "\xF4\x8F\xBF\xBF"};

} // namespace

BOOST_AUTO_TEST_CASE(a_character_cut_anywhere_comes_whole_in_the_next_piece) {
  for (const auto& character : characters)
    for (size_t cut = 1; cut < character.size(); ++cut) {
      utf8_carry carry;
      BOOST_TEST(carry.take("x" + character.substr(0, cut)) == "x");
      BOOST_TEST(carry.take(character.substr(cut) + "y") == character + "y");
      BOOST_TEST(carry.flush() == "");
    }
}

BOOST_AUTO_TEST_CASE(byte_by_byte_the_text_is_the_same) {
  std::string text;
  for (const auto& character : characters)
    text += character;
  utf8_carry carry;
  std::string out;
  for (auto byte : text) {
    auto piece = carry.take(std::string(1, byte));
    BOOST_TEST((piece.empty()
                || std::find(characters.begin(), characters.end(), piece) != characters.end()));
    out += piece;
  }
  BOOST_TEST(out == text);
}

BOOST_AUTO_TEST_CASE(whole_characters_are_not_held_back) {
  for (const auto& character : characters) {
    utf8_carry carry;
    BOOST_TEST(carry.take(character) == character);
    BOOST_TEST(carry.flush() == "");
  }
}

BOOST_AUTO_TEST_CASE(the_end_brings_the_tail_out_as_it_is) {
  utf8_carry carry;
  BOOST_TEST(carry.take("a\xF0\x9F\x98") == "a");
  BOOST_TEST(carry.flush() == "\xF0\x9F\x98");
  BOOST_TEST(carry.flush() == "");
  BOOST_TEST(carry.take("b") == "b");
}

BOOST_DATA_TEST_CASE(what_can_become_no_character_is_not_held_back,
                     boost::unit_test::data::make(std::vector<std::string>{
                       "\xFF", "\xC0", "\xC1", "\xF5", "\x80", "\x80\x80\x80\x80", "\xE0\x80",
                       "\xED\xA0", "\xF0\x80", "\xF0\x80\x80", "\xF4\x90", "\xE2\x28",
                       "\xC3\xA9\xA9"}),
                     bytes) {
  utf8_carry carry;
  BOOST_TEST(carry.take(bytes) == bytes);
  BOOST_TEST(carry.flush() == "");
}

BOOST_AUTO_TEST_CASE(a_tail_that_turns_out_wrong_comes_with_what_follows) {
  utf8_carry carry;
  BOOST_TEST(carry.take("\xE2\x82") == "");
  BOOST_TEST(carry.take("x") == "\xE2\x82x");
}
