// What a sandbox adds to the kernel's own price of a terminal: forkpty and exec of a program that
// answers, against the same through a sandbox, by turns; then how long a typed line waits for its
// answer while many terminals are open.

#include "backends/runtime.hpp"
#include "bench/support.hpp"

#include <pty.h>

#include <condition_variable>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>

namespace {

using namespace troupe;
using namespace troupe::bench;
using backends::command_exit;

struct options {
  int iterations = 1000;
  int terminals = 500;
  int rounds = 20; ///< in which every terminal is typed to once
};

options parse(int argc, char** argv) {
  options out;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i];
    auto value = std::atoi(argv[i + 1]);
    if (name == "--iterations")
      out.iterations = value;
    else if (name == "--terminals")
      out.terminals = value;
    else if (name == "--rounds")
      out.rounds = value;
    else
      die("unknown option " + name);
  }
  return out;
}

// -- the plain way -------------------------------------------------------------------------------

struct plain_terminal {
  pid_t pid = -1;
  unique_fd master;
};

plain_terminal plain_start(const char* program) {
  int master;
  auto pid = ::forkpty(&master, nullptr, nullptr, nullptr);
  if (pid < 0)
    die("forkpty");
  if (pid == 0) {
    ::execl(program, program, nullptr);
    ::_exit(127);
  }
  return {pid, unique_fd{master}};
}

/// False at the end.
bool plain_read(const plain_terminal& t, size_t count) {
  std::array<char, 4096> buffer;
  while (count > 0) {
    auto n = ::read(t.master.get(), buffer.data(), buffer.size());
    if (n <= 0)
      return false;
    count -= std::min(count, static_cast<size_t>(n));
  }
  return true;
}

void plain_end(plain_terminal& t) {
  t.master.reset();
  // The runtime of this process may have been faster: then there is nothing to wait for.
  ::waitpid(t.pid, nullptr, 0);
}

// -- through a sandbox ---------------------------------------------------------------------------

/// Counts what a terminal says, and notes when the awaited byte came.
class listener {
public:
  void hear(size_t count) {
    auto now = clock_type::now();
    std::lock_guard guard{mutex_};
    heard_ += count;
    if (heard_ >= awaited_ && heard_ - count < awaited_) {
      at_ = now;
      changed_.notify_one();
    }
  }

  /// From now on until `count` more bytes.
  void expect(size_t count) {
    std::lock_guard guard{mutex_};
    awaited_ = heard_ + count;
    asked_ = clock_type::now();
  }

  /// Microseconds that it took.
  double await() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [this] { return heard_ >= awaited_; });
    return micros{at_ - asked_}.count();
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t heard_ = 0;
  size_t awaited_ = 0;
  clock_type::time_point asked_;
  clock_type::time_point at_;
};

struct terminal {
  backends::command_id id = 0;
  std::unique_ptr<listener> ear = std::make_unique<listener>();
  std::future<result<command_exit>> exit;
};

class bench_box {
public:
  explicit bench_box(const std::string& folder)
    : host_(backends::runtime::options{"bench", true, {}, {}}) {
    backends::sandbox_config config;
    config.session_id = "bench";
    config.private_dir = folder + "/box";
    config.workspace_root = folder + "/box/workspace";
    auto made = host_.make_sandbox(backend_kind::unix_local, config);
    if (!made || !(*made)->open())
      die("no sandbox");
    box_ = std::move(*made);
  }

  ~bench_box() {
    std::promise<void> gone;
    box_->shutdown([&] { gone.set_value(); });
    gone.get_future().wait();
  }

  terminal open(const char* program) {
    exec_request request;
    request.command = {program};
    request.shell = shell_mode::off;
    auto spec = box_->prepare(request, {});
    if (!spec)
      die(spec.error().message);
    terminal out;
    auto promise = std::make_shared<std::promise<result<command_exit>>>();
    out.exit = promise->get_future();
    out.ear->expect(1);
    backends::terminal_handlers handlers;
    handlers.on_exit = [promise](result<command_exit> x) { promise->set_value(std::move(x)); };
    handlers.on_output = [ear = out.ear.get()](const auto& bytes) { ear->hear(bytes.size()); };
    out.id = box_->open_terminal(std::move(*spec), {true, 24, 80}, std::move(handlers));
    return out;
  }

