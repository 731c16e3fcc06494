#include "workspace/patch_text.hpp"

#include <boost/test/unit_test.hpp>
#include <string>

using namespace troupe;
using namespace troupe::workspace;

namespace {

/// Operations as "kind path (move) {diff}", or the message of the error.
std::string shown(const result<std::vector<patch_operation>>& operations) {
  if (!operations) {
    BOOST_TEST(to_string(operations.error().code) == "apply_patch_invalid_diff");
    return operations.error().message;
  }
  std::string out;
  for (const auto& x : *operations) {
    out.append(to_string(x.kind)).append(" ").append(x.path);
    if (x.move_to)
      out.append(" (" + *x.move_to + ')');
    if (x.diff)
      out.append(" {" + *x.diff + '}');
    out += ';';
  }
  return out;
}

std::string parsed(const std::string& text) {
  return shown(parse_patch(text));
}

std::string enveloped(const std::string& body) {
  return parsed("*** Begin Patch\n" + body + "*** End Patch\n");
}

std::string sent(const std::string& text) {
  return shown(read_patch_operations(parse_json(text).value()));
}

} // namespace

BOOST_AUTO_TEST_CASE(sections_become_operations) {
  BOOST_TEST(enveloped("*** Add File: a b\n+x\n+\n*** Delete File:  c \n*** Update File: d\n"
                       "*** Move to: e\n@@\n-1\n\n")
             == "create_file a b {+x\n+\n};delete_file c;update_file d (e) {@@\n-1\n\n};");
}

BOOST_AUTO_TEST_CASE(the_last_newline_may_be_missing_and_nothing_else) {
  const std::string body = "*** Begin Patch\n*** Delete File: a\n*** End Patch";
  BOOST_TEST(parsed(body) == "delete_file a;");
  BOOST_TEST(parsed(body + "\r\n") == "delete_file a;");
  const std::string no_end = "apply_patch input must end with '*** End Patch'";
  for (auto end : {"\n\n", " ", "\n ", "x"})
    BOOST_TEST(parsed(body + end) == no_end);
  BOOST_TEST(parsed("*** Begin Patch") == no_end);
  BOOST_TEST(parsed("*** Begin Patch\n") == no_end);
  BOOST_TEST(parsed("*** Begin Patch\n+*** End Patch") == no_end);
  const std::string no_start = "apply_patch input must start with '*** Begin Patch'";
  for (auto text : {"", "\n*** Begin Patch\n*** End Patch", " *** Begin Patch\n", "<<EOF\n"})
    BOOST_TEST(parsed(text) == no_start);
}

BOOST_AUTO_TEST_CASE(faults_of_the_text_form_are_named) {
  BOOST_TEST(enveloped("") == "apply_patch input must include at least one file operation");
  BOOST_TEST(enveloped("hello\n") == "Invalid apply_patch file operation header: hello");
  BOOST_TEST(enveloped("*** Update File:a\n@@\n")
             == "Invalid apply_patch file operation header: *** Update File:a");
  BOOST_TEST(enveloped("*** Add File: \n+x\n")
             == "Missing path in apply_patch header: *** Add File: ");
  BOOST_TEST(enveloped("*** Update File: a\n*** Move to: \u00A0\n@@\n")
             == "Missing path in apply_patch header: *** Move to: \u00A0");
  BOOST_TEST(enveloped("*** Add File: a\n+x\n\n") == "Invalid Add File line: ");
  BOOST_TEST(enveloped("*** Add File: a\n*** Delete File: b\n")
             == "Add File patch for a must include at least one + line");
  BOOST_TEST(enveloped("*** Delete File: a\n-x\n")
             == "Delete File patch for a must not include a diff");
  BOOST_TEST(enveloped("*** Update File: a\n") == "Update File patch for a must include a hunk");
  BOOST_TEST(enveloped("*** Update File: a\n*** Move to: b\n")
             == "Update File patch for a must include a hunk");
}

