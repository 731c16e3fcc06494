#include "backends/isolated/refusal_watch.hpp"

#include "backends/proc.hpp"

#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <utility>

namespace troupe::backends::isolated {

namespace {

/// A busy sandbox is looked at once in this time, an idle one not at all.
constexpr std::chrono::milliseconds pause_after_command{1000};
constexpr std::chrono::milliseconds pause_while_running{5000};

/// Of /proc/net/snmp: a line of names, then one of numbers.
int64_t counter_of(const std::string& text, const std::string& protocol, const std::string& name) {
  std::istringstream lines{text};
  std::string names;
  std::string numbers;
  while (std::getline(lines, names) && std::getline(lines, numbers)) {
    if (names.compare(0, protocol.size(), protocol) != 0)
      continue;
    std::istringstream a{names};
    std::istringstream b{numbers};
    for (std::string key, value; a >> key && b >> value;)
      if (key == name)
        return std::strtoll(value.c_str(), nullptr, 10);
  }
  return 0;
}

/// Of /proc/net/snmp6: a name and a number in each line.
int64_t counter_of(const std::string& text, const std::string& name) {
  std::istringstream in{text};
  for (std::string key, value; in >> key >> value;)
    if (key == name)
      return std::strtoll(value.c_str(), nullptr, 10);
  return 0;
}

} // namespace

refusal_watch::refusal_watch(reactor& events, refusal_sources sources, listener told)
  : events_(events), sources_(std::move(sources)), told_(std::move(told)) {}

void refusal_watch::skip_past() {
  events_.post([self = shared_from_this()] {
    auto told = std::exchange(self->told_, [](const sandbox_notice&) {});
    self->look();
    self->told_ = std::move(told);
  });
}

void refusal_watch::command_began() {
  // One that is due finds it running.
  if (running_++ == 0 && !is_due_)
    events_.post([self = shared_from_this()] { self->look_in(pause_after_command); });
}

void refusal_watch::command_ended() {
  --running_;
  if (events_.on_reactor_thread())
    look_in(pause_after_command);
  else
    events_.post([self = shared_from_this()] { self->look_in(pause_after_command); });
}

void refusal_watch::finish() {
  events_.post([self = shared_from_this()] { self->look(); });
}

void refusal_watch::stop() {
  told_ = nullptr;
  events_.cancel(timer_);
}

void refusal_watch::look_in(std::chrono::milliseconds pause) {
  auto due = reactor::clock::now() + pause;
  if (!told_ || (timer_ != 0 && due_ <= due))
    return;
  events_.cancel(timer_);
  due_ = due;
  is_due_ = true;
  timer_ = events_.at(due, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (!self)
      return;
    self->timer_ = 0;
    self->is_due_ = false;
    self->look();
    if (self->running_ > 0)
      self->look_in(pause_while_running);
  });
}

void refusal_watch::look() {
  if (!told_)
    return;
  if (sources_.own_network)
    look_at_network();
  auto top = "/proc/" + std::to_string(sources_.init) + "/root/";
  look_at_space(top + "tmp", "tmp");
  look_at_space(top + "dev/shm", "shm");
  if (sources_.workspace)
    look_at_space({}, "disk", sources_.workspace->get());
  look_at_processes();
}

void refusal_watch::look_at_network() {
  auto folder = "/proc/" + std::to_string(sources_.init) + "/net/";
  auto count = counter_of(read_kernel_file(AT_FDCWD, folder + "snmp"), "Ip:", "OutNoRoutes")
               + counter_of(read_kernel_file(AT_FDCWD, folder + "snmp6"), "Ip6OutNoRoutes");
  // Init lives, so that the id was its own.
  if (::syscall(SYS_pidfd_send_signal, sources_.pidfd->get(), 0, nullptr, 0) != 0
      || count <= without_route_)
    return;
  auto news = count - std::exchange(without_route_, count);
  sandbox_notice notice;
  notice.operation = op::network;
  notice.data = R"({"host":null,"port":null,"verdict":"denied","reason":"no_route","address":null,)"
                R"("count":)"
                + std::to_string(news) + "}";
  notice.failure = make_error(errc::network_denied, op::network,
                              "the sandbox tried to reach addresses that no route leads to");
  told_(std::move(notice));
}

void refusal_watch::look_at_space(const std::string& path, const std::string& name, int fd) {
  struct statfs x {};
  if ((fd >= 0 ? ::fstatfs(fd, &x) : ::statfs(path.c_str(), &x)) != 0 || x.f_blocks == 0
      || ::syscall(SYS_pidfd_send_signal, sources_.pidfd->get(), 0, nullptr, 0) != 0)
    return;
  // The last blocks of a disk may be kept for the file system's own.
  const uint64_t little = fd >= 0 ? x.f_blocks / 1000 : 0;
  tell_limit(name + "_bytes", x.f_bavail <= little);
  tell_limit(name + "_inodes", x.f_files > 0 && x.f_ffree == 0);
}

void refusal_watch::look_at_processes() {
  if (sources_.processes <= 0 || !sources_.group)
    return;
  auto list = read_kernel_file(sources_.group->directory()->get(), "cgroup.threads");
  auto others = std::count(list.begin(), list.end(), '\n') - 1; // than init
  // Whoever could start no more has often ended by now.
  tell_limit("pids", others >= sources_.processes - sources_.processes / 16);
}

void refusal_watch::tell_limit(const std::string& limit, bool met) {
  if (!met) {
    met_.erase(limit);
    return;
  }
  if (!met_.insert(limit).second)
    return;
  sandbox_notice notice;
  notice.data = R"({"what":"limit","limit":")" + limit + R"(","count":1})";
  notice.failure
    = make_error(errc::quota_exceeded, op::sandbox, "the sandbox met its limit: " + limit);
  told_(std::move(notice));
}

} // namespace troupe::backends::isolated
