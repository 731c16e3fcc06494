#include "workspace/unicode_text.hpp"

#include <boost/test/unit_test.hpp>
#include <string>
#include <string_view>
#include <vector>

using namespace troupe::workspace;

namespace {

std::string lines_of(std::string_view text) {
  std::string out;
  while (!text.empty())
    out.append("[").append(take_line(text)).append("]");
  return out;
}

} // namespace

BOOST_AUTO_TEST_CASE(lines_end_where_python_ends_them) {
  BOOST_TEST(lines_of("") == "");
  BOOST_TEST(lines_of("a\nb") == "[a][b]");
  BOOST_TEST(lines_of("a\n\n") == "[a][]");
  BOOST_TEST(lines_of("a\r\nb\rc\n\rd") == "[a][b][c][][d]");
  BOOST_TEST(lines_of("a\vb\fc\x1C"
                      "d\x1D"
                      "e\x1E"
                      "f")
             == "[a][b][c][d][e][f]");
  BOOST_TEST(lines_of("a\u0085b\u2028c\u2029d") == "[a][b][c][d]");
  BOOST_TEST(lines_of("a\x1F\u00A0\u2027") == "[a\x1F\u00A0\u2027]");
}

BOOST_AUTO_TEST_CASE(trimming_knows_the_blanks_of_unicode) {
  BOOST_TEST(trim(" \t\x1C\u0085\u00A0\u1680a b\u2003\u2028\u202F\u205F\u3000\x1F\r\n") == "a b");
  BOOST_TEST(trim_end("  a\u2003 ") == "  a");
  BOOST_TEST(trim("\u200Ba\u200B") == "\u200Ba\u200B"); // a zero width space is none
  BOOST_TEST(trim(" \u3000 ") == "");
  BOOST_TEST(trim("") == "");
}

BOOST_AUTO_TEST_CASE(cuts_fall_between_characters) {
  const std::string_view text = "a\u00E9\u65E5\U0001F642"; // 1, 2, 3 and 4 bytes
  for (size_t bytes : {1, 2})
    BOOST_TEST(head_of(text, bytes) == "a");
  BOOST_TEST(head_of(text, 3) == "a\u00E9");
  BOOST_TEST(head_of(text, 9) == "a\u00E9\u65E5");
  BOOST_TEST(head_of(text, 10) == text);
  BOOST_TEST(tail_of(text, 3) == "");
  for (size_t bytes : {4, 5, 6})
    BOOST_TEST(tail_of(text, bytes) == "\U0001F642");
  BOOST_TEST(tail_of(text, 7) == "\u65E5\U0001F642");
  BOOST_TEST(tail_of(text, 99) == text);
  BOOST_TEST(count_characters(text) == 4);
}

BOOST_AUTO_TEST_CASE(what_is_not_utf8_is_replaced_as_python_does_it) {
  const std::string r = "\uFFFD";
  BOOST_TEST(utf8_with_replacement("a\u00E9\u65E5\U0001F642") == "a\u00E9\u65E5\U0001F642");
  BOOST_TEST(utf8_with_replacement("a\xFF\x80z") == "a" + r + r + "z");
  BOOST_TEST(utf8_with_replacement("a\xE6\x97") == "a" + r); // cut off: one for both bytes
  BOOST_TEST(utf8_with_replacement("\xF0\x9F\x99z") == r + "z");
  BOOST_TEST(utf8_with_replacement("\xC0\xAF") == r + r); // overlong
  BOOST_TEST(utf8_with_replacement("\xE0\x80\x80") == r + r + r);
  BOOST_TEST(utf8_with_replacement("\xED\xA0\x80") == r + r + r);         // a surrogate
  BOOST_TEST(utf8_with_replacement("\xF4\x90\x80\x80") == r + r + r + r); // above U+10FFFF
  BOOST_TEST(utf8_with_replacement("\xE6\x97\xE6\x97\xA5") == r + "\u65E5");
}
