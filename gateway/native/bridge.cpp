#include "gateway/native/bridge.hpp"

namespace troupe::gateway {

namespace {

struct bridge_state {
  using handle_type = bridge_actor;
  static constexpr const char* name = "troupe.bridge";

  bridge_state(self_ptr<bridge_actor> self, self_ptr<bridge_actor>* out) {
    *out = self;
  }

  bridge_actor::behavior_type make_behavior() {
    return {[](action& work) { work(); }};
  }
};

} // namespace

bridge::bridge(caf::actor_system& system, size_t width) : system_(system), workers_(width) {
  for (auto& x : workers_)
    x.actor = system.spawn<state_actor<bridge_state>>(&x.self);
}

bridge::~bridge() {
  for (auto& x : workers_)
    caf::anon_send_exit(x.actor, caf::exit_reason::kill);
}

} // namespace troupe::gateway
