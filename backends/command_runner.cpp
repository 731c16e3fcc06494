#include "backends/command_runner.hpp"

#include "backends/proc.hpp"
#include "backends/pty.hpp"
#include "backends/terminal.hpp"
#include "messages/ids.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

namespace troupe::backends {

namespace {

using clock = reactor::clock;
using std::chrono::milliseconds;

/// Of one read, and of one piece of streamed output.
constexpr size_t chunk_size = 64 * 1024;

/// Reads when a process has ended: what a pipe of the largest ordinary size (1 MiB) holds.
constexpr int reads_at_end = 16;

/// What the pipes of an ended command hold at most. More than that after the grace is of those it
/// left behind.
constexpr int64_t most_left_behind = 2 * reads_at_end * static_cast<int64_t>(chunk_size);

/// After a command ended, how long whoever still holds its pipes may keep its answer waiting.
constexpr milliseconds pipe_grace{100};

/// Collected output of all commands of one sandbox; what is more is dropped and reported as
/// truncated.
constexpr int64_t buffer_limit = 256 * 1024 * 1024;

/// Between two reads of what left-over processes write, lest one that writes without end take the
/// reactor.
constexpr milliseconds leftover_pace{10};

/// When the pool that kills trees is full.
constexpr milliseconds kill_retry{10};

/// A timeout beyond this is none, and adding it to the time now must not overflow.
constexpr std::chrono::hours longest_timeout{24 * 365};

/// Apart from the ids of an earlier process: a sandbox may have outlived it with commands of its
/// own.
std::atomic<command_id> last_id{std::stoull(random_hex(3), nullptr, 16) << 36};

/// Where all reads go, as fresh memory costs more than the read itself.
std::array<char, chunk_size>& read_buffer() {
  static thread_local std::array<char, chunk_size> buffer;
  return buffer;
}

error system_error(const char* what, int code) {
  return make_error(errc::exec_transport_error, op::exec,
                    std::string{"failed to start: "} + what + ": " + std::strerror(code))
    .with("errno", code)
    .with("detail", std::strerror(code));
}

struct pipe_ends {
  unique_fd read;
  unique_fd write;
};

/// A pipe of which only our end does not block: the program's must be as programs expect it.
result<pipe_ends> make_pipe(bool we_read) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0)
    return unexpected{system_error("pipe", errno)};
  pipe_ends ends{unique_fd{fds[0]}, unique_fd{fds[1]}};
  ::fcntl(fds[we_read ? 0 : 1], F_SETFL, O_NONBLOCK);
  return ends;
}

bool is_ready(int fd, short event) {
  pollfd p{fd, event, 0};
  return ::poll(&p, 1, 0) > 0 && (p.revents & event) != 0;
}

/// By poll, as FIONREAD does not see what is on its way through a terminal.
bool is_drained(int fd) {
  return !is_ready(fd, POLLIN);
}

/// Whether a read would say so, without reading. The hang-up first: nothing can be written after
/// it.
bool is_at_end(int fd) {
  return is_ready(fd, POLLHUP) && is_drained(fd);
}

} // namespace

// -- member types --------------------------------------------------------------------------------

struct command_runner::stream {
  stream_id id = stream_id::out;
  unique_fd fd; ///< our end; closed: at its end, or not a pipe of ours
  reactor::watch_id watch = 0;
  std::string data;
  bool truncated = false;
};

struct command_runner::command {
  command_id id = 0;
  command_spec spec;
  command_handlers handlers;

  std::optional<terminal_options> terminal; ///< it is an interactive process

  // -- until it is started
  unique_fd child_ends[3];
  result<spawned> start;

  // -- reactor thread only
  spawned process;
  clock::time_point asked_at;
  unique_fd input;
  size_t input_written = 0;
  reactor::watch_id input_watch = 0;
  stream out;
  stream err;
  /// Set until a process with a terminal ends: without it, a program that closes its own
  /// descriptors would hang up on itself.
  unique_fd slave;
  input_queue typed;
  int64_t credit = 0;
  reactor::watch_id process_watch = 0;
  reactor::timer_id deadline = 0;
  reactor::timer_id grace = 0;
  bool running = false;
  bool killing
    = false; ///< its tree is being killed, so it must not be reaped: its pid would be free
  bool timed_out = false;
  bool cancelled = false;
  bool ended = false;
  bool grace_over = false;
  int64_t left_behind = most_left_behind; ///< streamed: how much may come after the grace
  int32_t exit_code = 0;
  std::chrono::nanoseconds wall{0};
  std::optional<error> lost; ///< inside: it never ran, or the sandbox ended under it
};

