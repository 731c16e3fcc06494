#include "actors/node_host.hpp"

#include "actors/node.hpp"
#include "actors/registry_db.hpp"
#include "actors/scheduling.hpp"
#include "actors/sinks/append.hpp"
#include "backends/isolated/overlay.hpp"
#include "backends/isolated/sandbox_maker.hpp"
#include "backends/ownership.hpp"
#include "messages/ids.hpp"
#include "messages/interfaces.hpp"
#include "snapshot/oci_image.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/tree.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <thread>

namespace troupe::actors {

namespace {

/// What sinks get to take the last events, however late it is.
constexpr std::chrono::milliseconds shortest_flush{1000};

unsigned cores() {
  return std::max(1u, std::thread::hardware_concurrency());
}

/// Removes folders of sessions that have no record: a process died between making and recording
/// one, or between forgetting and removing one.
result<void> sweep(const node_config& config, const std::vector<session_record>& records) {
  std::set<std::string> known;
  for (const auto& record : records)
    known.insert(record.spec.id);
  std::error_code ignored;
  for (const auto& folder :
       std::filesystem::directory_iterator{config.state_dir + "/sessions", ignored})
    if (!known.contains(folder.path().filename().string()))
      if (auto removed = workspace::remove_tree_at(folder.path().string()); !removed)
        return removed;
  return {};
}

/// Notes what a process wrote and could not note any more: so it can be seen, pruned and removed.
result<void> adopt_snapshots(registry_db& db, snapshot::repository& repository,
                             const std::string& folder, const std::string& tenant) {
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator{folder, ignored}) {
    auto id = file.path().stem().string();
    if (file.path().extension() != ".tar" || !is_uuid(id))
      continue;
    list_snapshots query{tenant, id, 1, ""};
    auto known = db.list(query);
    if (!known)
      return unexpected(std::move(known.error()));
    if (!known->items.empty())
      continue;
    snapshot_ref ref;
    ref.kind = snapshot_kind::local;
    ref.id = id;
    ref.base_path = folder;
    auto info = repository.inspect(ref);
    if (!info || info->tenant != tenant)
      continue;
    if (auto noted = db.put(*info); !noted)
      return noted;
  }
  return {};
}

} // namespace

system_config::system_config() {
  add_message_types<caf::id_block::troupe>();
  load<caf::scheduler::coordinator<near_first>>();
  set("scheduler.max-threads", cores());
  set("scheduler.max-throughput", 100u);
  set("logger.verbosity", caf::atom("quiet"));
}

result<std::unique_ptr<node_host>> node_host::start(node_config config,
                                                    std::function<void()> fatal) {
  for (const auto* folder : {"", "/sessions", "/snapshots"}) {
    auto made = workspace::open_or_make_directory(config.state_dir + folder, 0700);
    if (!made)
      return unexpected(std::move(made.error()));
    workspace::spread_directories(made->get());
  }
  auto db = registry_db::open(config.state_dir + "/registry.sqlite");
  if (!db)
    return unexpected(std::move(db.error()));
  std::unique_ptr<node_host> host{new node_host};
  // The name ties the cgroups to the state directory: the next process on it sweeps them.
  auto instance = workspace::sha256_hex(config.state_dir).substr(0, 12);
  if (config.isolated.dir.empty())
    config.isolated.dir = config.state_dir + "/isolated";
  if (config.isolated.root != "host") {
    auto root = snapshot::root_of_image(config.isolated.root, config.state_dir + "/cache/images");
    if (!root)
      return unexpected(std::move(root.error()));
    config.isolated.root = std::move(*root);
  }
  auto records = (*db)->load(load_records{0, 1});
  if (!records)
    return unexpected(std::move(records.error()));
  std::set<std::string> adoptable;
  for (const auto& record : *records)
    if (record.spec.state.type == backend_kind::isolated) {
      adoptable.insert(record.spec.id);
      adoptable.insert(backends::isolated::life_name(session_dir(config, record.spec.id)));
    }
  host->runtime_ = std::make_unique<backends::runtime>(backends::runtime::options{
    .instance = instance, .isolated = config.isolated, .adoptable = std::move(adoptable)});
  if (auto swept = sweep(config, *records); !swept)
    return unexpected(std::move(swept.error()));
  auto workers = cores();
  host->repository_ = snapshot::make_repository(
    workers,
    snapshot::cache_options{.folder = config.state_dir + "/cache/layers",
                            .owner = backends::default_sandbox_user},
    snapshot::remote_stores{remote_dir(config), config.snapshot_stores, config.remote_cache_bytes});
  // Before anything is unpacked, which may make room: an earlier process's sandboxes may be alive.
  auto layers = std::make_shared<repository_layers>(*host->repository_);
  std::set<std::string> held;
  for (const auto& record : *records)
    if (auto below = backends::isolated::layers_below(session_dir(config, record.spec.id))) {
      held.insert(below->id);
      layers->pin(*below);
    }
  auto tidy = [&](const std::string& folder) {
    host->repository_->release_others(folder, held);
    host->repository_->sweep(folder);
  };
  std::error_code ignored;
  for (const auto& tenant :
       std::filesystem::directory_iterator{config.state_dir + "/snapshots", ignored}) {
    auto folder = tenant.path().string();
    tidy(folder);
    if (auto ok = adopt_snapshots(**db, *host->repository_, folder, tenant.path().filename()); !ok)
      return unexpected(std::move(ok.error()));
  }
  for (const auto& remote : snapshot::remote_base_paths(remote_dir(config)))
    tidy(remote);
  (void) host->repository_->trim_mirrors([](const auto&) { return false; });
  host->io_ = std::make_unique<backends::thread_pool>(
    backends::thread_pool::options{.name = "troupe-io",
                                   .threads = std::clamp<size_t>(2 * workers, 4, 16),
                                   .most_threads = 64,
                                   .capacity = 4096,
                                   .nice = 0});
  host->cpu_ = std::make_unique<backends::thread_pool>(
    backends::thread_pool::options{.name = "troupe-cpu",
                                   .threads = std::max<size_t>(1, config.snapshot_jobs),
                                   .capacity = 256,
                                   .nice = 10});
  host->services_ = std::unique_ptr<services>{new services{
    std::move(config), *host->runtime_, *host->io_, *host->cpu_, *host->repository_, {}, {}}};
  host->services_->layers = std::move(layers);
  if (auto made = host->make_sinks(); !made)
    return unexpected(std::move(made.error()));
  host->caf_config_ = std::make_unique<system_config>();
  host->system_ = std::make_unique<caf::actor_system>(*host->caf_config_);
  auto node = host->system_->spawn<state_actor<node_state>>(
    std::ref(*host->services_), std::shared_ptr<registry_db>{std::move(*db)}, std::move(fatal));
  host->node_ = node;
  if (auto loaded = host->ask<void>(node, load_shard{}); !loaded)
    return unexpected(std::move(loaded.error()));
  return host;
}

