#include "gateway/http/proxy.hpp"
#include "gateway/native/api.hpp"

#include <charconv>

// Ports that programs inside listen on: where they are, and the way there through this server.

namespace troupe::gateway {

namespace {

result<resolve_port> port_of(const call& c) {
  const auto& text = c.param("port");
  resolve_port query;
  auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), query.port);
  // One that is out of range is not configured, as any other.
  if (fault != std::errc{} || end != text.data() + text.size())
    return unexpected(
      make_error(errc::invalid_request, op::resolve_exposed_port, "the port must be an integer")
        .with("field", "port"));
  return query;
}

/// The target of the request behind the proxy: what follows the port in the path, and the query,
/// both as they came.
std::string target_of(const request_head& head, const port_endpoint& to) {
  std::string target{'/'};
  target.append(head.param("rest")).append(head.query_text);
  if (to.query.empty())
    return target;
  target += head.query_text.empty() ? '?' : '&';
  target.append(to.query, to.query.starts_with('?') ? 1 : 0);
  return target;
}

std::string prefix_of(const request_head& head) {
  auto prefix = head.path.substr(0, head.path.size() - head.param("rest").size());
  if (prefix.ends_with('/'))
    prefix.pop_back();
  return prefix;
}

} // namespace

void api::get_port(call c) {
  auto query = port_of(c);
  if (!query) {
    c.fail(query.error());
    return;
  }
  ask_session<port_endpoint>(std::move(c), *query, [](const call& c2, const port_endpoint& x) {
    c2.answer(200, {{"host", x.host}, {"port", x.port}, {"tls", x.tls}, {"query", x.query}});
  });
}

void api::proxy(call c) {
  auto query = port_of(c);
  if (!query) {
    c.fail(query.error());
    return;
  }
  ask_session<port_endpoint>(std::move(c), *query, [this](const call& c2, const port_endpoint& x) {
    if (x.tls) {
      c2.fail(make_error(errc::not_implemented, op::resolve_exposed_port,
                         "a port behind TLS is reached at its own address only"));
      return;
    }
    proxy_target to;
    if (context_->connect_port)
      to.dial = [connect = context_->connect_port, id = c2.param("id"),
                 port = static_cast<uint16_t>(x.port)](proxy_target::dialled done) {
        connect(id, port, std::move(done));
      };
    to.host = x.host;
    to.port = static_cast<uint16_t>(x.port);
    to.target = target_of(c2.head(), x);
    to.prefix = prefix_of(c2.head());
    // With keys, the field has ours in it; without, it is the program's.
    to.with_authorization = context_->keys.empty();
    forward(c2.http, std::move(to));
  });
}

} // namespace troupe::gateway