BOOST_AUTO_TEST_CASE(a_section_reaches_to_the_next_header) {
  BOOST_TEST(enveloped("*** Update File: a\n@@\n-1\n*** End Patch\n*** Delete File: b\n")
             == "update_file a {@@\n-1\n*** End Patch\n};delete_file b;");
  BOOST_TEST(enveloped("*** Update File: a\n*** Update File:b\n")
             == "update_file a {*** Update File:b\n};");
  BOOST_TEST(enveloped("*** Update File: a\n@@\n*** Move to: b\n")
             == "update_file a {@@\n*** Move to: b\n};");
}

BOOST_AUTO_TEST_CASE(lines_of_the_text_form_end_at_every_boundary_that_unicode_has) {
  BOOST_TEST(enveloped("*** Add File: a\n+1\u0085+2\x1C+3\r+4\r\n")
             == "create_file a {+1\n+2\n+3\n+4\n};");
  BOOST_TEST(enveloped("*** Add File: a\n+1\v2\n") == "Invalid Add File line: 2");
}

BOOST_AUTO_TEST_CASE(json_has_one_operation_or_a_list) {
  const std::string one = R"({"type":"delete_file","path":"a","diff":"zz"})";
  for (const auto& text : {one, "{\"operation\":" + one + "}", "{\"operations\":[" + one + "]}",
                           " \n[" + one + "]", "{\"operations\":3,\"operation\":" + one + "}"})
    BOOST_TEST(parsed(text) == "delete_file a;");
  BOOST_TEST(parsed("[]") == "");
  BOOST_TEST(parsed(R"({"type":"update_file","path":"a","diff":"@@\n-1","move_to":"b"})")
             == "update_file a (b) {@@\n-1};");
}

BOOST_AUTO_TEST_CASE(faults_of_the_json_form_are_named) {
  BOOST_TEST(parsed("{") == "malformed JSON");
  BOOST_TEST(parsed("[1]") == "apply_patch operation must be an object");
  BOOST_TEST(parsed("{}") == "Invalid apply_patch operation type: null");
  BOOST_TEST(parsed(R"({"type":"chmod"})") == "Invalid apply_patch operation type: chmod");
  for (auto path : {"", R"(,"path":"")", R"(,"path":1)"})
    BOOST_TEST(parsed(R"({"type":"delete_file")" + std::string{path} + "}")
               == "apply_patch operation is missing a path");
  for (auto diff : {"", R"(,"diff":null)", R"(,"diff":[])"})
    BOOST_TEST(parsed(R"({"type":"create_file","path":"a")" + std::string{diff} + "}")
               == "apply_patch operation create_file is missing a diff");
  BOOST_TEST(parsed(R"({"type":"update_file","path":"a","diff":"","move_to":1})")
             == "apply_patch operation move_to must be a string");
}

BOOST_AUTO_TEST_CASE(a_client_sends_objects_whose_diff_may_be_absent) {
  BOOST_TEST(sent(R"({"type":"create_file","path":"a"})") == "create_file a;");
  BOOST_TEST(sent(R"([{"type":"delete_file","path":"","diff":"x","move_to":null}])")
             == "delete_file  {x};");
  BOOST_TEST(sent("[]") == "");
  BOOST_TEST(sent("3") == "Invalid apply_patch operations payload: number");
  BOOST_TEST(sent(R"(["a"])") == "Invalid apply_patch operation type: string");
  BOOST_TEST(sent(R"({"type":"x","path":"a"})") == "Invalid apply_patch operation type: string");
  BOOST_TEST(sent(R"({"type":"delete_file"})") == "Invalid apply_patch path type: null");
  BOOST_TEST(sent(R"({"type":"update_file","path":"a","diff":1})")
             == "Invalid apply_patch diff type: number");
  BOOST_TEST(sent(R"({"type":"update_file","path":"a","move_to":[]})")
             == "Invalid apply_patch move_to type: array");
}

BOOST_AUTO_TEST_CASE(errors_repeat_only_the_start_of_a_long_line) {
  auto message = enveloped(std::string(1'000'000, 'x') + "\n");
  BOOST_TEST(message.size() < 1000);
  BOOST_TEST(message.starts_with("Invalid apply_patch file operation header: xxx"));
}
