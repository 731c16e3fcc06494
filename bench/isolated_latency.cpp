// What isolated sessions cost over HTTP and in process, against the kernel's own price, measured by
// turns in this run: the same walls made by hand with one fork and exec, a helper already inside
// such walls, and posix_spawn. One mode a call: latency, burst, together, neighbours, idle. See
// README.md.

#include "backends/runtime.hpp"
#include "bench/by_hand.hpp"
#include "bench/http_client.hpp"
#include "bench/server.hpp"
#include "bench/support.hpp"
#include "workspace/base64.hpp"

#include <filesystem>
#include <future>
#include <iterator>
#include <memory>
#include <mutex>

namespace {

using namespace troupe;
using namespace troupe::bench;

std::string folder_of_run() {
  std::string dir = "/tmp/troupe-bench-XXXXXX";
  if (::mkdtemp(dir.data()) == nullptr)
    die("mkdtemp");
  return dir;
}

std::string settings(size_t warm) {
  return R"({"default_backend": "isolated", "max_sessions": 5000, "isolated": {"warm_pool": )"
         + std::to_string(warm) + "}}";
}

std::string noop_program() {
  std::ifstream in{TROUPE_BENCH_NOOP, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}

std::string create_with_noop() {
  auto program = noop_program();
  return R"({"manifest": {"entries": {"noop": {"type": "file", "content": "", "permissions": )"
         R"({"owner": 7, "group": 5, "other": 5}, "content_base64": ")"
         + workspace::base64_encode(program) + R"("}}}})";
}

const std::string run_noop = R"({"command": ["/workspace/noop"], "shell": false})";
const std::string run_true = R"({"command": ["/bin/true"], "shell": false})";

void exec(http_client& http, const std::string& id, const std::string& body) {
  if (http.expect(200, "POST", "/v1/sessions/" + id + "/exec", body).find("\"exit_code\":0")
      == std::string::npos)
    die("the command failed");
}

std::string create_and_run(http_client& http) {
  auto id = http_client::id_of(http.expect(201, "POST", "/v1/sessions", "{}"));
  exec(http, id, run_true);
  return id;
}

/// A sandbox without a server around it.
class in_process {
public:
  explicit in_process(const std::string& folder) {
    backends::runtime::options options;
    options.instance = "bench-" + std::to_string(::getpid());
    options.isolated.dir = folder + "/isolated";
    runtime_ = std::make_unique<backends::runtime>(options);
    backends::sandbox_config config;
    config.session_id = "warm";
    config.private_dir = folder + "/session";
    config.workspace_root = config.private_dir + "/workspace";
    std::filesystem::create_directories(config.workspace_root);
    std::filesystem::copy_file(TROUPE_BENCH_NOOP, config.workspace_root + "/noop");
    auto made = runtime_->make_sandbox(backend_kind::isolated, config);
    if (!made)
      die(made.error().message);
    box_ = std::move(*made);
    if (auto ok = box_->open(); !ok)
      die(ok.error().message);
  }
  ~in_process() {
    std::promise<void> gone;
    box_->shutdown([&] { gone.set_value(); });
    gone.get_future().wait();
    (void) box_->remove();
  }

  void run() {
    exec_request request;
    request.command = {"/workspace/noop"};
    request.shell = shell_mode::off;
    auto spec = box_->prepare(request, {});
    if (!spec)
      die(spec.error().message);
    std::promise<result<backends::command_exit>> ended;
    box_->exec(std::move(*spec), {[&](auto x) { ended.set_value(std::move(x)); }, nullptr});
    auto x = ended.get_future().get();
    if (!x || x->exit_code != 0)
      die(x ? "the command failed" : x.error().message);
  }

private:
  std::unique_ptr<backends::runtime> runtime_;
  std::unique_ptr<backends::sandbox> box_;
};

struct series {
  const char* name;
  std::vector<double> us;
};

void print(series& x, series& against, double goal, double q = 0.5) {
  auto ours = quantile(x.us, q) / 1000;
  auto plain = quantile(against.us, 0.5) / 1000;
  std::printf("%-28s p%-2.0f %7.2f ms = %5.2f x %s (%.2f ms), goal %.2f\n", x.name, q * 100, ours,
              ours / plain, against.name, plain, goal);
}

