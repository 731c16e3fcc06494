// What an isolated sandbox costs against the kernel's own price of a process: posix_spawn of a
// program that does nothing, an exec of the same in a running sandbox, and a new sandbox up to the
// end of its first command; by turns, in this one process. Needs root.

#include "backends/runtime.hpp"
#include "bench/support.hpp"

#include <filesystem>
#include <future>

namespace {

using namespace troupe;
using namespace troupe::bench;

exec_request noop() {
  exec_request out;
  out.command = {"/workspace/noop"};
  out.shell = shell_mode::off;
  return out;
}

void run(backends::sandbox& box) {
  auto spec = box.prepare(noop(), {});
  if (!spec)
    die(spec.error().message);
  std::promise<result<backends::command_exit>> ended;
  box.exec(std::move(*spec), {[&](auto x) { ended.set_value(std::move(x)); }, nullptr});
  auto x = ended.get_future().get();
  if (!x || x->exit_code != 0)
    die(x ? "the command failed" : x.error().message);
}

void end(backends::sandbox& box) {
  std::promise<void> gone;
  box.shutdown([&] { gone.set_value(); });
  gone.get_future().wait();
}

} // namespace

int main(int argc, char** argv) {
  auto iterations = argc > 1 ? std::atoi(argv[1]) : 300;
  std::string dir = "/tmp/troupe-bench-XXXXXX";
  if (::mkdtemp(dir.data()) == nullptr)
    die("mkdtemp");
  {
    backends::runtime::options options;
    options.instance = "bench-" + std::to_string(::getpid());
    options.isolated.dir = dir + "/isolated";
    backends::runtime runtime{options};
    auto make = [&](const std::string& name) {
      backends::sandbox_config config;
      config.session_id = name;
      config.private_dir = dir + "/" + name;
      config.workspace_root = config.private_dir + "/workspace";
      std::filesystem::create_directories(config.workspace_root);
      std::filesystem::copy_file(TROUPE_BENCH_NOOP, config.workspace_root + "/noop");
      auto box = runtime.make_sandbox(backend_kind::isolated, config);
      if (!box)
        die(box.error().message);
      return std::move(*box);
    };
    auto open = [](backends::sandbox& box) {
      if (auto ok = box.open(); !ok)
        die(ok.error().message);
    };
    auto warm = make("warm");
    open(*warm);
    run(*warm);
    using clock = std::chrono::steady_clock;
    auto us = [](clock::time_point from) {
      return std::chrono::duration<double, std::micro>(clock::now() - from).count();
    };
    std::vector<double> spawn;
    std::vector<double> exec;
    std::vector<double> create;
    std::vector<double> finish;
    for (int i = 0; i < iterations; ++i) {
      auto t = clock::now();
      run_by_posix_spawn(TROUPE_BENCH_NOOP);
      spawn.push_back(us(t));
      t = clock::now();
      run(*warm);
      exec.push_back(us(t));
      auto box = make("s" + std::to_string(i));
      t = clock::now();
      open(*box);
      run(*box);
      create.push_back(us(t));
      t = clock::now();
      end(*box);
      finish.push_back(us(t));
      (void) box->remove();
    }
    auto at = [](std::vector<double> x, double q) {
      std::sort(x.begin(), x.end());
      return x[static_cast<size_t>(q * static_cast<double>(x.size() - 1))];
    };
    std::printf("{\"iterations\": %d", iterations);
    for (const auto& [name, x] :
         {std::pair{"posix_spawn", &spawn}, std::pair{"exec", &exec},
          std::pair{"open_to_first_exec", &create}, std::pair{"shutdown", &finish}})
      std::printf(", \"%s_us\": {\"p50\": %.0f, \"p90\": %.0f, \"p99\": %.0f}", name, at(*x, 0.5),
                  at(*x, 0.9), at(*x, 0.99));
    std::printf(", \"exec_to_spawn\": %.2f}\n", at(exec, 0.5) / at(spawn, 0.5));
    end(*warm);
    (void) warm->remove();
  }
  std::filesystem::remove_all(dir);
}
