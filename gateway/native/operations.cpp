#include "gateway/native/api.hpp"
#include "messages/json.hpp"

namespace troupe::gateway {

void api::nodes(call c) {
  auto address = context_->address();
  bridge_.ask<node_info>(
    context_->node,
    [c, address](result<node_info> x) {
      if (!x) {
        c.fail(x.error());
        return;
      }
      auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count();
      json items = json::array();
      items.push_back({{"id", x->id},
                       {"address", address},
                       {"status", x->status},
                       {"sessions", x->sessions},
                       {"capacity", x->capacity},
                       {"last_seen_at", rfc3339_ms(now)},
                       {"version", x->version}});
      c.answer(200, {{"items", std::move(items)}, {"next_cursor", nullptr}});
    },
    get_node{});
}

void api::healthz(call c) {
  c.answer(200, {{"status", "ok"}});
}

void api::readyz(call c) {
  bool ready = context_->ready.load();
  c.answer(ready ? 200 : 503, {{"status", ready ? "ready" : "not ready"}});
}

void api::metrics(call c) {
  response x;
  x.headers.add("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
  x.body = context_->metrics();
  c.http->respond(std::move(x));
}

void api::openapi(call c) {
  std::vector<described_route> described;
  for (const auto& r : routes())
    described.push_back({r.method, r.pattern, r.summary});
  c.answer(200, openapi_document(described));
}

} // namespace troupe::gateway