void latency(const std::string& folder, int n) {
  by_hand walls;
  walls.workspace = folder + "/by_hand";
  walls.stage = folder + "/stage";
  std::filesystem::create_directories(walls.workspace);
  std::filesystem::create_directories(walls.stage);
  auto filter = backends::isolated::build_seccomp_filter();
  if (!filter)
    die(filter.error().message);
  walls.filter = std::move(*filter);
  walls.program = "/bin/true";
  std::filesystem::copy_file(TROUPE_BENCH_NOOP, walls.workspace + "/noop");
  auto noop = walls.workspace + "/noop";
  auto inside = walls;
  inside.program = noop.c_str();
  hand_helper helper{inside};
  auto inside_true = walls;
  hand_helper helper_true{inside_true};
  server cold{folder + "/cold", settings(0)};
  server warm{folder + "/warm", settings(8)};
  in_process own{folder};
  http_client cold_http{cold.port()};
  http_client warm_http{warm.port()};
  auto id = http_client::id_of(cold_http.expect(201, "POST", "/v1/sessions", create_with_noop()));

  series hand{"a sandbox by hand", {}};
  series bare{"a helper inside", {}};
  series bare_true{"a helper inside, /bin/true", {}};
  series spawn{"posix_spawn", {}};
  series create{"create to first exec", {}};
  series pooled{"the same, warm pool", {}};
  series plain{"exec in process", {}};
  series over_http{"exec over HTTP", {}};
  for (int i = 0; i < n; ++i) {
    hand.us.push_back(timed([&] { walls.run(); }));
    bare.us.push_back(timed([&] { helper.run(); }));
    bare_true.us.push_back(timed([&] { helper_true.run(); }));
    spawn.us.push_back(timed([] { run_by_posix_spawn(TROUPE_BENCH_NOOP); }));
    plain.us.push_back(timed([&] { own.run(); }));
    over_http.us.push_back(timed([&] { exec(cold_http, id, run_noop); }));
    std::string made;
    create.us.push_back(timed([&] { made = create_and_run(cold_http); }));
    cold_http.expect(204, "DELETE", "/v1/sessions/" + made);
    pooled.us.push_back(timed([&] { made = create_and_run(warm_http); }));
    warm_http.expect(204, "DELETE", "/v1/sessions/" + made);
    // The pool fills again while nobody is measured.
    std::this_thread::sleep_for(std::chrono::milliseconds{80});
  }
  print(create, hand, 1.8);
  print(create, hand, 5, 0.99);
  print(pooled, bare_true, 1.5);
  print(pooled, hand, 1.5);
  print(plain, bare, 1.25);
  print(over_http, bare, 1.5);
  print(plain, spawn, 1.25);
}

/// `n` sessions at once, each up to the end of its first command.
void burst(const std::string& folder, size_t n, size_t pool) {
  server s{folder, settings(pool)};
  { // what is made once: the template, the filter
    http_client http{s.port()};
    http.expect(204, "DELETE", "/v1/sessions/" + create_and_run(http));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds{pool * 20});
  std::vector<std::unique_ptr<http_client>> clients;
  for (size_t i = 0; i < n; ++i)
    clients.push_back(std::make_unique<http_client>(s.port()));
  std::atomic<size_t> failed{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> all;
  std::vector<double> took(n);
  clock_type::time_point begun;
  for (size_t i = 0; i < n; ++i)
    all.emplace_back([&, i] {
      go.wait(false);
      try {
        create_and_run(*clients[i]);
      } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        ++failed;
      }
      took[i] = micros{clock_type::now() - begun}.count();
    });
  begun = clock_type::now();
  go = true;
  go.notify_all();
  for (auto& x : all)
    x.join();
  std::printf("burst of %zu, pool %zu: all in %.0f ms (goal 800), p50 %.0f ms, failed %zu\n", n,
              pool, quantile(took, 1) / 1000, quantile(took, 0.5) / 1000, failed.load());
}

/// `n` sessions that run commands together, against as many threads that use posix_spawn.
void together(const std::string& folder, size_t n, int commands) {
  server s{folder, settings(0)};
  std::vector<std::unique_ptr<http_client>> clients;
  std::vector<std::string> ids;
  for (size_t i = 0; i < n; ++i) {
    clients.push_back(std::make_unique<http_client>(s.port()));
    ids.push_back(
      http_client::id_of(clients[i]->expect(201, "POST", "/v1/sessions", create_with_noop())));
  }
  auto [ours, plain] = by_turns(commands, static_cast<int>(n), [&](int i) {
    exec(*clients[static_cast<size_t>(i)], ids[static_cast<size_t>(i)], run_noop);
  });
  std::printf(
    "%zu sessions together: %.0f commands a second = %.2f x posix_spawn (%.0f), goal 0.80\n", n,
    ours, ours / plain, plain);
}

