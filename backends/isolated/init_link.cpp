#include "backends/isolated/init_link.hpp"

#include "backends/ownership.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

namespace troupe::backends::isolated {

namespace {

/// Requests that wait for room in the socket.
constexpr size_t max_queued = 4096;

std::atomic<uint64_t> last_request{uint64_t{1} << 63}; ///< apart from the ids of commands

error sandbox_gone() {
  auto e = make_error(errc::backend_lost, op::exec, "the sandbox has ended");
  e.retryable = true;
  return e;
}

error refused(int code) {
  auto e = make_error(errc::exec_transport_error, op::exec,
                      std::string{"the sandbox refused: "} + std::strerror(code));
  e.with("errno", code).with("detail", std::strerror(code));
  return e;
}

template <class T>
void append(std::string& out, const T& x) {
  out.append(reinterpret_cast<const char*>(&x), sizeof x);
}

void append_text(std::string& out, const std::string& text) {
  out.append(text.c_str(), text.size() + 1);
}

std::string strings_of(const spawn_request& x) {
  std::string out;
  append_text(out, x.cwd);
  for (const auto& text : x.argv)
    append_text(out, text);
  for (const auto& text : x.env)
    append_text(out, text);
  return out;
}

unique_fd file_with(const std::string& bytes) {
  unique_fd fd{::memfd_create("arguments", MFD_CLOEXEC)};
  for (size_t have = 0; fd && have < bytes.size();) {
    auto n = ::write(fd.get(), bytes.data() + have, bytes.size() - have);
    if (n <= 0)
      fd.reset();
    else
      have += static_cast<size_t>(n);
  }
  return fd;
}

int32_t exit_code(int status) {
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

} // namespace

init_link::init_link(reactor& events, unique_fd control, unique_fd terminals, uint32_t uid_base,
                     bool mapped)
  : events_(events), control_(std::move(control)), terminals_(std::move(terminals)),
    uid_base_(uid_base), mapped_(mapped) {}

void init_link::open(std::function<void()> on_gone) {
  events_.post([self = shared_from_this(), on_gone = std::move(on_gone)]() mutable {
    self->on_gone_ = std::move(on_gone);
    self->watch_ = self->events_.watch(self->control_.get(), EPOLLIN,
                                       [self](uint32_t fired) { self->on_ready(fired); });
  });
}

// -- sending -------------------------------------------------------------------------------------

int init_link::send_now(int socket, const std::string& bytes, const std::vector<int>& fds) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * max_descriptors)]{};
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr m{};
  m.msg_iov = &part;
  m.msg_iovlen = 1;
  if (!fds.empty()) {
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    auto c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  return ::sendmsg(socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 ? 0 : errno;
}

bool init_link::send(std::string bytes, const std::vector<int>& fds) {
  auto size = static_cast<uint32_t>(bytes.size());
  std::memcpy(bytes.data() + offsetof(header, size), &size, sizeof size);
  std::lock_guard guard{mutex_};
  if (gone_ || queue_.size() >= max_queued)
    return false;
  if (queue_.empty()) {
    auto code = send_now(control_.get(), bytes, fds);
    if (code == 0)
      return true;
    if (code != EAGAIN && code != ENOBUFS && code != ETOOMANYREFS)
      return false; // its end is on the way to the reactor
  }
  outgoing x{std::move(bytes), {}};
  for (auto fd : fds)
    x.fds.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  queue_.push_back(std::move(x));
  if (queue_.size() == 1)
    events_.post([self = shared_from_this()] {
      if (self->watch_ != 0)
        self->events_.modify(self->watch_, EPOLLIN | EPOLLOUT);
    });
  return true;
}

void init_link::flush() {
  std::lock_guard guard{mutex_};
  while (!queue_.empty()) {
    std::vector<int> fds;
    for (const auto& fd : queue_.front().fds)
      fds.push_back(fd.get());
    auto code = send_now(control_.get(), queue_.front().bytes, fds);
    if (code == EAGAIN || code == ENOBUFS || code == ETOOMANYREFS)
      return;
    queue_.pop_front();
  }
  events_.modify(watch_, EPOLLIN);
}

void init_link::start(command_id id, spawn_request rq, on_end ended) {
  auto fail
    = [&](error why) { events_.post([ended, why = std::move(why)] { ended(unexpected{why}); }); };
  if (auto ok = check_spawn(rq); !ok)
    return fail(std::move(ok.error()));
  auto strings = strings_of(rq);
  if (strings.size() > max_strings || rq.as.groups.size() > max_groups)
    return fail(spawn_error(rq, E2BIG, false));
  spawn_message m{};
  m.head.type = message_type::spawn;
  m.head.id = id;
  m.uid = rq.as.uid;
  m.gid = rq.as.gid;
  m.groups = static_cast<uint32_t>(rq.as.groups.size());
  m.arguments = static_cast<uint32_t>(rq.argv.size());
  m.variables = static_cast<uint32_t>(rq.env.size());
  m.strings_size = static_cast<uint32_t>(strings.size());
  std::vector<int> fds;
  auto add = [&](int fd, uint32_t flag) {
    if (fd < 0)
      return;
    m.flags |= flag;
    fds.push_back(fd);
  };
  add(rq.stdin_fd, spawn_has_stdin);
  add(rq.stdout_fd, spawn_has_stdout);
  add(rq.stderr_fd, spawn_has_stderr);
  if (rq.controlling_terminal)
    m.flags |= spawn_controlling_terminal;
  unique_fd file;
  if (sizeof m + rq.as.groups.size() * sizeof(uint32_t) + strings.size() > max_datagram) {
    file = file_with(strings);
    if (!file)
      return fail(spawn_error(rq, ENOMEM, false));
    m.flags |= spawn_strings_in_file;
    fds.push_back(file.get());
    strings.clear();
  }
  add(rq.kept_out, spawn_keeps_stdout);
  add(rq.kept_err, spawn_keeps_stderr);
  std::string bytes;
  bytes.reserve(sizeof m + strings.size() + 64);
  append(bytes, m);
  for (auto group : rq.as.groups)
    append(bytes, group);
  bytes += strings;
  {
    std::lock_guard guard{mutex_};
    if (!gone_)
      commands_.emplace(id, running{std::move(rq), ended});
    else
      return fail(sandbox_gone());
  }
  if (send(std::move(bytes), fds))
    return;
  bool ours;
  bool gone;
  {
    std::lock_guard guard{mutex_};
    ours = commands_.erase(id) > 0;
    gone = queue_.size() < max_queued;
  }
  if (ours)
    fail(gone ? sandbox_gone()
              : make_error(errc::overloaded, op::exec, "too many commands are waiting to start"));
}

void init_link::request(message_type type, uint64_t id, std::string bytes, on_process done) {
  auto head = reinterpret_cast<header*>(bytes.data());
  head->type = type;
  head->id = id;
  {
    std::lock_guard guard{mutex_};
    if (!gone_)
      requests_[id].push_back(done);
    else
      return events_.post([done] { done(unexpected{sandbox_gone()}); });
  }
  if (send(std::move(bytes), {}))
    return;
  std::lock_guard guard{mutex_};
  if (requests_.erase(id) > 0)
    events_.post([done] { done(unexpected{sandbox_gone()}); });
}

void init_link::open_process(command_id id, on_process done) {
  request(message_type::open_process, id, std::string(sizeof(bare_message), '\0'), std::move(done));
}

void init_link::connect(uint16_t port, on_process done) {
  std::string bytes;
  connect_message m{};
  m.port = port;
  append(bytes, m);
  request(message_type::connect, ++last_request, std::move(bytes), std::move(done));
}

result<pty> init_link::open_terminal(uint16_t rows, uint16_t cols, const user_ids& owner) {
  if (!terminals_)
    return unexpected{make_error(errc::exec_transport_error, op::exec,
                                 "failed to open a terminal: the sandbox has none")};
  std::optional<acting_as> identity;
  if (mapped_)
    identity.emplace(user_ids{uid_base_ + owner.uid, uid_base_ + owner.gid, {}});
  return open_pty_in(terminals_.get(), rows, cols);
}

// -- receiving -----------------------------------------------------------------------------------

void init_link::on_ready(uint32_t events) {
  auto keep = shared_from_this();
  if ((events & EPOLLOUT) != 0)
    flush();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
    read_answers();
}

void init_link::read_answers() {
  for (int i = 0; i < 64; ++i) {
    alignas(header) char data[256];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec part{data, sizeof data};
    msghdr m{};
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    auto n = ::recvmsg(control_.get(), &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN)
      return;
    unique_fd fd;
    if (n > 0)
      if (auto c = CMSG_FIRSTHDR(&m);
          c != nullptr && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        int one;
        std::memcpy(&one, CMSG_DATA(c), sizeof one);
        fd.reset(one);
      }
    header head{};
    if (n >= static_cast<ssize_t>(sizeof head))
      std::memcpy(&head, data, sizeof head);
    if (n <= 0 || head.size != static_cast<uint32_t>(n)) {
      close(); // its end, or not what our init says
      return;
    }
    if (head.type == message_type::exited && n == static_cast<ssize_t>(sizeof(exited_message))) {
      exited_message x;
      std::memcpy(&x, data, sizeof x);
      on_exited(x);
    } else if (head.type == message_type::reply
               && n == static_cast<ssize_t>(sizeof(reply_message))) {
      reply_message x;
      std::memcpy(&x, data, sizeof x);
      on_reply(x, std::move(fd));
    } else if (head.type == message_type::orphaned
               && n == static_cast<ssize_t>(sizeof(orphaned_message))) {
      orphaned_message x;
      std::memcpy(&x, data, sizeof x);
      on_orphan(x);
    } else if (head.type == message_type::spooled
               && n == static_cast<ssize_t>(sizeof(spooled_message))) {
      spooled_message x;
      std::memcpy(&x, data, sizeof x);
      on_spooled(x, fd);
    } else if (head.type == message_type::denied && on_denied_
               && n == static_cast<ssize_t>(sizeof(denied_message))) {
      denied_message x;
      std::memcpy(&x, data, sizeof x);
      on_denied_(x);
    }
  }
}

void init_link::on_exited(const exited_message& m) {
  running x;
  {
    std::lock_guard guard{mutex_};
    if (auto node = commands_.extract(m.head.id))
      x = std::move(node.mapped());
  }
  if (!x.ended)
    return on_orphan_end(m);
  result<int32_t> outcome = exit_code(m.status);
  if (m.failed != spawn_stage::none)
    outcome = unexpected{spawn_error(x.request, m.status, m.failed == spawn_stage::directory)};
  events_.post([ended = std::move(x.ended), outcome = std::move(outcome)] { ended(outcome); });
}

void init_link::on_reply(const reply_message& m, unique_fd fd) {
  on_process done;
  {
    std::lock_guard guard{mutex_};
    auto i = requests_.find(m.head.id);
    if (i == requests_.end())
      return;
    done = std::move(i->second.front());
    i->second.pop_front();
    if (i->second.empty())
      requests_.erase(i);
  }
  if (m.error != 0 || !fd)
    done(unexpected{refused(m.error)});
  else
    done(std::move(fd));
}

void init_link::on_orphan(const orphaned_message& m) {
  if (!on_orphan_ || orphans_.size() >= max_commands)
    return;
  auto& x = orphans_[m.head.id];
  x.pid = m.pid;
  on_orphan_(x);
}

void init_link::on_spooled(const spooled_message& m, const unique_fd& fd) {
  constexpr uint32_t shown = 16 * 1024;
  if (!on_orphan_ || orphans_.size() >= max_commands)
    return;
  auto& x = orphans_[m.head.id];
  x.dropped += m.dropped;
  if (!fd)
    return;
  auto size = std::min(m.bytes, shown);
  std::string text(size, '\0');
  auto n = ::pread(fd.get(), text.data(), size, static_cast<off_t>(m.bytes - size));
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  (m.stream == 2 ? x.err : x.out) = std::move(text);
}

void init_link::on_orphan_end(const exited_message& m) {
  if (!on_orphan_)
    return;
  auto node = orphans_.extract(m.head.id);
  auto x = node ? std::move(node.mapped()) : orphan_news{};
  x.exit_code = exit_code(m.status);
  on_orphan_(std::move(x));
}

void init_link::close() {
  auto keep = shared_from_this();
  events_.unwatch(std::exchange(watch_, 0));
  decltype(commands_) commands;
  decltype(requests_) requests;
  {
    std::lock_guard guard{mutex_};
    gone_ = true;
    queue_.clear();
    commands.swap(commands_);
    requests.swap(requests_);
  }
  for (auto& [id, x] : commands)
    events_.post([ended = std::move(x.ended)] { ended(unexpected{sandbox_gone()}); });
  for (auto& [id, waiting] : requests)
    for (auto& done : waiting)
      done(unexpected{sandbox_gone()});
  on_orphan_ = nullptr;
  on_denied_ = nullptr;
  if (auto gone = std::exchange(on_gone_, nullptr))
    events_.post(std::move(gone));
}

} // namespace troupe::backends::isolated
