#include "backends/process_tree.hpp"

#include "backends/proc.hpp"
#include "messages/unique_fd.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <unordered_set>

namespace troupe::backends {

namespace {

/// Rounds are a millisecond apart; what was signalled dies between them.
constexpr int max_rounds = 2000;

using child_map = std::unordered_multimap<pid_t, pid_t>;

bool has_ended(int pidfd) {
  pollfd p{pidfd, POLLIN, 0};
  return ::poll(&p, 1, 0) > 0;
}

void send(int pidfd, int signal) {
  ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0);
}

/// Kills `pid` if it is still what `expected` says. The pidfd comes first: once it is open and the
/// check holds, the signal cannot reach another process that got the number. Whether something is
/// alive there.
bool kill_if(pid_t pid, const std::function<bool(const process_info&)>& expected) {
  unique_fd pidfd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
  auto info = pidfd ? read_process(pid) : std::nullopt;
  if (!info || info->dead)
    return false;
  if (expected(*info))
    send(pidfd.get(), SIGKILL);
  return true; // also when it has moved: the next round meets it elsewhere
}

child_map children_by_parent(const std::vector<process_info>& processes) {
  child_map out;
  for (const auto& x : processes)
    out.emplace(x.parent, x.pid);
  return out;
}

/// One pass over the tree; how many were alive.
int kill_descendants(pid_t root) {
  child_map scanned;
  if (!children_of(root))
    scanned = children_by_parent(all_processes());
  auto children = [&](pid_t pid) {
    if (auto listed = children_of(pid))
      return *listed;
    std::vector<pid_t> out;
    for (auto [i, end] = scanned.equal_range(pid); i != end; ++i)
      out.push_back(i->second);
    return out;
  };
  int alive = 0;
  std::vector<pid_t> queue{root};
  for (size_t i = 0; i < queue.size(); ++i) {
    auto parent = queue[i];
    for (auto child : children(parent)) {
      alive += kill_if(child, [=](const process_info& x) { return x.parent == parent; }) ? 1 : 0;
      queue.push_back(child);
    }
  }
  return alive;
}

void pause_between_rounds() {
  std::this_thread::sleep_for(std::chrono::milliseconds{1});
}

} // namespace

void kill_tree(pid_t root, int pidfd) {
  // Stopped, it can neither fork nor exit; its exit would hand its children on to the server.
  send(pidfd, SIGSTOP);
  for (int round = 0; round < max_rounds && !has_ended(pidfd); ++round) {
    if (kill_descendants(root) == 0)
      break;
    pause_between_rounds();
  }
  send(pidfd, SIGKILL);
}

void session_ledger::started(pid_t pid, const std::string& owner) {
  std::lock_guard guard{mutex_};
  owners_[pid] = owner;
}

std::vector<pid_t> session_ledger::sessions_of(const std::string& owner) const {
  std::lock_guard guard{mutex_};
  std::vector<pid_t> out;
  for (const auto& [session, who] : owners_)
    if (who == owner)
      out.push_back(session);
  return out;
}

void session_ledger::forget(const std::string& owner) {
  std::lock_guard guard{mutex_};
  std::erase_if(owners_, [&](const auto& x) { return x.second == owner; });
}

void kill_marked(const std::string& assignment, const std::vector<pid_t>& sessions) {
  auto is_marked = [&](const process_info& x) {
    return std::find(sessions.begin(), sessions.end(), x.session) != sessions.end()
           || started_with(x.pid, assignment);
  };
  for (int round = 0; round < max_rounds; ++round) {
    auto processes = all_processes();
    auto children = children_by_parent(processes);
    std::unordered_map<pid_t, const process_info*> by_pid;
    for (const auto& x : processes)
      by_pid.emplace(x.pid, &x);
    int alive = 0;
    struct item {
      pid_t pid;
      bool marked;
    };
    std::vector<item> queue{{::getpid(), false}};
    for (size_t i = 0; i < queue.size(); ++i) {
      auto [parent, marked] = queue[i];
      for (auto [child, end] = children.equal_range(parent); child != end; ++child) {
        const auto& info = *by_pid.at(child->second);
        auto hit = !info.dead && (marked || is_marked(info));
        if (hit)
          alive += kill_if(info.pid,
                           [&](const process_info& x) {
                             return x.parent == info.parent && x.session == info.session;
                           })
                     ? 1
                     : 0;
        queue.push_back({info.pid, marked || hit});
      }
    }
    if (alive == 0)
      return;
    pause_between_rounds();
  }
}

} // namespace troupe::backends
