#pragma once

#include "bench/support.hpp"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::bench {

/// Ends servers that a failed benchmark leaves.
inline std::vector<pid_t>& servers_alive() {
  static std::vector<pid_t> all;
  static const int registered = std::atexit([] {
    for (auto pid : all)
      ::kill(pid, SIGTERM);
  });
  (void) registered;
  return all;
}

/// A `troupe serve` on a folder of its own.
class server {
public:
  server(const std::string& folder, const std::string& settings) {
    auto config = folder + "/config.json";
    std::ofstream{config} << settings;
    int out[2];
    if (::pipe2(out, O_CLOEXEC) != 0)
      die("pipe2");
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    auto state = folder + "/state";
    std::vector<std::string> args{TROUPE_BENCH_TROUPE, "serve", "--listen", "127.0.0.1:0",
                                  "--state-dir",       state,   "--config", config};
    std::vector<char*> argv;
    for (auto& x : args)
      argv.push_back(x.data());
    argv.push_back(nullptr);
    if (::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), ::environ) != 0)
      die("posix_spawn");
    servers_alive().push_back(pid_);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(out[1]);
    std::string line;
    char c;
    while (::read(out[0], &c, 1) == 1 && c != '\n')
      line += c;
    auto colon = line.rfind(':');
    if (colon == std::string::npos)
      die("the server did not start");
    port_ = static_cast<uint16_t>(std::atoi(line.c_str() + colon + 1));
    std::thread{[fd = out[0]] { // keeps the pipe empty
      char sink[4096];
      while (::read(fd, sink, sizeof sink) > 0) {
      }
    }}
      .detach();
  }
  server(const server&) = delete;
  server& operator=(const server&) = delete;
  ~server() {
    stop();
  }

  /// A clean stop, waited for.
  void stop() {
    if (pid_ <= 0)
      return;
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
    std::erase(servers_alive(), pid_);
    pid_ = 0;
  }

  uint16_t port() const {
    return port_;
  }

  /// Resident memory, in KiB: "VmRSS" now, "VmHWM" at its highest.
  long memory_kib(const std::string& field) const {
    std::ifstream in{"/proc/" + std::to_string(pid_) + "/status"};
    for (std::string line; std::getline(in, line);)
      if (line.rfind(field + ":", 0) == 0)
        return std::atol(line.c_str() + field.size() + 1);
    return 0;
  }

private:
  pid_t pid_ = 0;
  uint16_t port_ = 0;
};

/// Runs `work(worker, i)` n times on `threads` threads; how many a second.
inline double rate(int n, int threads, const std::function<void(int)>& work) {
  std::atomic<int> next{0};
  auto begun = clock_type::now();
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t)
    all.emplace_back([&, t] {
      for (int i = next++; i < n; i = next++)
        work(t);
    });
  for (auto& x : all)
    x.join();
  return n / seconds{clock_type::now() - begun}.count();
}

/// How many a second of `work`, and of bare posix_spawn, by turns so that both see the same
/// machine.
inline std::pair<double, double> by_turns(int n, int threads,
                                          const std::function<void(int)>& work) {
  constexpr int turns = 5;
  std::pair<double, double> out;
  for (int i = 0; i < turns; ++i) {
    out.second
      += rate(n / turns, threads, [](int) { run_by_posix_spawn(TROUPE_BENCH_NOOP); }) / turns;
    out.first += rate(n / turns, threads, work) / turns;
  }
  return out;
}

} // namespace troupe::bench
