#include "backends/pty.hpp"

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <array>
#include <cerrno>
#include <string>
#include <utility>

using namespace troupe;
using namespace troupe::backends;

namespace {

struct terminal_fixture {
  terminal_fixture() {
    auto opened = open_pty(30, 100);
    BOOST_REQUIRE(opened);
    terminal = std::move(*opened);
  }

  std::pair<int, int> size() const {
    winsize out{};
    BOOST_REQUIRE(::ioctl(terminal.slave.get(), TIOCGWINSZ, &out) == 0);
    return {out.ws_row, out.ws_col};
  }

  pty terminal;
};

void write_all(const unique_fd& fd, const std::string& text) {
  BOOST_REQUIRE(::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

/// What can be read, once there is something.
std::string read_some(const unique_fd& fd) {
  pollfd p{fd.get(), POLLIN, 0};
  BOOST_REQUIRE(::poll(&p, 1, 60'000) == 1);
  std::array<char, 256> buffer;
  auto n = ::read(fd.get(), buffer.data(), buffer.size());
  BOOST_REQUIRE(n >= 0);
  return {buffer.data(), static_cast<size_t>(n)};
}

} // namespace

BOOST_FIXTURE_TEST_SUITE(pty_suite, terminal_fixture)

BOOST_AUTO_TEST_CASE(it_has_the_size_it_is_given) {
  BOOST_TEST((size() == std::pair{30, 100}));
  set_window_size(terminal.master.get(), 50, 200);
  BOOST_TEST((size() == std::pair{50, 200}));
}

BOOST_AUTO_TEST_CASE(neither_end_survives_an_exec_and_the_master_does_not_block) {
  for (const auto& fd : {std::cref(terminal.master), std::cref(terminal.slave)})
    BOOST_TEST(::fcntl(fd.get().get(), F_GETFD) == FD_CLOEXEC);
  BOOST_TEST((::fcntl(terminal.master.get(), F_GETFL) & O_NONBLOCK) != 0);
  BOOST_TEST((::fcntl(terminal.slave.get(), F_GETFL) & O_NONBLOCK) == 0);
  char byte;
  BOOST_TEST(::read(terminal.master.get(), &byte, 1) == -1);
  BOOST_TEST(errno == EAGAIN);
}

BOOST_AUTO_TEST_CASE(lines_that_are_typed_are_echoed_and_read) {
  write_all(terminal.master, "hello\n");
  BOOST_TEST(read_some(terminal.slave) == "hello\n");
  BOOST_TEST(read_some(terminal.master) == "hello\r\n");
}

BOOST_AUTO_TEST_CASE(the_erase_key_takes_a_whole_character) {
  write_all(terminal.master, "aé\x7F\n");
  BOOST_TEST(read_some(terminal.slave) == "a\n");
}

BOOST_AUTO_TEST_CASE(the_end_of_the_slave_comes_after_its_last_output) {
  write_all(terminal.slave, "bye");
  terminal.slave.reset();
  BOOST_TEST(read_some(terminal.master) == "bye");
  char byte;
  BOOST_TEST(::read(terminal.master.get(), &byte, 1) == -1);
  BOOST_TEST(errno == EIO);
}

BOOST_AUTO_TEST_CASE(opening_one_makes_it_nobodys_controlling_terminal) {
  pid_t session = 0;
  BOOST_TEST(::ioctl(terminal.slave.get(), TIOCGSID, &session) == -1);
}

BOOST_AUTO_TEST_SUITE_END()