  void type(terminal& t, const std::string& text) {
    box_->write_terminal(t.id, text, [](result<void> x) {
      if (!x)
        die(x.error().message);
    });
  }

  /// Types a line; its echo and its answer will be that long.
  void ask(terminal& t) {
    t.ear->expect(2 * (line().size() + 1));
    type(t, line());
  }

  static const std::string& line() {
    static const std::string out = "hello\n";
    return out;
  }

private:
  backends::runtime host_;
  std::unique_ptr<backends::sandbox> box_;
};

void print(const char* name, std::vector<double>& samples) {
  std::printf(",\"%s\":{\"p50_us\":%.1f,\"p99_us\":%.1f}", name, quantile(samples, 0.5),
              quantile(samples, 0.99));
}

void print_against(const char* name, std::vector<double>& ours, std::vector<double>& plain) {
  std::printf(",\"%s\":{\"forkpty_p50_us\":%.1f,\"forkpty_p99_us\":%.1f,\"p50_us\":%.1f,"
              "\"p99_us\":%.1f,\"ratio_p50\":%.3f}",
              name, quantile(plain, 0.5), quantile(plain, 0.99), quantile(ours, 0.5),
              quantile(ours, 0.99), quantile(ours, 0.5) / quantile(plain, 0.5));
}

/// From asking for a terminal to the first byte of its program.
void measure_start(bench_box& box, int iterations) {
  std::vector<double> plain;
  std::vector<double> ours;
  for (int i = 0; i < iterations; ++i) {
    plain_terminal t;
    plain.push_back(timed([&] {
      t = plain_start(TROUPE_BENCH_TALKER);
      plain_read(t, 1);
    }));
    plain_end(t);
    auto x = box.open(TROUPE_BENCH_TALKER);
    ours.push_back(x.ear->await());
    box.type(x, "\x04");
    x.exit.wait();
  }
  print_against("first_byte", ours, plain);
}

/// A program that ends at once, until its end and that of its output are known.
void measure_cycle(bench_box& box, int iterations) {
  std::vector<double> plain;
  std::vector<double> ours;
  for (int i = 0; i < iterations; ++i) {
    plain.push_back(timed([&] {
      auto t = plain_start(TROUPE_BENCH_NOOP);
      plain_read(t, 1);
      plain_end(t);
    }));
    ours.push_back(timed([&] { box.open(TROUPE_BENCH_NOOP).exit.wait(); }));
  }
  print_against("cycle", ours, plain);
}

/// From typing a line to the last byte of its answer.
void measure_echo(bench_box& box, const options& opts) {
  auto plain_side = plain_start(TROUPE_BENCH_TALKER);
  plain_read(plain_side, 1);
  std::vector<terminal> all;
  for (int i = 0; i < opts.terminals; ++i)
    all.push_back(box.open(TROUPE_BENCH_TALKER));
  for (auto& t : all)
    t.ear->await();
  const auto& line = bench_box::line();
  std::vector<double> plain;
  std::vector<double> one;
  std::vector<double> burst;
  for (int round = 0; round < opts.rounds; ++round) {
    for (auto& t : all) {
      plain.push_back(timed([&] {
        if (::write(plain_side.master.get(), line.data(), line.size()) < 0)
          die("write");
        plain_read(plain_side, 2 * (line.size() + 1));
      }));
      box.ask(t);
      one.push_back(t.ear->await());
    }
    for (auto& t : all)
      box.ask(t);
    for (auto& t : all)
      burst.push_back(t.ear->await());
  }
  print_against("echo", one, plain);
  print("echo_all_at_once", burst);
  plain_end(plain_side);
}

} // namespace

int main(int argc, char** argv) {
  auto opts = parse(argc, argv);
  auto folder = (std::filesystem::temp_directory_path() / "troupe-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr)
    die("mkdtemp");
  {
    bench_box box{folder};
    std::printf("{\"bench\":\"terminal_latency\",\"iterations\":%d,\"terminals\":%d",
                opts.iterations, opts.terminals);
    measure_start(box, opts.iterations);
    measure_cycle(box, opts.iterations);
    measure_echo(box, opts);
    std::printf("}\n");
  }
  std::filesystem::remove_all(folder);
}
