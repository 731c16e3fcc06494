#include "backends/pty.hpp"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace troupe::backends {

namespace {

error no_terminal(int code) {
  return make_error(errc::exec_transport_error, op::exec,
                    std::string{"failed to open a terminal: "} + std::strerror(code))
    .with("errno", code)
    .with("detail", std::strerror(code));
}

} // namespace

namespace {

result<pty> complete(unique_fd master, uint16_t rows, uint16_t cols) {
  pty out;
  out.master = std::move(master);
  if (!out.master || ::unlockpt(out.master.get()) != 0)
    return unexpected{no_terminal(errno)};
  // By the master and not by name: a name means another terminal in another devpts.
  out.slave.reset(::ioctl(out.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios modes{};
  if (!out.slave || ::tcgetattr(out.slave.get(), &modes) != 0)
    return unexpected{no_terminal(errno)};
  modes.c_iflag |= IUTF8; // so that the erase key takes characters, not bytes
  if (::tcsetattr(out.slave.get(), TCSANOW, &modes) != 0)
    return unexpected{no_terminal(errno)};
  set_window_size(out.master.get(), rows, cols);
  return out;
}

} // namespace

result<pty> open_pty(uint16_t rows, uint16_t cols) {
  return complete(unique_fd{::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)}, rows,
                  cols);
}

result<pty> open_pty_in(int devpts, uint16_t rows, uint16_t cols) {
  return complete(
    unique_fd{::openat(devpts, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)},
    rows, cols);
}

void set_window_size(int master, uint16_t rows, uint16_t cols) {
  winsize size{};
  size.ws_row = rows;
  size.ws_col = cols;
  ::ioctl(master, TIOCSWINSZ, &size);
}

} // namespace troupe::backends
