#include "actors/sinks/append.hpp"

#include "support.hpp"

#include <sys/file.h>

#include <thread>

using namespace troupe;
using namespace troupe::test;

BOOST_FIXTURE_TEST_SUITE(appending, test_folder)

BOOST_AUTO_TEST_CASE(a_host_file_is_made_with_its_parents_and_grows) {
  auto file = outside + "/a/b/events.jsonl";
  BOOST_TEST(append_to_file(file, "1\n").has_value());
  BOOST_TEST(append_to_file(file, "2\n").has_value());
  BOOST_TEST(read_file(file) == "1\n2\n");
  BOOST_TEST(mode_of(file) == 0600u);
}

BOOST_AUTO_TEST_CASE(a_fifo_cannot_hold_a_writer_up) {
  auto fifo = outside + "/fifo";
  BOOST_REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  BOOST_TEST(outcome(append_to_file(fifo, "x"))
             == "workspace_archive_write_error: not_a_regular_file");
  unique_fd reader{::open(fifo.c_str(), O_RDONLY | O_NONBLOCK)};
  BOOST_TEST(outcome(append_to_file(fifo, "x"))
             == "workspace_archive_write_error: not_a_regular_file");
}

BOOST_AUTO_TEST_CASE(a_lock_that_is_never_given_up_is_an_error) {
  auto file = outside + "/events.jsonl";
  write_file(file, "");
  unique_fd holder{::open(file.c_str(), O_RDONLY)};
  BOOST_REQUIRE(::flock(holder.get(), LOCK_EX) == 0);
  auto refused = append_to_file(file, "x");
  BOOST_TEST(outcome(refused) == "workspace_archive_write_error: busy");
  BOOST_TEST(read_file(file) == "");
}

BOOST_AUTO_TEST_CASE(lines_of_many_writers_stay_whole) {
  auto file = outside + "/events.jsonl";
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i)
    writers.emplace_back([&, i] {
      auto line = std::string(5000, static_cast<char>('a' + i)) + '\n';
      for (int n = 0; n < 25; ++n)
        (void) append_to_file(file, line);
    });
  for (auto& writer : writers)
    writer.join();
  std::istringstream in{read_file(file)};
  size_t lines = 0;
  for (std::string line; std::getline(in, line); ++lines)
    BOOST_REQUIRE(line == std::string(5000, line[0]));
  BOOST_TEST(lines == 100u);
}

BOOST_AUTO_TEST_CASE(a_workspace_file_is_made_with_its_parents_and_grows) {
  BOOST_TEST(append_beneath(fd.get(), "logs/e.jsonl", "1\n").has_value());
  BOOST_TEST(append_beneath(fd.get(), "logs/e.jsonl", "2\n").has_value());
  BOOST_TEST(read_file(in_root("logs/e.jsonl")) == "1\n2\n");
  BOOST_TEST(mode_of(in_root("logs/e.jsonl")) == 0644u);
}

BOOST_AUTO_TEST_CASE(nothing_outside_of_a_workspace_is_written) {
  write_file(outside + "/victim", "");
  BOOST_REQUIRE(::symlink(outside.c_str(), in_root("logs").c_str()) == 0);
  BOOST_TEST(!append_beneath(fd.get(), "logs/victim", "x"));
  BOOST_REQUIRE(::symlink((outside + "/victim").c_str(), in_root("link").c_str()) == 0);
  BOOST_TEST(!append_beneath(fd.get(), "link", "x"));
  BOOST_REQUIRE(::link((outside + "/victim").c_str(), in_root("hard").c_str()) == 0);
  BOOST_TEST(!append_beneath(fd.get(), "hard", "x"));
  BOOST_TEST(!append_beneath(fd.get(), "../outside/victim", "x"));
  BOOST_TEST(read_file(outside + "/victim") == "");
}

BOOST_AUTO_TEST_CASE(a_fifo_in_a_workspace_cannot_hold_a_writer_up) {
  BOOST_REQUIRE(::mkfifo(in_root("e.jsonl").c_str(), 0600) == 0);
  unique_fd reader{::open(in_root("e.jsonl").c_str(), O_RDONLY | O_NONBLOCK)};
  BOOST_TEST(!append_beneath(fd.get(), "e.jsonl", "x"));
}

BOOST_AUTO_TEST_CASE(a_line_that_does_not_fit_leaves_nothing_torn) {
  ::mkdir((path + "/small").c_str(), 0755);
  private_tmpfs small{path + "/small", "size=16k"};
  if (!small.mounted)
    return;
  auto file = small.path + "/events.jsonl";
  BOOST_TEST(append_to_file(file, "whole\n").has_value());
  BOOST_TEST(outcome(append_to_file(file, std::string(64 * 1024, 'x'))) == "no_space: no_space");
  BOOST_TEST(read_file(file) == "whole\n");
}

BOOST_AUTO_TEST_SUITE_END()
