#include "workspace/token_truncation.hpp"

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <limits>
#include <string>

using namespace troupe::workspace;

namespace {

/// "line 000" to "line 099": 899 bytes, 225 tokens.
std::string hundred_lines() {
  std::string text;
  for (int i = 0; i < 100; ++i) {
    char line[16];
    std::snprintf(line, sizeof line, i == 0 ? "line %03d" : "\nline %03d", i);
    text += line;
  }
  return text;
}

std::string times(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i)
    out += text;
  return out;
}

/// The text, and the count if there is one.
std::string cut(const std::string& text, std::optional<int64_t> max_tokens) {
  auto x = truncate_tokens(text, max_tokens);
  return x.original_token_count ? x.text + " | " + std::to_string(*x.original_token_count) : x.text;
}

} // namespace

BOOST_AUTO_TEST_CASE(text_within_its_limit_stays_as_it_is) {
  const auto text = hundred_lines();
  BOOST_TEST(cut(text, std::nullopt) == text);
  BOOST_TEST(cut(text, 225) == text);
  BOOST_TEST(cut(text, std::numeric_limits<int64_t>::max()) == text);
  BOOST_TEST(cut("hello", 2) == "hello");
  BOOST_TEST(cut("", 0) == "");
  BOOST_TEST(cut("", -1) == "");
}

BOOST_AUTO_TEST_CASE(the_middle_goes_and_its_size_is_told) {
  const auto text = hundred_lines();
  BOOST_TEST(cut(text, 8) == "lin…224 tokens truncated…099 | 225");
  BOOST_TEST(cut(text, 10) == "line 00…222 tokens truncated…ine 099 | 225");
  BOOST_TEST(cut(text, 16)
             == "Total output lines: 100\n\nline 0…222 tokens truncated…ine 099 | 225");
}

BOOST_AUTO_TEST_CASE(a_limit_too_small_for_the_note_cuts_the_note) {
  const auto text = hundred_lines();
  BOOST_TEST(cut(text, 5) == "…225 tokens trunca | 225");
  BOOST_TEST(cut(text, 1) == "…2 | 225");
  BOOST_TEST(cut(times("\uFFFD", 200), 6) == "…150 tokens truncated | 150"); // not half of its end
  BOOST_TEST(cut("hello", 0) == " | 2");
  BOOST_TEST(cut("hello", -1) == " | 2");
}

BOOST_AUTO_TEST_CASE(characters_stay_whole) {
  BOOST_TEST(cut(times("é", 300), 8) == "é…149 tokens truncated…é | 150");
  BOOST_TEST(cut(times("🙂", 200), 8) == "…200 tokens truncated… | 200");
  BOOST_TEST(
    cut(times("🙂", 200), 20)
    == "Total output lines: 1\n\n🙂🙂🙂…193 tokens truncated…🙂🙂🙂🙂 | 200");
}

BOOST_AUTO_TEST_CASE(lines_are_counted_as_python_splits_them) {
  const auto text = "a\r\nb\u2028c\fd" + times("x", 400) + "\n";
  BOOST_TEST(truncate_tokens(text, 20).text.starts_with("Total output lines: 4\n\n"));
  BOOST_TEST(!truncate_tokens(text, 20, false).text.starts_with("Total"));
}

BOOST_AUTO_TEST_CASE(bytes_are_cut_without_counting_the_notes) {
  BOOST_TEST(truncate_bytes("hello", 5) == "hello");
  BOOST_TEST(truncate_bytes("hello", 0) == "…5 chars truncated…");
  BOOST_TEST(truncate_bytes("hello", 3, true) == "Total output lines: 1\n\nh…2 chars truncated…lo");
  BOOST_TEST(truncate_bytes(times("aé日🙂", 80), 3) == "a…319 chars truncated…");
  BOOST_TEST(truncate_bytes(times("🙂", 200), 10) == "🙂…198 chars truncated…🙂");
}
