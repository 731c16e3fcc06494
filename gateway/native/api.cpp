#include "gateway/native/api.hpp"

#include <charconv>

namespace troupe::gateway {

namespace {

/// Compares without telling by its time how much was right.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size() && !b.empty(); ++i)
    difference |= static_cast<unsigned char>(a[i] ^ b[i % b.size()]);
  return difference == 0;
}

bool is_address(std::string_view host) {
  return host.starts_with('[') || host.find_first_not_of("0123456789.") == host.npos;
}

/// Whether a web page sends this that is none of this machine's own. Without keys that would be any
/// page which the operator's browser shows: one of another origin, or one whose name was made to
/// lead here after it was loaded. Such a name has a dot; an address leads nowhere else.
bool is_foreign_page(const request_head& head) {
  auto host = head.headers.get("Host").value_or("");
  auto name = host.substr(0, host.find(':', host.find(']') + 1));
  if (name.find('.') != name.npos && !is_address(name) && !name.ends_with(".localhost"))
    return true;
  auto origin = head.headers.get("Origin");
  if (!origin)
    return false;
  bool loopback
    = name == "localhost" || name == "[::1]" || (is_address(name) && name.starts_with("127."));
  auto authority = origin->substr(std::min(origin->find("//") + 2, origin->size()));
  return !loopback || origin->find("//") == std::string_view::npos || authority != host;
}

} // namespace

std::string call::query(std::string_view name) const {
  return std::string{head().query.get(name).value_or("")};
}

void call::answer(int status, const json& body) const {
  http->respond(json_response(status, body));
}

void call::answer_empty(int status) const {
  response x;
  x.status = status;
  http->respond(std::move(x));
}

void call::fail(const error& x) const {
  http->respond(error_response(x, head().request_id));
}

api::api(caf::actor_system& system, std::shared_ptr<api_context> context)
  : context_(std::move(context)), bridge_(system) {}

const std::vector<api::route>& api::routes() {
  static const std::vector<route> table = {
    {"POST", "/v1/sessions", "Create a session", &api::create},
    {"GET", "/v1/sessions", "List sessions", &api::list},
    {"POST", "/v1/sessions/resume", "Resume a session from its state", &api::resume},
    {"GET", "/v1/sessions/{id}", "Get a session", &api::get},
    {"DELETE", "/v1/sessions/{id}", "Delete a session and its workspace", &api::remove},
    {"POST", "/v1/sessions/{id}/start", "Start a session", &api::start},
    {"POST", "/v1/sessions/{id}/stop", "Persist the workspace into the snapshot", &api::stop},
    {"POST", "/v1/sessions/{id}/shutdown", "End every process of a session", &api::shutdown},
    {"POST", "/v1/sessions/{id}/close", "Pre-stop hooks, stop, shutdown", &api::close},
    {"GET", "/v1/sessions/{id}/running", "Whether the sandbox is alive", &api::running},
    {"GET", "/v1/sessions/{id}/describe", "The manifest as a tree", &api::describe},
    {"POST", "/v1/sessions/{id}/pre_stop_hooks", "Run a command before the next close",
     &api::add_hook},
    {"POST", "/v1/sessions/{id}/persist_skip", "Leave a path out of snapshots", &api::add_skip},
    {"POST", "/v1/sessions/{id}/manifest", "Materialise a manifest", &api::apply},
    {"POST", "/v1/sessions/{id}/exec", "Run a command", &api::exec},
    {"POST", "/v1/sessions/{id}/pty", "Start an interactive process", &api::open_pty},
    {"GET", "/v1/sessions/{id}/pty", "List interactive processes", &api::list_ptys},
    {"DELETE", "/v1/sessions/{id}/pty", "End all interactive processes", &api::end_ptys},
    {"DELETE", "/v1/sessions/{id}/pty/{pty_id}", "End an interactive process", &api::end_pty},
    {"POST", "/v1/sessions/{id}/pty/{pty_id}/stdin", "Type, or only collect output",
     &api::write_pty},
    {"POST", "/v1/sessions/{id}/pty/{pty_id}/resize", "Resize a terminal", &api::resize_pty},
    {"GET", "/v1/sessions/{id}/pty/{pty_id}/attach", "A WebSocket on a terminal", &api::attach_pty},
    {"GET", "/v1/sessions/{id}/file", "Read a file", &api::get_file},
    {"PUT", "/v1/sessions/{id}/file", "Write a file", &api::put_file},
    {"DELETE", "/v1/sessions/{id}/file", "Remove a file or folder", &api::delete_file},
    {"GET", "/v1/sessions/{id}/ls", "List a folder", &api::ls},
    {"POST", "/v1/sessions/{id}/mkdir", "Make a folder", &api::mkdir},
    {"POST", "/v1/sessions/{id}/extract", "Put an archive into the workspace and unpack it",
     &api::extract},
    {"POST", "/v1/sessions/{id}/apply_patch", "Change files by a patch", &api::apply_patch},
    {"POST", "/v1/sessions/{id}/tools/{name}", "Call a tool as a model does", &api::tool},
    {"GET", "/v1/sessions/{id}/workspace", "The workspace as a tar", &api::get_workspace},
    {"PUT", "/v1/sessions/{id}/workspace", "Unpack a tar into the workspace", &api::put_workspace},
    {"GET", "/v1/sessions/{id}/ports/{port}", "Where an exposed port is", &api::get_port},
    {"*", "/v1/sessions/{id}/proxy/{port}/{rest...}", "What listens on an exposed port",
     &api::proxy},
    {"POST", "/v1/sessions/{id}/checkpoint", "Take a restore point", &api::checkpoint},
    {"POST", "/v1/sessions/{id}/rewind", "Go back to a restore point", &api::rewind},
    {"GET", "/v1/sessions/{id}/diff", "What changed in the workspace", &api::diff},
    {"POST", "/v1/sessions/{id}/fork", "Make running copies of a session", &api::fork},
    {"GET", "/v1/sessions/{id}/events", "Events of a session", &api::session_events},
    {"GET", "/v1/snapshots", "List snapshots", &api::list_snapshots},
    {"GET", "/v1/snapshots/{id}", "Get a snapshot", &api::get_snapshot},
    {"DELETE", "/v1/snapshots/{id}", "Delete a snapshot", &api::delete_snapshot},
    {"POST", "/v1/snapshots/{id}/verify", "Read and verify a snapshot", &api::verify_snapshot},
    {"GET", "/v1/snapshots/{id}/diff", "What changed from one snapshot to another",
     &api::diff_snapshots},
    {"POST", "/v1/snapshots/prune", "Remove snapshots beyond some bounds", &api::prune_snapshots},
    {"GET", "/v1/nodes", "List nodes", &api::nodes},
    {"GET", "/v1/events", "Events of all sessions", &api::events},
    {"GET", "/healthz", "Whether the process is alive", &api::healthz, true},
    {"GET", "/readyz", "Whether the server takes work", &api::readyz, true},
    {"GET", "/metrics", "Prometheus metrics", &api::metrics},
    {"GET", "/openapi.json", "This description", &api::openapi, true},
  };
  return table;
}

