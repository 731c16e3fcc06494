// What the command path adds to the kernel's own price of a process: posix_spawn of a program that
// does nothing, against an exec of the same through a unix_local sandbox, by turns.

#include "backends/runtime.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <string>
#include <vector>

namespace {

using troupe::unique_fd;
using clock_type = std::chrono::steady_clock;
using micros = std::chrono::duration<double, std::micro>;

struct options {
  int iterations = 2000;
  size_t grow_mib = 0; ///< resident memory of this process
  int fds = 0;         ///< open descriptors of this process
};

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

options parse(int argc, char** argv) {
  options out;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i];
    auto value = std::atoi(argv[i + 1]);
    if (name == "--iterations")
      out.iterations = value;
    else if (name == "--grow-mib")
      out.grow_mib = static_cast<size_t>(value);
    else if (name == "--fds")
      out.fds = value;
    else
      die("unknown option " + name);
  }
  return out;
}

/// Makes this process look like a server that has been up for a while.
void grow(const options& opts) {
  if (opts.grow_mib > 0) {
    auto size = opts.grow_mib << 20;
    auto memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      die("mmap");
    ::madvise(memory, size, MADV_NOHUGEPAGE);
    std::memset(memory, 1, size);
  }
  for (int i = 0; i < opts.fds; ++i)
    if (::open("/dev/null", O_RDONLY | O_CLOEXEC) < 0)
      die("open");
}

void read_to_end(std::array<unique_fd, 2>& ends) {
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

void run_by_posix_spawn(const char* program) {
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
  // The runtime's sweep for orphans may have been faster, about once a second; then there is
  // nothing to wait for.
  int status;
  ::waitpid(pid, &status, 0);
}

void run_by_sandbox(troupe::backends::sandbox& box, const troupe::exec_request& request) {
  auto spec = box.prepare(request, {});
  if (!spec)
    die(spec.error().message);
  std::promise<int> ended;
  troupe::backends::command_handlers handlers;
  handlers.on_exit = [&](troupe::result<troupe::backends::command_exit> x) {
    ended.set_value(x ? x->exit_code : 1000);
  };
  box.exec(std::move(*spec), std::move(handlers));
  if (ended.get_future().get() != 0)
    die("the command failed");
}

template <class Work>
double timed(Work work) {
  auto start = clock_type::now();
  work();
  return micros{clock_type::now() - start}.count();
}

double quantile(std::vector<double>& samples, double q) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<size_t>(q * static_cast<double>(samples.size() - 1))];
}

} // namespace

int main(int argc, char** argv) {
  auto opts = parse(argc, argv);
  auto directory = (std::filesystem::temp_directory_path() / "troupe-bench-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr)
    die("mkdtemp");
  std::vector<double> plain;
  std::vector<double> ours;
  {
    troupe::backends::runtime::options runtime_options;
    runtime_options.instance = "bench-" + std::to_string(::getpid());
    troupe::backends::runtime runtime{runtime_options};
    grow(opts);
    troupe::backends::sandbox_config config;
    config.session_id = "bench";
    config.private_dir = directory + "/session";
    config.workspace_root = directory + "/session/workspace";
    auto box = runtime.make_sandbox(troupe::backend_kind::unix_local, config);
    if (!box || !(*box)->open())
      die("no sandbox");
    troupe::exec_request request;
    request.command = {TROUPE_BENCH_NOOP};
    request.shell = troupe::shell_mode::off;
    constexpr int warm_up = 50;
    for (int i = 0; i < opts.iterations + warm_up; ++i) {
      auto a = timed([] { run_by_posix_spawn(TROUPE_BENCH_NOOP); });
      auto b = timed([&] { run_by_sandbox(**box, request); });
      if (i >= warm_up) {
        plain.push_back(a);
        ours.push_back(b);
      }
    }
    std::promise<void> gone;
    (*box)->shutdown([&] { gone.set_value(); });
    gone.get_future().wait();
  }
  std::filesystem::remove_all(directory);
  auto ratio = quantile(ours, 0.5) / quantile(plain, 0.5);
  std::printf("{\"bench\":\"exec_latency\",\"iterations\":%d,\"grow_mib\":%zu,\"fds\":%d,"
              "\"posix_spawn_us\":{\"p50\":%.1f,\"p99\":%.1f},"
              "\"sandbox_us\":{\"p50\":%.1f,\"p99\":%.1f},\"ratio_p50\":%.3f}\n",
              opts.iterations, opts.grow_mib, opts.fds, quantile(plain, 0.5), quantile(plain, 0.99),
              quantile(ours, 0.5), quantile(ours, 0.99), ratio);
}
