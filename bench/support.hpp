#pragma once

#include "messages/unique_fd.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

// What the benchmarks share: the plain way to start a program, times, quantiles.

namespace troupe::bench {

using clock_type = std::chrono::steady_clock;
using micros = std::chrono::duration<double, std::micro>;
using seconds = std::chrono::duration<double>;

[[noreturn]] inline void die(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

/// Microseconds that `work` takes.
template <class Work>
double timed(Work work) {
  auto start = clock_type::now();
  work();
  return micros{clock_type::now() - start}.count();
}

inline double quantile(std::vector<double>& samples, double q) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<size_t>(q * static_cast<double>(samples.size() - 1))];
}

/// Medians of two things measured by turns, and their ratio.
inline void print_pair(const char* name, const char* ours_name, std::vector<double>& ours,
                       const char* plain_name, std::vector<double>& plain) {
  auto a = quantile(ours, 0.5) / 1000;
  auto b = quantile(plain, 0.5) / 1000;
  std::printf("{\"bench\":\"%s\",\"n\":%zu,\"%s\":%.2f,\"%s\":%.2f,\"ratio\":%.3f}\n", name,
              ours.size(), ours_name, a, plain_name, b, a / b);
}

/// Runs a shell command that must succeed.
inline void run(const std::string& command) {
  if (std::system(command.c_str()) != 0)
    die(command);
}

inline void read_to_end(std::array<unique_fd, 2>& ends) {
  std::array<pollfd, 2> polls{{{ends[0].get(), POLLIN, 0}, {ends[1].get(), POLLIN, 0}}};
  std::array<char, 4096> buffer;
  for (int open = 2; open > 0;) {
    ::poll(polls.data(), polls.size(), -1);
    for (auto& p : polls)
      if (p.fd >= 0 && p.revents != 0 && ::read(p.fd, buffer.data(), buffer.size()) <= 0) {
        p.fd = -1;
        --open;
      }
  }
}

/// A program by posix_spawn, both pipes read to the end, waited for.
inline void run_by_posix_spawn(const char* program) {
  int out[2];
  int err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0)
    die("pipe2");
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  ::posix_spawn_file_actions_adddup2(&actions, err[1], 2);
  char* argv[] = {const_cast<char*>(program), nullptr};
  pid_t pid;
  if (::posix_spawn(&pid, program, &actions, nullptr, argv, ::environ) != 0)
    die("posix_spawn");
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(out[1]);
  ::close(err[1]);
  std::array<unique_fd, 2> ends{unique_fd{out[0]}, unique_fd{err[0]}};
  read_to_end(ends);
  // In a process with a runtime, its sweep for orphans may have been faster: then there is nothing
  // to wait for.
  int status;
  ::waitpid(pid, &status, 0);
}

} // namespace troupe::bench