void api::add_to(router& routes_out) {
  for (const auto& r : routes())
    routes_out.add(r.method, r.pattern,
                   [this, &r](std::shared_ptr<exchange> x) { dispatch(r, std::move(x)); });
}

void api::dispatch(const route& r, std::shared_ptr<exchange> x) {
  call c{std::move(x), "default"};
  if (!r.open) {
    auto tenant = authenticate(c.head());
    if (!tenant) {
      c.fail(tenant.error());
      return;
    }
    c.tenant = std::move(*tenant);
  }
  (this->*r.handler)(std::move(c));
}

result<std::string> api::authenticate(const request_head& head) const {
  if (context_->keys.empty()) {
    if (is_foreign_page(head))
      return unexpected(make_error(errc::unauthenticated, op::request,
                                   "a web page of another origin, or of another name than this "
                                   "machine's, needs an API key"));
    return "default";
  }
  constexpr std::string_view scheme = "bearer ";
  auto header = head.headers.get("Authorization").value_or("");
  if (equal_ignoring_case(header.substr(0, scheme.size()), scheme))
    for (const auto& [key, tenant] : context_->keys)
      if (same_secret(header.substr(scheme.size()), key))
        return tenant;
  return unexpected(make_error(errc::unauthenticated, op::request,
                               "an API key is needed: Authorization: Bearer <key>"));
}

void api::with_body(call c, std::function<void(call, const json&)> next, uint64_t limit) {
  auto body = c.http->body();
  body.read_all(limit, [c, next = std::move(next)](result<std::vector<char>> bytes) {
    if (!bytes) {
      c.fail(bytes.error());
      return;
    }
    if (bytes->empty()) {
      next(c, json::object());
      return;
    }
    auto value = parse_json({bytes->data(), bytes->size()});
    if (!value)
      c.fail(value.error());
    else if (!value->is_object())
      c.fail(make_error(errc::invalid_request, op::request, "the body must be a JSON object"));
    else
      next(c, *value);
  });
}

void api::with_session(call c, std::function<void(call, session_actor)> next) {
  const auto& id = c.param("id");
  if (auto session = context_->session_of(id, c.tenant)) {
    next(std::move(c), std::move(session));
    return;
  }
  lookup_session query{id, c.tenant};
  bridge_.ask<session_actor>(
    context_->supervisor_of(id),
    [c, next = std::move(next)](result<session_actor> session) {
      if (session)
        next(c, *session);
      else
        c.fail(session.error());
    },
    std::move(query));
}

result<std::pair<int32_t, std::string>> api::page_of(const call& c) {
  int32_t limit = 100;
  if (auto text = c.query("limit"); !text.empty()) {
    auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), limit);
    if (fault != std::errc{} || end != text.data() + text.size() || limit < 1 || limit > 1000)
      return unexpected(
        make_error(errc::invalid_request, op::list, "`limit` must be an integer from 1 to 1000")
          .with("field", "limit"));
  }
  return std::pair{limit, c.query("cursor")};
}

} // namespace troupe::gateway
