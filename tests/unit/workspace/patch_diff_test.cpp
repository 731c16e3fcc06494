#include "workspace/patch_diff.hpp"

#include <boost/test/unit_test.hpp>
#include <string>

using namespace troupe;
using namespace troupe::workspace;

namespace {

/// The new text, or the message of the error.
std::string made(const std::string& text, const std::string& diff,
                 diff_mode mode = diff_mode::update) {
  auto x = apply_diff(text, diff, mode);
  if (!x)
    BOOST_TEST(to_string(x.error().code) == "apply_patch_invalid_diff");
  return x ? *x : "error: " + x.error().message;
}

std::string created(const std::string& diff) {
  return made("", diff, diff_mode::create);
}

std::string times(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i)
    out += text;
  return out;
}

const std::string classes = "class A:\n  def m():\n    x\nclass B:\n  def m():\n    x\n";

} // namespace

BOOST_AUTO_TEST_CASE(hunks_replace_insert_and_delete) {
  BOOST_TEST(made("a\nb\nc\n", "@@\n a\n-b\n+B\n c\n") == "a\nB\nc\n");
  BOOST_TEST(made("a\nb\nc\n", " a\n-b\n+B\n") == "a\nB\nc\n");
  BOOST_TEST(made("a\nb\n", "@@\n+x\n") == "x\na\nb\n");
  BOOST_TEST(made("a", "@@\n-a") == "");
  BOOST_TEST(made("a\nb\nc\nd\n", "@@\n-a\n+A\n@@\n-d\n+D\n") == "A\nb\nc\nD\n");
  BOOST_TEST(made("a\nb\nc\n", "@@\n-a\n+A\n-b\n+B\n c\n") == "A\nB\nc\n");
  BOOST_TEST(made("a\n-b\n", "@@\n a\n--b\n++c\n") == "a\n+c\n");
  BOOST_TEST(made("a\n", "") == "a\n");
  BOOST_TEST(made("", "@@\n+x\n") == "x\n");
}

BOOST_AUTO_TEST_CASE(an_empty_line_is_context) {
  BOOST_TEST(made("a\n\nb\n", "@@\n a\n\n-b\n+c\n") == "a\n\nc\n");
}

BOOST_AUTO_TEST_CASE(hunks_go_down_the_text) {
  BOOST_TEST(made("a\nb\nc\n", "@@\n-b\n+x\n@@\n-a\n+y\n") == "error: Invalid Context 2:\na");
  BOOST_TEST(made("a\nb\n", "@@\n-zz\n+c\n") == "error: Invalid Context 0:\nzz");
  BOOST_TEST(made("a\na\na\n", "@@\n-a\n@@\n-a\n") == "a\n");
}

BOOST_AUTO_TEST_CASE(blanks_may_differ_and_those_of_the_text_stay) {
  BOOST_TEST(made("a  \nb\n", "@@\n a\n-b\n+c\n") == "a  \nc\n");
  BOOST_TEST(made("   a\nb\n", "@@\n a\n-b\n+c\n") == "   a\nc\n");
  BOOST_TEST(made("a\u2003\nb\n", "@@\n a\n-b\n+c\n") == "a\u2003\nc\n");
  BOOST_TEST(made("a b\n", "@@\n-a  b\n") == "error: Invalid Context 0:\na  b");
}

BOOST_AUTO_TEST_CASE(a_closer_match_wins_over_a_nearer_one) {
  BOOST_TEST(made(" a\na \na\n", "@@\n-a\n+x\n") == " a\na \nx\n");
  BOOST_TEST(made(" a\na \n", "@@\n-a\n+x\n") == " a\nx\n");
  BOOST_TEST(made(" a\n b\na\nb\n", "@@\n a\n-b\n+x\n") == " a\n b\na\nx\n");
}

BOOST_AUTO_TEST_CASE(repeated_lines_are_matched_at_the_first_place_that_fits) {
  BOOST_TEST(made("a\na\nb\na\na\na\nb\n", "@@\n a\n a\n a\n-b\n+x\n") == "a\na\nb\na\na\na\nx\n");
  BOOST_TEST(made("a\nb\na\na\nb\na\nb\nc\n", "@@\n a\n b\n a\n b\n-c\n")
             == "a\nb\na\na\nb\na\nb\n");
  BOOST_TEST(made(times("a\n", 50) + "b\n", "@@\n" + times(" a\n", 50) + " a\n-b\n")
             == "error: Invalid Context 0:\n" + times("a\n", 51) + "b");
}