struct command_runner::leftover {
  unique_fd fd;
  reactor::watch_id watch = 0;
  reactor::timer_id pause = 0;
};

// -- public --------------------------------------------------------------------------------------

command_runner::command_runner(runner_services services, std::string owner, shared_fd cgroup)
  : services_(services), owner_(std::move(owner)), cgroup_(std::move(cgroup)) {}

command_runner::command_runner(runner_services services, std::string owner,
                               std::shared_ptr<command_host> host)
  : services_(services), owner_(std::move(owner)), host_(std::move(host)) {}

command_runner::~command_runner() = default;

command_id command_runner::start(command_spec spec, command_handlers handlers) {
  auto c = std::make_shared<command>();
  c->handlers = std::move(handlers);
  c->spec = std::move(spec);
  return start(c);
}

command_id command_runner::open_terminal(command_spec spec, terminal_options options,
                                         terminal_handlers handlers) {
  auto c = std::make_shared<command>();
  c->terminal = options;
  c->handlers.on_exit = std::move(handlers.on_exit);
  if (handlers.on_output)
    c->handlers.on_output = [on_output = std::move(handlers.on_output)](stream_id, auto bytes) {
      on_output(std::move(bytes));
    };
  c->spec = std::move(spec);
  c->spec.streamed = true;
  return start(c);
}

command_id command_runner::start(const command_ptr& c) {
  c->id = ++last_id;
  c->asked_at = clock::now();
  c->credit = c->spec.credit;
  c->err.id = stream_id::err;
  bool refused;
  {
    std::lock_guard guard{mutex_};
    refused = stopped_;
    if (!refused)
      commands_.emplace(c->id, c);
  }
  if (refused) {
    fail(c, make_error(errc::conflict, op::exec, "the sandbox is shut down"));
    return c->id;
  }
  if (auto ok = open_streams(*c); !ok) {
    fail(c, std::move(ok.error()));
    return c->id;
  }
  spawn_request request;
  request.argv = std::move(c->spec.argv);
  request.env = std::move(c->spec.env);
  request.cwd = std::move(c->spec.cwd);
  auto pick = [](const shared_fd& given, const unique_fd& made) {
    return given ? given->get() : made.get();
  };
  if (c->terminal) {
    request.controlling_terminal = c->terminal->tty;
    request.stdin_fd = c->slave.get();
    request.stdout_fd = request.stderr_fd = c->slave ? c->slave.get() : c->child_ends[1].get();
  } else {
    request.stdin_fd = pick(c->spec.stdin_fd, c->child_ends[0]);
    request.stdout_fd = pick(c->spec.stdout_fd, c->child_ends[1]);
    request.stderr_fd = pick(c->spec.stderr_fd, c->child_ends[2]);
  }
  request.as = c->spec.as;
  if (host_) {
    request.kept_out = c->out.fd.get();
    request.kept_err = c->err.fd.get();
    start_inside(c, std::move(request));
    return c->id;
  }
  request.cgroup_fd = cgroup_ ? cgroup_->get() : -1;
  auto started = [self = shared_from_this(), c](result<spawned> outcome) {
    c->start = std::move(outcome);
    // Before anything else: as long as these are open, the pipes have no end.
    for (auto& fd : c->child_ends)
      fd.reset();
    self->services_.events.post([self, c] { self->on_started(c); });
  };
  if (!services_.starts.submit(std::move(request), std::move(started)))
    fail(c, make_error(errc::overloaded, op::exec, "too many commands are waiting to be started"));
  return c->id;
}

void command_runner::grant(command_id id, int64_t bytes) {
  services_.events.post([self = shared_from_this(), id, bytes] {
    auto c = self->find(id);
    if (!c || bytes <= 0)
      return;
    c->credit += bytes;
    for (auto s : {&c->out, &c->err})
      self->services_.events.modify(s->watch, interest(*c, *s));
    self->settle(c);
  });
}

void command_runner::write_terminal(command_id id, std::string bytes,
                                    std::function<void(result<void>)> done) {
  services_.events.post(
    [self = shared_from_this(), id, bytes = std::move(bytes), done = std::move(done)]() mutable {
      auto c = self->find(id);
      if (!c || c->ended)
        done({});
      else if (!c->slave)
        done(unexpected{
          make_error(errc::conflict, op::exec, "stdin is not available for this process")});
      else {
        c->typed.push(std::move(bytes), std::move(done));
        self->type(*c);
      }
    });
}

