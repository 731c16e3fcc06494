// What a whole server does under load, against the machine's own limits in the same run. One mode a
// call: exec, cycle, cycle-snapshot, manifest, local-dir, stop, idle. See README.md.

#include "bench/http_client.hpp"
#include "bench/server.hpp"
#include "bench/support.hpp"

#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <thread>

namespace {

using namespace troupe::bench;

std::string exec_body(const std::string& program) {
  return R"({"command": [")" + program + R"("], "shell": false})";
}

/// Create, start, exec, stop, delete; 16 at a time.
void cycle(server& s, bool with_snapshot, int n) {
  constexpr int parallel = 16;
  std::string create = "{}";
  if (with_snapshot) {
    create = R"({"snapshot": {"type": "local"}, "manifest": {"entries": {)";
    for (int i = 0; i < 100; ++i)
      create += (i > 0 ? "," : "") + std::string{"\"f"} + std::to_string(i)
                + R"(": {"type": "file", "content": "content of file )" + std::to_string(i)
                + R"("})";
    create += "}}}";
  }
  std::vector<std::unique_ptr<http_client>> clients;
  for (int i = 0; i < parallel; ++i)
    clients.push_back(std::make_unique<http_client>(s.port()));
  auto body = exec_body(TROUPE_BENCH_NOOP);
  auto one = [&](int t) {
    auto& c = *clients[static_cast<size_t>(t)];
    auto id = http_client::id_of(c.expect(201, "POST", "/v1/sessions", create));
    auto path = "/v1/sessions/" + id;
    c.expect(200, "POST", path + "/exec", body);
    c.expect(200, "POST", path + "/stop");
    c.expect(204, "DELETE", path);
  };
  rate(parallel * 4, parallel, one); // warm
  auto [ours, plain] = by_turns(n, parallel, one);
  std::printf("{\"bench\":\"%s\",\"n\":%d,\"cycles_per_s\":%.1f,\"posix_spawn_per_s\":%.1f,"
              "\"ratio\":%.3f}\n",
              with_snapshot ? "cycle_snapshot" : "cycle", n, ours, plain, ours / plain);
}

/// Commands of 16 sessions, one at a time in each.
void exec_rate(server& s, int n) {
  constexpr int parallel = 16;
  std::vector<std::unique_ptr<http_client>> clients;
  std::vector<std::string> paths;
  for (int i = 0; i < parallel; ++i) {
    clients.push_back(std::make_unique<http_client>(s.port()));
    auto id = http_client::id_of(clients.back()->expect(201, "POST", "/v1/sessions", "{}"));
    paths.push_back("/v1/sessions/" + id + "/exec");
  }
  auto body = exec_body(TROUPE_BENCH_NOOP);
  auto [ours, plain] = by_turns(n, parallel, [&](int t) {
    auto i = static_cast<size_t>(t);
    clients[i]->expect(200, "POST", paths[i], body);
  });
  std::printf("{\"bench\":\"exec_rate\",\"n\":%d,\"execs_per_s\":%.1f,\"posix_spawn_per_s\":%.1f,"
              "\"ratio\":%.3f}\n",
              n, ours, plain, ours / plain);
}