BOOST_AUTO_TEST_CASE(anchors_lead_to_the_place) {
  BOOST_TEST(made("a\nb\n", "@@ a\n+x\n") == "a\nx\nb\n");
  auto second = "class A:\n  def m():\n    x\nclass B:\n  def m():\n    y\n";
  BOOST_TEST(made(classes, "@@ class B:\n   def m():\n-    x\n+    y\n") == second);
  BOOST_TEST(made(classes, "@@ class B:\n@@ def m():\n-    x\n+    y\n") == second);
  BOOST_TEST(made(classes, "@@ class B:\n@@   \n@@ def m():\n-    x\n+    y\n") == second);
}

BOOST_AUTO_TEST_CASE(one_anchor_that_is_missing_is_ignored_but_not_one_of_several) {
  BOOST_TEST(made("a\nb\n", "@@ nope\n-b\n+c\n") == "a\nc\n");
  BOOST_TEST(made("class A:\n", "@@ class B:\n@@ def m():\n+x\n")
             == "error: Invalid Anchor 0:\nclass B:");
  BOOST_TEST(made("class A:\n", "@@ class A:\n@@ def m():\n+x\n")
             == "error: Invalid Anchor 1:\ndef m():");
  BOOST_TEST(made("a\nb\n", "@@\n@@ nope\n-b\n") == "error: Invalid Anchor 0:\nnope");
}

BOOST_AUTO_TEST_CASE(the_first_anchor_may_be_behind_and_later_ones_not) {
  BOOST_TEST(made("f\na\nf\nb\n", "@@ f\n-a\n@@ f\n-b\n") == "f\nf\n");
  BOOST_TEST(made("f\na\n f\nb\n", "@@\n f\n-a\n@@ f\n+x\n") == "f\nx\n f\nb\n");
  BOOST_TEST(made("f\ng\n", "@@ f\n g\n@@ f\n@@ g\n+x\n") == "error: Invalid Anchor 2:\ng");
}

BOOST_AUTO_TEST_CASE(only_the_first_hunk_needs_no_header) {
  BOOST_TEST(made("a\nb\n", "@@\n-a\n+x\n***\n-b\n+y\n") == "error: Invalid Line:\n***");
  BOOST_TEST(made("a\n", "@@\n") == "error: Nothing in this section - index=1 *** End Patch");
  BOOST_TEST(made("a\n", "@@\n@@x\n") == "error: Nothing in this section - index=1 @@x");
  BOOST_TEST(made("a\n", "+x\n***\n") == "error: Nothing in this section - index=1 ***");
  BOOST_TEST(made("a\n", "@@\n-a\n@@x\n") == "error: Invalid Line:\n@@x");
}

BOOST_AUTO_TEST_CASE(lines_of_another_kind_are_refused) {
  BOOST_TEST(made("a\n", "@@\n\ta\n") == "error: Invalid Line: \ta");
  BOOST_TEST(made("a\n", "@@\n*** Move to: b\n") == "error: Invalid Line: *** Move to: b");
}

BOOST_AUTO_TEST_CASE(a_header_of_the_patch_ends_the_diff) {
  for (auto line : {"*** End Patch", "*** Add File: x", "*** Update File:x", "*** Delete File: x",
                    "*** End of File, nearly"})
    BOOST_TEST(made("a\nb\n", "@@\n-a\n+x\n" + std::string{line} + "\nanything\n") == "x\nb\n",
               line);
}

BOOST_AUTO_TEST_CASE(the_end_of_the_file_is_found_with_and_without_a_last_newline) {
  const std::string diff = "@@\n-b\n+c\n*** End of File\n";
  BOOST_TEST(made("a\nb\na\nb", diff) == "a\nb\na\nc");
  BOOST_TEST(made("a\nb\na\nb\n", diff) == "a\nb\na\nc\n");
  BOOST_TEST(made("a\nb\na\n b \n", diff) == "a\nb\na\nc\n");
  BOOST_TEST(made("a\nb\nx\n", diff) == "a\nc\nx\n"); // not at the end: anywhere
  BOOST_TEST(made("a\nx\n", diff) == "error: Invalid EOF Context 0:\nb");
}