void command_runner::resize_terminal(command_id id, uint16_t rows, uint16_t cols) {
  services_.events.post([self = shared_from_this(), id, rows, cols] {
    if (auto c = self->find(id); c && c->slave)
      set_window_size(c->out.fd.get(), rows, cols);
  });
}

void command_runner::cancel(command_id id) {
  services_.events.post([self = shared_from_this(), id] {
    auto c = self->find(id);
    if (!c)
      return;
    c->cancelled = true;
    if (c->ended)
      self->finish(c);
    else if (c->running)
      self->kill(c);
  });
}

void command_runner::stop(std::function<void()> done) {
  std::vector<command_id> live;
  {
    std::lock_guard guard{mutex_};
    stopped_ = true;
    for (const auto& [id, c] : commands_)
      live.push_back(id);
    on_stopped_ = live.empty() ? nullptr : done;
  }
  if (live.empty())
    services_.events.post(std::move(done));
  for (auto id : live)
    cancel(id);
}

void command_runner::close_leftover_pipes() {
  for (auto& [id, x] : leftovers_) {
    services_.events.cancel(x.pause);
    services_.events.unwatch(x.watch);
  }
  leftovers_.clear();
}

// -- starting ------------------------------------------------------------------------------------

result<void> command_runner::open_streams(command& c) {
  if (c.terminal)
    return open_terminal_streams(c);
  if (!c.spec.stdin_fd && !c.spec.stdin_data.empty()) {
    auto ends = make_pipe(false);
    if (!ends)
      return unexpected{std::move(ends.error())};
    c.child_ends[0] = std::move(ends->read);
    c.input = std::move(ends->write);
    write_input(c); // most input fits into the pipe, and then nobody has to come back for it
  }
  auto open = [](const shared_fd& given, unique_fd& child_end, stream& s) -> result<void> {
    if (given)
      return {};
    auto ends = make_pipe(true);
    if (!ends)
      return unexpected{std::move(ends.error())};
    child_end = std::move(ends->write);
    s.fd = std::move(ends->read);
    return {};
  };
  if (auto ok = open(c.spec.stdout_fd, c.child_ends[1], c.out); !ok)
    return ok;
  return open(c.spec.stderr_fd, c.child_ends[2], c.err);
}

result<void> command_runner::open_terminal_streams(command& c) {
  if (c.terminal->tty) {
    auto opened = host_ ? host_->open_terminal(c.terminal->rows, c.terminal->cols, c.spec.as)
                        : open_pty(c.terminal->rows, c.terminal->cols);
    if (!opened)
      return unexpected{std::move(opened.error())};
    c.out.fd = std::move(opened->master);
    c.slave = std::move(opened->slave);
    return {};
  }
  auto ends = make_pipe(true);
  if (!ends)
    return unexpected{std::move(ends.error())};
  c.out.fd = std::move(ends->read);
  c.child_ends[1] = std::move(ends->write);
  return {};
}

void command_runner::fail(const command_ptr& c, error why) {
  services_.events.post(
    [self = shared_from_this(), c, why = std::move(why)] { self->release(c, unexpected{why}); });
}

void command_runner::start_inside(const command_ptr& c, spawn_request request) {
  // First, so that it comes before the end on the reactor thread: init answers once, at the end.
  services_.events.post([self = shared_from_this(), c] { self->on_started(c); });
  host_->start(c->id, std::move(request), [self = shared_from_this(), c](result<int32_t> code) {
    if (!code)
      c->lost = std::move(code.error());
    self->end(c, code.value_or(0));
  });
  for (auto& fd : c->child_ends)
    fd.reset();
}

void command_runner::on_started(const command_ptr& c) {
  if (!c->start) {
    release(c, unexpected{std::move(c->start.error())});
    return;
  }
  c->process = std::move(*c->start);
  c->running = true;
  auto& events = services_.events;
  auto self = shared_from_this();
  if (!host_) {
    if (services_.sessions != nullptr)
      services_.sessions->started(c->process.pid, owner_);
    c->process_watch = events.watch(c->process.pidfd.get(), EPOLLIN,
                                    [self, c](uint32_t) { self->on_process_end(c); });
  }
  for (auto s : {&c->out, &c->err})
    if (s->fd)
      s->watch = events.watch(s->fd.get(), interest(*c, *s),
                              [self, c, s](uint32_t fired) { self->on_ready(c, *s, fired); });
  type(*c);
  if (c->input)
    c->input_watch
      = events.watch(c->input.get(), EPOLLOUT, [self, c](uint32_t) { self->write_input(*c); });
  if (c->spec.timeout)
    c->deadline = events.at(
      clock::now() + std::min<std::chrono::nanoseconds>(*c->spec.timeout, longest_timeout),
      [self, c] {
        c->timed_out = true;
        self->kill(c);
      });
  if (c->cancelled)
    kill(c);
}

