// What each layer adds to the kernel's own price of a process: posix_spawn of a program that does
// nothing, against an exec of the same through a sandbox, through the actors, and over HTTP
// keep-alive; by turns, all in this one process.

#include "actors/node_host.hpp"
#include "bench/http_client.hpp"
#include "bench/support.hpp"
#include "gateway/http/server.hpp"
#include "gateway/native/api.hpp"
#include "messages/ids.hpp"

#include <sys/mman.h>

#include <filesystem>
#include <future>

namespace {

using namespace troupe;
using namespace troupe::bench;

struct options {
  int iterations = 2000;
  size_t grow_mib = 0; ///< resident memory of this process
  int fds = 0;         ///< open descriptors of this process
};

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

void run_by_sandbox(backends::sandbox& box, const exec_request& request) {
  auto spec = box.prepare(request, {});
  if (!spec)
    die(spec.error().message);
  std::promise<int> ended;
  backends::command_handlers handlers;
  handlers.on_exit
    = [&](result<backends::command_exit> x) { ended.set_value(x ? x->exit_code : 1000); };
  box.exec(std::move(*spec), std::move(handlers));
  if (ended.get_future().get() != 0)
    die("the command failed");
}

/// One way to run the program, and how long it took each time.
struct path {
  const char* name;
  std::function<void()> run;
  std::vector<double> samples = {};
};

} // namespace

int main(int argc, char** argv) {
  auto opts = parse(argc, argv);
  auto folder = (std::filesystem::temp_directory_path() / "troupe-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr)
    die("mkdtemp");
  {
    actors::node_config config;
    config.state_dir = folder + "/state";
    auto host = actors::node_host::start(config, [] { std::abort(); });
    if (!host)
      die(host.error().message);
    auto& shared = (*host)->shared();
    auto context = std::make_shared<gateway::api_context>();
    context->supervisor_of = [h = host->get()](const std::string& id) -> supervisor_actor {
      return h->supervisor_of(id);
    };
    context->session_of = [&](const std::string& id, const std::string& tenant) -> session_actor {
      return shared.directory.reachable(id, tenant);
    };
    context->registry = [&] { return shared.directory.registry(); };
    context->snapshots = [&]() -> snapshot_store_actor { return shared.directory.snapshots(); };
    context->events = [&] { return shared.directory.events(); };
    context->node = (*host)->node();
    context->backends = {backend_kind::unix_local};
    context->ready = true;
    gateway::router routes;
    gateway::api api{(*host)->system(), context};
    api.add_to(routes);
    auto server = gateway::server::start({}, [&](auto x) { routes(x); });
    if (!server)
      die(server.error().message);
    grow(opts);

    http_client client{(*server)->port()};
    auto id = http_client::id_of(client.expect(201, "POST", "/v1/sessions", "{}"));
    auto session
      = (*host)->ask<session_actor>((*host)->supervisor_of(id), lookup_session{id, "default"});
    if (!session)
      die("no session");
    backends::sandbox_config sandbox_config;
    sandbox_config.session_id = make_uuid();
    sandbox_config.private_dir = folder + "/box";
    sandbox_config.workspace_root = folder + "/box/workspace";
    auto box = shared.runtime.make_sandbox(backend_kind::unix_local, sandbox_config);
    if (!box || !(*box)->open())
      die("no sandbox");

    exec_request request;
    request.command = {TROUPE_BENCH_NOOP};
    request.shell = shell_mode::off;
    auto body = std::string{R"({"command": [")"} + TROUPE_BENCH_NOOP + R"("], "shell": false})";
    auto target = "/v1/sessions/" + id + "/exec";
    uint64_t calls = 0;
    std::vector<path> paths = {
      {"posix_spawn", [] { run_by_posix_spawn(TROUPE_BENCH_NOOP); }},
      {"sandbox", [&] { run_by_sandbox(**box, request); }},
      {"actors",
       [&] {
         exec_call call{++calls, request};
         if (!(*host)->ask<exec_result>(*session, std::move(call)))
           die("exec");
       }},
      {"http", [&] { client.expect(200, "POST", target, body); }},
    };
    constexpr int warm_up = 50;
    for (int i = 0; i < opts.iterations + warm_up; ++i)
      for (auto& p : paths) {
        auto spent = timed(p.run);
        if (i >= warm_up)
          p.samples.push_back(spent);
      }
    std::printf("{\"bench\":\"exec_latency\",\"iterations\":%d,\"grow_mib\":%zu,\"fds\":%d",
                opts.iterations, opts.grow_mib, opts.fds);
    auto base = quantile(paths.front().samples, 0.5);
    for (auto& p : paths)
      std::printf(",\"%s\":{\"p50_us\":%.1f,\"p99_us\":%.1f,\"ratio_p50\":%.3f}", p.name,
                  quantile(p.samples, 0.5), quantile(p.samples, 0.99),
                  quantile(p.samples, 0.5) / base);
    std::printf("}\n");
    (*server)->stop(std::chrono::seconds{1});
    std::promise<void> gone;
    (*box)->shutdown([&] { gone.set_value(); });
    gone.get_future().wait();
  }
  std::filesystem::remove_all(folder);
}
