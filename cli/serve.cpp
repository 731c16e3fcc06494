#include "cli/serve.hpp"

#include "actors/node_host.hpp"
#include "backends/granted_ids.hpp"
#include "backends/isolated/disk_image.hpp"
#include "cli/metrics.hpp"
#include "gateway/http/server.hpp"
#include "gateway/native/api.hpp"

#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <thread>

namespace troupe::cli {

namespace {

/// Answers that are on their way may still take this long once the sessions are down.
constexpr auto http_grace = std::chrono::seconds{2};

int fail(const error& x) {
  std::fprintf(stderr, "troupe: %s %s\n", x.message.c_str(), x.context.c_str());
  return 1;
}

/// The allocator keeps what large requests took; much of it goes back to the system.
void trim_heap() {
  constexpr size_t much = size_t{64} << 20;
  if (::mallinfo2().fordblks >= much)
    ::malloc_trim(0);
}

/// Waits for the end, and tidies up now and then.
void wait_for_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  constexpr timespec pause{10, 0};
  while (::sigtimedwait(&set, nullptr, &pause) < 0)
    if (errno == EAGAIN)
      trim_heap();
}

/// Ends the process if its clean end hangs, or at once on a second signal.
void start_watchdog(std::chrono::milliseconds after) {
  std::thread{[after] {
    auto give_up = std::chrono::steady_clock::now() + after;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    int signal;
    do {
      auto left
        = std::chrono::ceil<std::chrono::seconds>(give_up - std::chrono::steady_clock::now());
      timespec timeout{std::max<time_t>(left.count(), 0), 0};
      signal = sigtimedwait(&set, nullptr, &timeout);
    } while (signal < 0 && errno == EINTR); // a process that was stopped for a while goes on
    std::fprintf(stderr, "troupe: the clean stop did not end; what runs is killed\n");
    ::_exit(3);
  }}.detach();
}

/// While there is one thread.
result<void> take_granted_ids(const serve_config& config) {
  auto required = config.granted_ids == granted_ids_mode::required;
  auto wanted = config.granted_ids == granted_ids_mode::if_possible
                && config.node.default_backend == backend_kind::isolated;
  if (::geteuid() == 0 || !(required || wanted))
    return {};
  auto entered = backends::enter_granted_ids(config.node.state_dir);
  if (!entered && !required)
    std::fprintf(stderr, "troupe: %s\n", entered.error().message.c_str());
  return required ? entered : result<void>{};
}

} // namespace

int serve(serve_config config) {
  if (config.keys.empty() && !is_loopback(config.host))
    return fail(make_error(errc::sandbox_config_invalid, op::start,
                           "without `api_keys` the server binds loopback addresses only")
                  .with("listen", config.host));
  if (config.node.state_dir.empty())
    return fail(make_error(errc::sandbox_config_invalid, op::start, "--state-dir is missing"));

  if (auto taken = take_granted_ids(config); !taken)
    return fail(taken.error());
  if (config.node.isolated.disk_images)
    if (auto own = backends::isolated::leave_the_host_s_mounts(); !own)
      return fail(own.error());
  auto host = actors::node_host::start(config.node, [] {
    std::fprintf(stderr, "troupe: its actors died too often; the process ends\n");
    ::_exit(3);
  });
  if (!host)
    return fail(host.error());
  auto& shared = (*host)->shared();

  http_metrics http;
  auto context = std::make_shared<gateway::api_context>();
  context->supervisor_of
    = [h = host->get()](const std::string& id) -> supervisor_actor { return h->supervisor_of(id); };
  context->session_of
    = [&shared](const std::string& id, const std::string& tenant) -> session_actor {
    return shared.directory.reachable(id, tenant);
  };
  context->registry = [&shared] { return shared.directory.registry(); };
  context->snapshots = [&shared]() -> snapshot_store_actor { return shared.directory.snapshots(); };
  context->events = [&shared] { return shared.directory.events(); };
  context->node = (*host)->node();
  context->metrics = [&shared, &http] { return render_metrics(shared, http); };
  context->default_backend = config.node.default_backend;
  context->backends = config.backends;
  context->backends.insert(config.node.default_backend);
  // Without keys, whoever asks is the operator.
  if (config.backends.empty() && config.keys.empty())
    context->backends = {backend_kind::isolated, backend_kind::unix_local};
  context->connect_port = [&shared](const std::string& id, uint16_t port, auto done) {
    auto backend = shared.directory.find(id).backend;
    if (!backend)
      done(unexpected(make_error(errc::exposed_port_unavailable, op::resolve_exposed_port,
                                 "the session has no sandbox")));
    else
      caf::anon_send(backend, actors::connect_port{port, std::move(done)});
  };
  context->node_id = config.node.node_id;
  // The port is chosen when the server listens, which it does before anything can ask.
  std::atomic<uint16_t> port{config.port};
  auto host_part
    = config.host.find(':') == std::string::npos ? config.host : "[" + config.host + "]";
  context->address = [host_part, &port] { return host_part + ":" + std::to_string(port.load()); };
  context->keys = config.keys;
  context->snapshot_roots = config.snapshot_roots;

  gateway::router routes;
  gateway::api api{(*host)->system(), context};
  api.add_to(routes);
  gateway::server_options options;
  options.address = config.host;
  options.port = config.port;
  options.max_connections = config.max_connections;
  options.on_access = [&http](const gateway::access_record& x) {
    auto index = static_cast<size_t>(x.status / 100);
    if (index < std::size(http.by_class))
      http.by_class[index].fetch_add(1, std::memory_order_relaxed);
    http.total_us.fetch_add(
      static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(x.duration).count()),
      std::memory_order_relaxed);
  };
  auto server = gateway::server::start(std::move(options), [&routes](auto x) { routes(x); });
  if (!server)
    return fail(server.error());
  port = (*server)->port();
  context->ready = true;

  auto url = "http://" + context->address();
  std::printf("troupe listens on %s\n"
              "backend %s%s\n"
              "try: curl -s -X POST %s/v1/sessions -d '{}'\n",
              url.c_str(), std::string{to_string(config.node.default_backend)}.c_str(),
              config.node.default_backend == backend_kind::unix_local
                ? ": NO ISOLATION, commands run as the server's own user"
                : "",
              url.c_str());
  std::fflush(stdout);

  wait_for_signal();
  std::fprintf(stderr, "troupe: stopping; sessions go into their snapshots (at most %lld s)\n",
               static_cast<long long>(config.shutdown_timeout.count() / 1000));
  context->ready = false;
  start_watchdog(config.shutdown_timeout + std::chrono::seconds{15});
  auto report = (*host)->shutdown(config.shutdown_timeout);
  (*server)->stop(http_grace);
  if (report)
    std::fprintf(stderr, "troupe: %u sessions stopped, %u failed\n", report->stopped,
                 report->failed);
  return 0;
}

} // namespace troupe::cli
