#include "actors/node_host.hpp"

#include "actors/node.hpp"
#include "actors/registry_db.hpp"
#include "messages/interfaces.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/tree.hpp"

#include <algorithm>
#include <filesystem>
#include <set>
#include <thread>

namespace troupe::actors {

namespace {

unsigned cores() {
  return std::max(1u, std::thread::hardware_concurrency());
}

/// Removes folders of sessions that have no record: a process died between making and recording
/// one, or between forgetting and removing one.
result<void> sweep(const node_config& config, registry_db& db) {
  auto records = db.load(load_records{0, 1});
  if (!records)
    return unexpected(std::move(records.error()));
  std::set<std::string> known;
  for (const auto& record : *records)
    known.insert(record.spec.id);
  std::error_code ignored;
  for (const auto& folder :
       std::filesystem::directory_iterator{config.state_dir + "/sessions", ignored})
    if (!known.contains(folder.path().filename().string()))
      if (auto removed = workspace::remove_tree_at(folder.path().string()); !removed)
        return removed;
  return {};
}

} // namespace

system_config::system_config() {
  add_message_types<caf::id_block::troupe>();
  // `sharing` answers threads outside the system three times faster than `stealing` on few cores.
  set("scheduler.policy", caf::atom("sharing"));
  set("scheduler.max-threads", cores());
  set("scheduler.max-throughput", 100u);
  set("logger.verbosity", caf::atom("quiet"));
}

result<std::unique_ptr<node_host>> node_host::start(node_config config,
                                                    std::function<void()> fatal) {
  for (const auto* folder : {"", "/sessions", "/snapshots"})
    if (auto made = workspace::open_or_make_directory(config.state_dir + folder, 0700); !made)
      return unexpected(std::move(made.error()));
  auto db = registry_db::open(config.state_dir + "/registry.sqlite");
  if (!db)
    return unexpected(std::move(db.error()));
  std::unique_ptr<node_host> host{new node_host};
  // The name ties the cgroups to the state directory: the next process on it sweeps them.
  auto instance = workspace::sha256_hex(config.state_dir).substr(0, 12);
  host->runtime_
    = std::make_unique<backends::runtime>(backends::runtime::options{.instance = instance});
  if (auto swept = sweep(config, **db); !swept)
    return unexpected(std::move(swept.error()));
  auto workers = cores();
  host->repository_ = snapshot::make_repository(
    workers, snapshot::cache_options{.folder = config.state_dir + "/cache/layers"});
  std::error_code ignored;
  for (const auto& tenant :
       std::filesystem::directory_iterator{config.state_dir + "/snapshots", ignored})
    host->repository_->sweep(tenant.path().string());
  host->io_ = std::make_unique<backends::thread_pool>(
    backends::thread_pool::options{.name = "troupe-io",
                                   .threads = std::clamp<size_t>(2 * workers, 4, 16),
                                   .capacity = 4096,
                                   .nice = 0});
  host->cpu_ = std::make_unique<backends::thread_pool>(
    backends::thread_pool::options{.name = "troupe-cpu",
                                   .threads = std::max<size_t>(1, config.snapshot_jobs),
                                   .capacity = 256,
                                   .nice = 10});
  host->services_ = std::unique_ptr<services>{new services{
    std::move(config), *host->runtime_, *host->io_, *host->cpu_, *host->repository_, {}, {}}};
  host->caf_config_ = std::make_unique<system_config>();
  host->system_ = std::make_unique<caf::actor_system>(*host->caf_config_);
  auto node = host->system_->spawn<state_actor<node_state>>(
    std::ref(*host->services_), std::shared_ptr<registry_db>{std::move(*db)}, std::move(fatal));
  host->node_ = node;
  if (auto loaded = host->ask<void>(node, load_shard{}); !loaded)
    return unexpected(std::move(loaded.error()));
  return host;
}

result<shutdown_report> node_host::shutdown(std::chrono::milliseconds deadline) {
  return ask<shutdown_report>(node_, shutdown_node{deadline.count()});
}

local_supervisor_actor node_host::supervisor_of(const std::string& session_id) const {
  return services_->directory.supervisor(shard_of(session_id, services_->config.shards));
}

node_host::~node_host() {
  if (!system_)
    return;
  // Pool jobs first: what they still have to say goes to actors that are there to hear it.
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
