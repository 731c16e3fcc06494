#include "actors/node.hpp"

#include "actors/event_hub.hpp"
#include "actors/registry.hpp"
#include "actors/snapshot_store.hpp"
#include "actors/supervisor.hpp"

namespace troupe::actors {

namespace {

constexpr size_t max_restarts = 5;
constexpr auto restart_window = std::chrono::seconds{60};

} // namespace

node_state::node_state(self_ptr<handle_type> self, services& shared,
                       std::shared_ptr<registry_db> db, std::function<void()> fatal)
  : self_(self), shared_(shared), db_(std::move(db)), fatal_(std::move(fatal)), watch_(self) {}

node_state::handle_type::behavior_type node_state::make_behavior() {
  return {
    [this](const get_node&) { return respond(self_, scope_, info()); },
    [this](const shutdown_node& x) { return respond(self_, scope_, shutdown(x)); },
    [](action& work) { work(); },
    [this](const load_shard&) { return respond(self_, scope_, start()); },
  };
}

co<result<void>> node_state::start() {
  spawn_registry();
  spawn_events();
  spawn_snapshots();
  for (uint32_t shard = 0; shard < shared_.config.shards; ++shard)
    spawn_supervisor(shard);
  for (const auto& supervisor : shared_.directory.supervisors()) {
    auto loaded = co_await ask<void>(self_, supervisor, load_shard{});
    if (!loaded)
      co_return loaded;
  }
  co_return result<void>{};
}

void node_state::spawn_registry() {
  registry_actor x = self_->spawn<state_actor<registry_state>>(std::ref(shared_), db_);
  watch_.watch(x, [this](const caf::error&) { restart([this] { spawn_registry(); }); });
  shared_.directory.set(std::move(x));
}

void node_state::spawn_events() {
  event_hub_actor x = self_->spawn<state_actor<event_hub_state>>(std::ref(shared_));
  watch_.watch(x, [this](const caf::error&) { restart([this] { spawn_events(); }); });
  shared_.directory.set(std::move(x));
}

void node_state::spawn_snapshots() {
  local_snapshot_store_actor x = self_->spawn<state_actor<snapshot_store_state>>(std::ref(shared_));
  watch_.watch(x, [this](const caf::error&) { restart([this] { spawn_snapshots(); }); });
  shared_.directory.set(std::move(x));
}

void node_state::spawn_supervisor(uint32_t shard) {
  local_supervisor_actor x = self_->spawn<state_actor<supervisor_state>>(std::ref(shared_), shard);
  watch_.watch(x, [this, shard](const caf::error&) {
    restart([this, shard] {
      spawn_supervisor(shard);
      ask_then<void>(
        self_, shared_.directory.supervisor(shard),
        [this](const result<void>& loaded) {
          if (!loaded && !down_)
            fatal_();
        },
        load_shard{});
    });
  });
  shared_.directory.set(shard, std::move(x));
}

void node_state::restart(const std::function<void()>& again) {
  if (down_)
    return;
  auto now = std::chrono::steady_clock::now();
  while (!restarts_.empty() && now - restarts_.front() > restart_window)
    restarts_.pop_front();
  if (restarts_.size() >= max_restarts) {
    down_ = true;
    fatal_();
    return;
  }
  restarts_.push_back(now);
  again();
}

co<result<node_info>> node_state::info() {
  node_info x;
  x.id = shared_.config.node_id;
  x.status = down_ ? "draining" : "up";
  x.capacity = shared_.config.max_sessions;
  x.version = TROUPE_VERSION;
  for (const auto& supervisor : shared_.directory.supervisors()) {
    auto counts = co_await ask<session_counts>(self_, supervisor, count_sessions{});
    if (counts)
      x.sessions += counts->total;
  }
  co_return x;
}

co<result<shutdown_report>> node_state::shutdown(shutdown_node x) {
  down_ = true;
  shutdown_report report;
  // All shards at once: they share the deadline.
  struct waiting {
    size_t left = 0;
    std::coroutine_handle<> next;
  };
  auto all = std::make_shared<waiting>();
  auto supervisors = shared_.directory.supervisors();
  all->left = supervisors.size();
  auto* out = &report;
  for (const auto& supervisor : supervisors)
    ask_then<drain_report>(
      self_, supervisor,
      [all, out](const result<drain_report>& drained) {
        if (drained) {
          out->stopped += drained->stopped;
          out->failed += drained->failed;
        }
        if (--all->left == 0 && all->next)
          all->next.resume();
      },
      drain_sessions{x.deadline_ms});
  struct awaiter {
    std::shared_ptr<waiting> all;
    bool await_ready() const noexcept {
      return all->left == 0;
    }
    void await_suspend(std::coroutine_handle<> h) {
      all->next = h;
    }
    void await_resume() const noexcept {}
  };
  awaiter drained{all};
  co_await drained;
  co_return report;
}

} // namespace troupe::actors