/// What one session's exec costs while another one does its worst.
void neighbours(const std::string& folder, int commands) {
  server s{folder, settings(0)};
  http_client http{s.port()};
  http_client other{s.port()};
  auto mine = http_client::id_of(http.expect(201, "POST", "/v1/sessions", create_with_noop()));
  auto measure = [&] {
    std::vector<double> us;
    for (int i = 0; i < commands; ++i)
      us.push_back(timed([&] { exec(http, mine, run_noop); }));
    return us;
  };
  measure();
  auto alone = measure();
  const std::pair<const char*, const char*> pressures[] = {
    {"16 busy loops", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do while :; do :; done & "
                      "done; wait"},
    {"forks", "for i in 1 2 3 4; do while :; do /bin/true; done & done; wait"},
    {"memory beyond its limit", "while :; do head -c 400m /dev/zero | tail -c 399m; done"},
    {"writes to its workspace", "while :; do head -c 64m /dev/zero > f; done"},
    {"writes to its /tmp", "while :; do head -c 32m /dev/zero > /tmp/f; done"},
    {"output", "cat /dev/zero"},
  };
  for (auto [what, command] : pressures) {
    auto id = http_client::id_of(
      other.expect(201, "POST", "/v1/sessions", R"({"limits": {"memory_bytes": 268435456}})"));
    other.expect(200, "POST", "/v1/sessions/" + id + "/pty",
                 R"({"yield_time_ms": 300, "max_output_tokens": 10, "command": ")"
                   + std::string{command} + "\"}");
    auto beside = measure();
    other.expect(204, "DELETE", "/v1/sessions/" + id);
    std::printf("beside %-24s exec p50 %.2f ms = %.2f x alone (%.2f ms), p99 %.2f ms = %.2f x\n",
                what, quantile(beside, 0.5) / 1000, quantile(beside, 0.5) / quantile(alone, 0.5),
                quantile(alone, 0.5) / 1000, quantile(beside, 0.99) / 1000,
                quantile(beside, 0.99) / quantile(alone, 0.99));
  }
}

int64_t memory_used() {
  std::ifstream in{"/proc/meminfo"};
  std::string name;
  std::string unit;
  int64_t total = 0;
  int64_t available = 0;
  for (int64_t value = 0; in >> name >> value && std::getline(in, unit);) {
    if (name == "MemTotal:")
      total = value;
    if (name == "MemAvailable:")
      available = value;
  }
  return total - available;
}

/// `n` sessions with an idle shell each: memory, exec meanwhile, and the end.
void idle(const std::string& folder, size_t n) {
  server s{folder, settings(0)};
  http_client http{s.port()};
  auto first = http_client::id_of(http.expect(201, "POST", "/v1/sessions", create_with_noop()));
  auto alone = memory_used();
  std::vector<pid_t> shells; // the same shells without a session
  std::vector<unique_fd> pipes;
  for (size_t i = 0; i < 100; ++i) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
      die("pipe2");
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
    char name[] = "/bin/sh";
    char* argv[] = {name, nullptr};
    pid_t pid;
    if (::posix_spawn(&pid, name, &actions, nullptr, argv, ::environ) != 0)
      die("posix_spawn");
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(ends[0]);
    pipes.emplace_back(ends[1]);
    shells.push_back(pid);
  }
  std::this_thread::sleep_for(std::chrono::seconds{1});
  auto shell = static_cast<double>(memory_used() - alone) / 100;
  pipes.clear();
  for (auto pid : shells)
    ::waitpid(pid, nullptr, 0);
  std::this_thread::sleep_for(std::chrono::seconds{1});

  auto before = memory_used();
  constexpr size_t makers = 32; // opening a terminal waits a while for its first output
  std::atomic<size_t> next{0};
  std::vector<std::thread> all;
  auto begun = clock_type::now();
  for (size_t t = 0; t < makers; ++t)
    all.emplace_back([&] {
      http_client own{s.port()};
      while (next++ < n) {
        auto id = http_client::id_of(own.expect(201, "POST", "/v1/sessions", "{}"));
        own.expect(200, "POST", "/v1/sessions/" + id + "/pty",
                   R"({"command": ["/bin/sh"], "shell": false, "tty": true, "yield_time_ms": 0})");
      }
    });
  for (auto& x : all)
    x.join();
  auto made = seconds{clock_type::now() - begun}.count();
  std::this_thread::sleep_for(std::chrono::seconds{2});
  auto each = static_cast<double>(memory_used() - before) / static_cast<double>(n);
  std::vector<double> took;
  for (int i = 0; i < 500; ++i)
    took.push_back(timed([&] { exec(http, first, run_noop); }));
  auto end = timed([&] { s.stop(); });
  std::printf(
    "%zu sessions with an idle shell, made in %.1f s: %.0f KiB each, %.0f beyond the shell's"
    " %.0f (goal 1024); exec p50 %.1f ms, p99 %.1f ms (goal 50); gone in %.2f s (goal 5)\n",
    n, made, each, each - shell, shell, quantile(took, 0.5) / 1000, quantile(took, 0.99) / 1000,
    end / 1e6);
}

} // namespace

int main(int argc, char** argv) {
  auto number = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  std::string mode = argc > 1 ? argv[1] : "latency";
  auto folder = folder_of_run();
  for (auto name : {"/cold", "/warm"})
    std::filesystem::create_directories(folder + name);
  try {
    if (mode == "latency")
      latency(folder, number(2, 200));
    else if (mode == "burst")
      burst(folder, static_cast<size_t>(number(2, 100)), static_cast<size_t>(number(3, 0)));
    else if (mode == "together")
      together(folder, static_cast<size_t>(number(2, 100)), number(3, 10'000));
    else if (mode == "neighbours")
      neighbours(folder, number(2, 300));
    else if (mode == "idle")
      idle(folder, static_cast<size_t>(number(2, 2000)));
    else
      die("no such mode: " + mode);
  } catch (const std::exception& e) {
    die(e.what());
  }
  std::filesystem::remove_all(folder);
}