// -- while it runs -------------------------------------------------------------------------------

/// What the watch of one of its streams waits for: output that may be delivered, and room for input
/// that did not fit.
uint32_t command_runner::interest(const command& c, const stream& s) {
  auto may_read = !c.spec.streamed || c.credit > 0;
  auto has_input = &s == &c.out && !c.typed.empty();
  return (may_read ? EPOLLIN : 0U) | (has_input ? EPOLLOUT : 0U);
}

void command_runner::write_input(command& c) {
  const auto& data = c.spec.stdin_data;
  while (c.input_written < data.size()) {
    auto n = ::write(c.input.get(), data.data() + c.input_written, data.size() - c.input_written);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0)
      break; // whoever does not want his input need not take it
    c.input_written += static_cast<size_t>(n);
  }
  if (c.input_watch != 0)
    services_.events.unwatch(std::exchange(c.input_watch, 0));
  c.input.reset();
}

/// Passes on what is typed as far as the terminal takes it now. Not before there is a process: an
/// interrupt for nobody would be lost.
void command_runner::type(command& c) {
  if (!c.running || c.typed.empty())
    return;
  c.typed.write_to(c.out.fd.get());
  services_.events.modify(c.out.watch, interest(c, c.out));
}

void command_runner::on_ready(const command_ptr& c, stream& s, uint32_t events) {
  if ((events & EPOLLOUT) != 0)
    type(*c);
  pump(*c, s, 1);
  if (c->ended)
    settle(c);
}

void command_runner::pump(command& c, stream& s, int reads) {
  auto& buffer = read_buffer();
  for (int i = 0; i < reads && s.fd; ++i) {
    auto size = buffer.size();
    if (c.spec.streamed) {
      if (c.credit <= 0) {
        // Unread, the pipe fills and the program waits: that is the back-pressure.
        services_.events.modify(s.watch, interest(c, s));
        if (is_at_end(s.fd.get()))
          close_stream(s);
        return;
      }
      size = std::min(size, static_cast<size_t>(c.credit));
    }
    auto n = ::read(s.fd.get(), buffer.data(), size);
    if (n > 0)
      take(c, s, buffer.data(), static_cast<size_t>(n));
    else if (n < 0 && errno == EAGAIN)
      return;
    else if (n == 0 || errno != EINTR)
      close_stream(s);
  }
}

void command_runner::take(command& c, stream& s, const char* data, size_t size) {
  if (c.spec.streamed) {
    c.credit -= static_cast<int64_t>(size);
    if (c.grace_over)
      c.left_behind -= static_cast<int64_t>(size);
    if (c.handlers.on_output)
      c.handlers.on_output(s.id, std::vector<char>(data, data + size));
    return;
  }
  auto room
    = std::min(c.spec.output_limit - static_cast<int64_t>(s.data.size()), buffer_limit - buffered_);
  auto kept = static_cast<size_t>(std::clamp<int64_t>(room, 0, static_cast<int64_t>(size)));
  s.data.append(data, kept);
  s.truncated = s.truncated || kept < size;
  buffered_ += static_cast<int64_t>(kept);
}

void command_runner::close_stream(stream& s) {
  services_.events.unwatch(std::exchange(s.watch, 0));
  s.fd.reset();
}

void command_runner::kill(const command_ptr& c) {
  if (c->killing || c->ended)
    return;
  if (host_ && !c->process.pidfd) {
    kill_inside(c);
    return;
  }
  c->killing = submit_kill(c);
  if (!c->killing)
    services_.events.at(clock::now() + kill_retry,
                        [self = shared_from_this(), c] { self->kill(c); });
  else if (c->process_watch != 0)
    services_.events.modify(c->process_watch, 0);
}

bool command_runner::submit_kill(const command_ptr& c) {
  return services_.kills.try_submit(owner_, [self = shared_from_this(), c] {
    kill_tree(c->process.pid, c->process.pidfd.get());
    self->services_.events.post([self, c] {
      c->killing = false;
      if (c->process_watch != 0)
        self->services_.events.modify(c->process_watch, EPOLLIN);
    });
  });
}