/// A manifest of 1,000 small files, in one round trip, against openat, write, close.
void manifest(server& s, const std::string& folder, int n) {
  constexpr int files = 1000;
  std::string create = R"({"manifest": {"entries": {)";
  std::string content(1024, 'x');
  for (int i = 0; i < files; ++i)
    create += (i > 0 ? "," : "") + std::string{"\"f"} + std::to_string(i)
              + R"(": {"type": "file", "content": ")" + content + "\"}";
  create += "}}}";
  http_client c{s.port()};
  std::vector<double> ours;
  std::vector<double> plain;
  for (int i = 0; i < n; ++i) {
    auto path = folder + "/plain" + std::to_string(i);
    plain.push_back(timed([&] {
      ::mkdir(path.c_str(), 0755);
      int dir = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      for (int f = 0; f < files; ++f) {
        int fd = ::openat(dir, ("f" + std::to_string(f)).c_str(),
                          O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
        if (::write(fd, content.data(), content.size()) < 0)
          die("write");
        ::close(fd);
      }
      ::close(dir);
    }));
    std::string id;
    ours.push_back(
      timed([&] { id = http_client::id_of(c.expect(201, "POST", "/v1/sessions", create)); }));
    c.expect(204, "DELETE", "/v1/sessions/" + id);
    std::filesystem::remove_all(path);
  }
  print_pair("manifest_1000_files", "http_ms", ours, "plain_loop_ms", plain);
}

/// A `local_dir` of 5,000 files against `cp -r`.
void local_dir(server& s, const std::string& folder, int n) {
  auto source = folder + "/source";
  for (int d = 0; d < 50; ++d) {
    std::filesystem::create_directories(source + "/d" + std::to_string(d));
    for (int f = 0; f < 100; ++f)
      std::ofstream{source + "/d" + std::to_string(d) + "/f" + std::to_string(f)}
        << std::string(2048, 'y');
  }
  auto create
    = R"({"manifest": {"entries": {"t": {"type": "local_dir", "src": ")" + source + R"("}}}})";
  http_client c{s.port()};
  std::vector<double> ours;
  std::vector<double> plain;
  for (int i = 0; i < n; ++i) {
    auto copy = folder + "/copy" + std::to_string(i);
    plain.push_back(timed([&] { run("cp -r " + source + " " + copy); }));
    std::string id;
    ours.push_back(
      timed([&] { id = http_client::id_of(c.expect(201, "POST", "/v1/sessions", create)); }));
    c.expect(204, "DELETE", "/v1/sessions/" + id);
    std::filesystem::remove_all(copy);
  }
  print_pair("local_dir_5000_files", "http_ms", ours, "cp_r_ms", plain);
}

/// A stop of 2,000 files and 100 MB, half of it random, against tar | zstd; what it does to the
/// server's memory and to another session's commands.
void stop(server& s, const std::string& folder, int n) {
  http_client c{s.port()};
  auto created = c.expect(201, "POST", "/v1/sessions", R"({"snapshot": {"type": "local"}})");
  auto id = http_client::id_of(created);
  auto root_at = created.find("\"root\":\"") + 8;
  auto root = created.substr(root_at, created.find('"', root_at) - root_at);
  std::mt19937_64 random{7};
  for (int i = 0; i < 2000; ++i) {
    auto dir = root + "/d" + std::to_string(i % 40);
    std::filesystem::create_directories(dir);
    std::string data(50'000, ' ');
    for (size_t k = 0; k < data.size(); ++k)
      data[k] = i % 2 == 0 ? static_cast<char>(random()) : "the quick brown fox "[k % 20];
    std::ofstream{dir + "/f" + std::to_string(i)} << data;
  }
  auto other = http_client::id_of(c.expect(201, "POST", "/v1/sessions", "{}"));
  auto probe = [&](std::atomic<bool>& go_on) {
    http_client mine{s.port()};
    std::vector<double> times;
    auto body = exec_body(TROUPE_BENCH_NOOP);
    while (go_on)
      times.push_back(
        timed([&] { mine.expect(200, "POST", "/v1/sessions/" + other + "/exec", body); }));
    return times;
  };
  std::atomic<bool> go_on{true};
  std::vector<double> quiet;
  std::thread warm{[&] { quiet = probe(go_on); }};
  std::this_thread::sleep_for(std::chrono::seconds{2});
  go_on = false;
  warm.join();
  // Without its last snapshot a stop has all of the tree to store.
  auto stop = [&] { c.expect(200, "POST", "/v1/sessions/" + id + "/stop"); };
  auto forget = [&] { c.expect(204, "DELETE", "/v1/snapshots/" + id); };
  auto before = s.memory_kib("VmHWM");
  stop();
  std::vector<double> ours;
  std::vector<double> plain;
  for (int i = 0; i < n; ++i) {
    forget();
    plain.push_back(timed([&] {
      run("tar -cf - -C " + root + " . | zstd -3 -T2 -q -o " + folder + "/t" + std::to_string(i)
          + ".zst");
    }));
    ours.push_back(timed(stop));
  }
  auto after = s.memory_kib("VmHWM");
  go_on = true;
  std::vector<double> busy;
  std::thread beside{[&] { busy = probe(go_on); }};
  for (int i = 0; i < n; ++i) {
    forget();
    stop();
  }
  go_on = false;
  beside.join();
  std::printf("{\"bench\":\"stop_memory\",\"peak_growth_mib\":%.1f}\n",
              static_cast<double>(after - before) / 1024);
  std::printf("{\"bench\":\"exec_beside_stop\",\"quiet_ms\":{\"p50\":%.2f,\"p99\":%.2f},"
              "\"beside_ms\":{\"p50\":%.2f,\"p99\":%.2f},\"ratio_p99\":%.2f}\n",
              quantile(quiet, 0.5) / 1000, quantile(quiet, 0.99) / 1000, quantile(busy, 0.5) / 1000,
              quantile(busy, 0.99) / 1000, quantile(busy, 0.99) / quantile(quiet, 0.99));
  print_pair("stop_2000_files_100_mb", "http_ms", ours, "tar_zstd_ms", plain);
}

/// Memory of started sessions that do nothing.
void idle(server& s, int n) {
  http_client c{s.port()};
  c.expect(201, "POST", "/v1/sessions", "{}");
  auto before = s.memory_kib("VmRSS");
  for (int i = 0; i < n; ++i)
    c.expect(201, "POST", "/v1/sessions", "{}");
  auto after = s.memory_kib("VmRSS");
  std::printf("{\"bench\":\"idle_sessions\",\"n\":%d,\"kib_each\":%.1f}\n", n,
              static_cast<double>(after - before) / n);
}

} // namespace

int main(int argc, char** argv) {
  std::string mode = argc > 1 ? argv[1] : "";
  int n = argc > 2 ? std::atoi(argv[2]) : 0;
  auto folder = (std::filesystem::temp_directory_path() / "troupe-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr)
    die("mkdtemp");
  {
    server s{folder,
             R"({"default_backend": "unix_local", "local_source_roots": [")" + folder + R"("]})"};
    if (mode == "cycle")
      cycle(s, false, n > 0 ? n : 2000);
    else if (mode == "exec")
      exec_rate(s, n > 0 ? n : 5000);
    else if (mode == "cycle-snapshot")
      cycle(s, true, n > 0 ? n : 500);
    else if (mode == "manifest")
      manifest(s, folder, n > 0 ? n : 20);
    else if (mode == "local-dir")
      local_dir(s, folder, n > 0 ? n : 10);
    else if (mode == "stop")
      stop(s, folder, n > 0 ? n : 5);
    else if (mode == "idle")
      idle(s, n > 0 ? n : 2000);
    else
      std::fprintf(
        stderr, "usage: bench_server_load exec|cycle|cycle-snapshot|manifest|local-dir|stop|idle "
                "[N]\n");
  }
  std::filesystem::remove_all(folder);
}