result<void> node_host::make_sinks() {
  const auto& config = services_->config;
  if (config.event_sinks.empty())
    return {};
  sink_set::host host;
  host.run
    = [this](std::function<void()> job) { return io_->try_submit("event sinks", std::move(job)); };
  host.append = [this](const std::string& session_id, const std::string& path,
                       std::string_view text) -> result<bool> {
    auto workspace = services_->directory.workspace_of(session_id);
    if (!workspace)
      return false;
    backends::acting_as_if identity{workspace->owner};
    if (auto done = append_beneath(workspace->root->get(), path, text); !done)
      return unexpected(std::move(done.error()));
    return true;
  };
  host.log = [](const error& x) { std::fprintf(stderr, "troupe: %s\n", x.message.c_str()); };
  auto made = sink_set::make(config.event_sinks, config.event_policies, std::move(host));
  if (!made)
    return unexpected(std::move(made.error()));
  services_->sinks = std::move(*made);
  return {};
}

void node_host::flush_events(std::chrono::milliseconds at_most) {
  auto until = std::chrono::steady_clock::now() + at_most;
  if (auto hub = services_->directory.events())
    (void) ask<void>(hub, troupe::flush_events{});
  if (services_->sinks)
    services_->sinks->flush(
      std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now()));
}

result<shutdown_report> node_host::shutdown(std::chrono::milliseconds deadline) {
  auto until = std::chrono::steady_clock::now() + deadline;
  auto report = ask<shutdown_report>(node_, shutdown_node{deadline.count()});
  flush_events(std::max(shortest_flush, std::chrono::ceil<std::chrono::milliseconds>(
                                          until - std::chrono::steady_clock::now())));
  return report;
}

local_supervisor_actor node_host::supervisor_of(const std::string& session_id) const {
  return services_->directory.supervisor(shard_of(session_id, services_->config.shards));
}

std::shared_ptr<workspace::dependencies> node_host::dependencies_of(const std::string& session_id) {
  return services_->directory.dependencies_of(session_id, services_->config.dependencies.get());
}

node_host::~node_host() {
  if (!system_)
    return;
  flush_events(shortest_flush);
  if (services_->sinks)
    services_->sinks->close();
  // Pool jobs first: what they still have to say goes to actors that are there to hear it.
  services_->stopping.request_stop();
  io_->stop();
  cpu_->stop();
  auto& directory = services_->directory;
  auto kill = [](const auto& x) {
    if (x)
      caf::anon_send_exit(x, caf::exit_reason::kill);
  };
  kill(node_);
  for (const auto& x : directory.supervisors())
    kill(x);
  for (const auto& x : directory.sessions()) {
    kill(x.session);
    kill(x.backend);
  }
  kill(directory.events());
  kill(directory.snapshots());
  kill(directory.registry());
  node_ = node_actor{};
  directory.clear();
  system_.reset();
}

} // namespace troupe::actors