/// Only init knows which process it is.
void command_runner::kill_inside(const command_ptr& c) {
  c->killing = true;
  host_->open_process(c->id, [self = shared_from_this(), c](result<unique_fd> pidfd) {
    c->killing = false;
    // An error: it has ended meanwhile, and its end is on the way.
    if (!pidfd || c->ended)
      return;
    c->process.pid = pid_of(pidfd->get());
    c->process.pidfd = std::move(*pidfd);
    if (c->process.pid > 0)
      self->kill(c);
  });
}

// -- ending --------------------------------------------------------------------------------------

void command_runner::on_process_end(const command_ptr& c) {
  if (auto code = services_.starts.reap(c->process)) {
    services_.events.unwatch(std::exchange(c->process_watch, 0));
    c->process.pidfd.reset();
    end(c, *code);
  }
}

void command_runner::end(const command_ptr& c, int32_t exit_code) {
  c->ended = true;
  c->exit_code = exit_code;
  c->wall = clock::now() - c->asked_at;
  services_.events.cancel(c->deadline);
  if (c->input_watch != 0)
    services_.events.unwatch(std::exchange(c->input_watch, 0));
  c->input.reset();
  c->slave.reset(); // from here on only others that hold the terminal keep it from its end
  c->typed.clear();
  settle(c);
}

/// Finishes an ended command once there is nothing more to come.
void command_runner::settle(const command_ptr& c) {
  if (!c->ended)
    return;
  bool at_end = true;
  bool drained = true;
  for (auto s : {&c->out, &c->err}) {
    pump(*c, *s, reads_at_end);
    at_end = at_end && !s->fd;
    drained = drained && (!s->fd || !c->spec.streamed || is_drained(s->fd.get()));
  }
  if (at_end || c->cancelled || c->lost || (c->grace_over && (drained || c->left_behind <= 0)))
    finish(c);
  else if (c->grace == 0)
    c->grace = services_.events.at(clock::now() + pipe_grace, [self = shared_from_this(), c] {
      c->grace_over = true;
      self->settle(c);
    });
}

void command_runner::finish(const command_ptr& c) {
  services_.events.cancel(c->grace);
  if (c->lost && !c->cancelled) {
    adopt(c->out);
    adopt(c->err);
    release(c, unexpected{std::move(*c->lost)});
    return;
  }
  command_exit x;
  x.exit_code = c->exit_code;
  x.timed_out = c->timed_out;
  x.cancelled = c->cancelled;
  x.stdout_data = std::move(c->out.data);
  x.stderr_data = std::move(c->err.data);
  x.stdout_truncated = c->out.truncated;
  x.stderr_truncated = c->err.truncated;
  x.wall = c->wall;
  buffered_ -= static_cast<int64_t>(x.stdout_data.size() + x.stderr_data.size());
  adopt(c->out);
  adopt(c->err);
  release(c, std::move(x));
}

/// Forgets a command and tells whoever waits for it, and for the last of all.
void command_runner::release(const command_ptr& c, result<command_exit> outcome) {
  c->typed.clear();
  std::function<void()> stopped;
  {
    std::lock_guard guard{mutex_};
    commands_.erase(c->id);
    if (commands_.empty())
      stopped = std::exchange(on_stopped_, nullptr);
  }
  if (auto handlers = std::exchange(c->handlers, {}); handlers.on_exit)
    handlers.on_exit(std::move(outcome));
  if (stopped)
    stopped();
}

/// Takes a pipe that somebody still holds from its command.
void command_runner::adopt(stream& s) {
  if (!s.fd)
    return;
  services_.events.unwatch(std::exchange(s.watch, 0));
  auto id = next_leftover_++;
  auto& x = leftovers_[id];
  x.fd = std::move(s.fd);
  x.watch = services_.events.watch(x.fd.get(), EPOLLIN,
                                   [self = shared_from_this(), id](uint32_t) { self->drain(id); });
}

void command_runner::drain(uint64_t id) {
  auto& x = leftovers_.at(id);
  auto& buffer = read_buffer();
  auto n = ::read(x.fd.get(), buffer.data(), buffer.size());
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
    services_.events.unwatch(x.watch);
    leftovers_.erase(id);
  } else if (n > 0) {
    services_.events.modify(x.watch, 0);
    x.pause = services_.events.at(clock::now() + leftover_pace, [self = shared_from_this(), id] {
      auto& paused = self->leftovers_.at(id);
      paused.pause = 0;
      self->services_.events.modify(paused.watch, EPOLLIN);
    });
  }
}

command_runner::command_ptr command_runner::find(command_id id) {
  std::lock_guard guard{mutex_};
  auto i = commands_.find(id);
  return i == commands_.end() ? nullptr : i->second;
}

} // namespace troupe::backends