BOOST_AUTO_TEST_CASE(an_insertion_at_the_end_of_the_file_comes_after_its_last_newline) {
  BOOST_TEST(made("a\n", "@@\n+x\n*** End of File\n") == "a\n\nx");
  BOOST_TEST(made("a", "@@\n+x\n*** End of File\n") == "a\nx");
}

BOOST_AUTO_TEST_CASE(a_hunk_at_the_end_may_not_go_back) {
  BOOST_TEST(made("a\nb", "@@\n-a\n-b\n@@\n-b\n*** End of File\n")
             == "error: applyDiff: overlapping chunk at 1 (cursor 2)");
  BOOST_TEST(made("a\nb\n", "@@\n-a\n-b\n@@\n-b\n*** End of File\n")
             == "error: Invalid EOF Context 2:\nb");
}

BOOST_AUTO_TEST_CASE(line_ends_are_those_of_the_text) {
  BOOST_TEST(made("a\r\nb\r\n", "@@\n-b\n+c\n") == "a\r\nc\r\n");
  BOOST_TEST(made("a\nb\n", "@@\r\n-b\r\n+c\r\n") == "a\nc\n");
  BOOST_TEST(made("a\r\nb\nc\n", "@@\n-b\n+x\n") == "a\r\nx\r\nc\r\n");
  BOOST_TEST(made("a", "@@\r\n a\r\n+b\r\n") == "a\r\nb");
  BOOST_TEST(made("a\r\r\nb\r", "@@\n+x\n") == "x\r\na\r\r\nb\r");
}

BOOST_AUTO_TEST_CASE(a_new_file_is_made_of_added_lines) {
  BOOST_TEST(created("+a\n+b\n") == "a\nb");
  BOOST_TEST(created("+a\n+\n") == "a\n");
  BOOST_TEST(created("+a\r\n+b\r\n") == "a\r\nb");
  BOOST_TEST(created("") == "");
  BOOST_TEST(created("+a\n*** End Patch\nanything") == "a");
  BOOST_TEST(created("+a\n\n+b\n") == "error: Invalid Add File Line: ");
  BOOST_TEST(created("+a\n*** End of File\n") == "error: Invalid Add File Line: *** End of File");
}

BOOST_AUTO_TEST_CASE(a_text_of_one_line_repeated_costs_no_more_than_its_length) {
  // Compared line by line at every place, each of these would take hours.
  const auto text = times("x\n", 200'000);
  BOOST_TEST((made(text, "@@\n" + times("-x\n", 100'000) + "-y\n").substr(0, 22)
              == "error: Invalid Context"));
  BOOST_TEST((made(text + "y\n", "@@\n" + times(" x\n", 100'000) + "-y\n") == text));
  BOOST_TEST((made(text, times("@@ x\n x\n-x\n", 50'000)).size() == 2 * 150'000));
}

BOOST_AUTO_TEST_CASE(a_match_that_takes_too_long_is_given_up) {
  // No line is rare, and each hunk is looked for in the whole text before blanks may differ.
  BOOST_TEST(made(times("a\na \n", 50'000), times("@@\n a \n a \n", 20'000))
             == "error: apply_patch diff takes too long to match");
}

BOOST_AUTO_TEST_CASE(too_many_lines_are_refused) {
  auto many = times("\n", static_cast<int>(max_patch_lines) + 1);
  BOOST_TEST(to_string(apply_diff(many, "", diff_mode::update).error().code)
             == "payload_too_large");
  BOOST_TEST(to_string(apply_diff("", many, diff_mode::create).error().code)
             == "payload_too_large");
}

BOOST_AUTO_TEST_CASE(errors_repeat_only_the_start_of_a_long_context) {
  BOOST_TEST(made("a\n", "@@\n" + times(" " + std::string(1000, 'x') + "\n", 1000)).size() < 3000);
}
