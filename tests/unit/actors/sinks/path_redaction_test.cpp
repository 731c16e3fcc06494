#include "actors/sinks/path_redaction.hpp"

#include "support.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

event redacted(event x) {
  redact_paths(x);
  return x;
}

std::string redacted_data(std::string data) {
  return redacted(make_event(op::exec, event_phase::start, 1, std::move(data))).data;
}

std::string redacted_message(error failure) {
  auto x = make_event(op::read, event_phase::finish);
  x.failure = std::move(failure);
  return redacted(std::move(x)).failure->message;
}

} // namespace

BOOST_AUTO_TEST_SUITE(redaction_of_paths)

BOOST_AUTO_TEST_CASE(members_that_name_a_path_are_replaced_whole) {
  BOOST_TEST(redacted_data(R"({"path":"my secret/a b","user":"bob"})")
             == R"({"path":"<path>","user":"bob"})");
  BOOST_TEST(redacted_data(R"({"workspace_root":"/w","tar_path":"/t/x.tar"})")
             == R"({"workspace_root":"<path>","tar_path":"<path>"})");
}

BOOST_AUTO_TEST_CASE(absolute_paths_inside_other_text_are_replaced) {
  BOOST_TEST(redacted_data(R"({"command":["cat /etc/passwd; ls '/a b' --out=/tmp/x","a/b"]})")
             == R"({"command":["cat <path>; ls '<path> b' --out=<path>","a/b"]})");
}

BOOST_AUTO_TEST_CASE(urls_stay) {
  BOOST_TEST(redacted_data(R"({"command":["curl https://host/x"]})")
             == R"({"command":["curl https://host/x"]})");
}

BOOST_AUTO_TEST_CASE(messages_lose_the_paths_that_their_context_knows) {
  auto relative
    = make_error(errc::workspace_read_not_found, op::read, "file not found: src/a b.txt")
        .with("path", "src/a b.txt");
  BOOST_TEST(redacted_message(relative) == "file not found: <path>");
  auto absolute = make_error(errc::workspace_read_not_found, op::read, "file not found: /w/a");
  BOOST_TEST(redacted_message(absolute) == "file not found: <path>");
}

BOOST_AUTO_TEST_CASE(a_short_name_does_not_eat_words) {
  auto x
    = make_error(errc::workspace_archive_read_error, op::read, "failed to read archive for path: a")
        .with("path", "a");
  BOOST_TEST(redacted_message(x) == "failed to read archive for path: <path>");
}

BOOST_AUTO_TEST_CASE(the_context_goes) {
  auto x = make_event(op::read, event_phase::finish);
  x.failure = make_error(errc::internal, op::read, "no").with("path", "/w/a");
  BOOST_TEST(redacted(x).failure->context == "{}");
}

BOOST_AUTO_TEST_SUITE_END()
