#pragma once

#include "gateway/http/answers.hpp"
#include "gateway/http/http.hpp"
#include "gateway/http/router.hpp"
#include "gateway/native/bridge.hpp"
#include "messages/unique_fd.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::gateway {

/// What the API needs of the process it runs in.
struct api_context {
  /// The shard that a session belongs to.
  std::function<supervisor_actor(const std::string& session_id)> supervisor_of;
  /// The session itself where it takes requests now, which saves asking; null: ask its shard.
  std::function<session_actor(const std::string& session_id, const std::string& tenant)> session_of;
  std::function<registry_actor()> registry;
  std::function<snapshot_store_actor()> snapshots;
  std::function<event_hub_actor()> events;
  node_actor node;
  std::string node_id;
  /// Where clients reach it: host:port.
  std::function<std::string()> address;
  /// Prometheus text of the process's counters.
  std::function<std::string()> metrics;
  backend_kind default_backend = backend_kind::unix_local;
  /// Those that a session may ask for.
  std::set<backend_kind> backends;
  /// A stream to a port inside a session; null: ports are this machine's own. See `proxy_target`.
  std::function<void(const std::string& session_id, uint16_t port,
                     std::function<void(result<unique_fd>)>)>
    connect_port;
  /// API key -> tenant. Empty: everyone is tenant `default`.
  std::unordered_map<std::string, std::string> keys;
  /// Folders that a tenant's local snapshots may be in, besides the server's own. Only looked at
  /// when keys are configured: without, the one tenant is the operator.
  std::vector<std::string> snapshot_roots;
  /// False while the process starts or goes down.
  std::atomic<bool> ready{false};
};

/// One request on its way: the exchange and who asks.
struct call {
  std::shared_ptr<exchange> http;
  std::string tenant;

  const request_head& head() const {
    return http->head();
  }
  const std::string& param(std::string_view name) const {
    return head().param(name);
  }
  /// A query parameter, empty if missing.
  std::string query(std::string_view name) const;

  void answer(int status, const json& body) const;
  void answer_empty(int status = 204) const;
  void fail(const error& x) const;
};

/// The native API: every route of `contract/http-api.md` that this build has.
class api {
public:
  api(caf::actor_system& system, std::shared_ptr<api_context> context);

  /// Registers every route.
  void add_to(router& routes);

private:
  using serve = void (api::*)(call);

  /// One row of the route table; `openapi.cpp` renders them.
  struct route {
    const char* method;
    const char* pattern;
    const char* summary;
    serve handler;
    bool open = false; ///< needs no key
  };
  static const std::vector<route>& routes();

  // -- plumbing
  // ---------------------------------------------------------------------------------------

  void dispatch(const route& r, std::shared_ptr<exchange> x);
  result<std::string> authenticate(const request_head& head) const;

  /// Reads a JSON object body (an empty body is `{}`) and hands it on.
  void with_body(call c, std::function<void(call, const json&)> next,
                 uint64_t limit = 4 * 1024 * 1024);

  /// The same for a request whose body has no members.
  void without_members(call c, std::function<void(call)> next);

  /// Finds the session named by `{id}` and hands it on.
  void with_session(call c, std::function<void(call, session_actor)> next);

  /// Asks the session and answers with what `render` makes of it.
  template <class R, class Message, class Render>
  void ask_session(call c, Message message, Render render) {
    with_session(std::move(c), [this, message = std::move(message),
                                render = std::move(render)](call c2, session_actor session) {
      bridge_.ask<R>(
        session,
        [c2, render](result<R> x) {
          if (!x) {
            c2.fail(x.error());
          } else if constexpr (std::is_void_v<R>) {
            render(c2);
          } else {
            render(c2, *x);
          }
        },
        message);
    });
  }

  /// Limit and cursor of a list request.
  static result<std::pair<int32_t, std::string>> page_of(const call& c);

  // -- sessions.cpp
  // -----------------------------------------------------------------------------------

  void create(call c);
  void list(call c);
  void get(call c);
  void start(call c);
  void stop(call c);
  void shutdown(call c);
  void close(call c);
  void remove(call c);
  void resume(call c);
  void running(call c);
  void describe(call c);
  void add_hook(call c);
  void add_skip(call c);
  void apply(call c);

  void submit_create(call c, session_spec spec, bool idempotent);

  // -- commands.cpp
  // -----------------------------------------------------------------------------------

  void exec(call c);
  void exec_streamed(call c, exec_request request, bool base64);

  // -- terminals.cpp
  // ----------------------------------------------------------------------------------

  void open_pty(call c);
  void write_pty(call c);
  void list_ptys(call c);
  void resize_pty(call c);
  void end_pty(call c);
  void end_ptys(call c);
  void attach_pty(call c);

  // -- ports.cpp
  // --------------------------------------------------------------------------------------

  void get_port(call c);
  void proxy(call c);

  // -- files.cpp
  // --------------------------------------------------------------------------------------

  void get_file(call c);
  void put_file(call c);
  void delete_file(call c);
  void ls(call c);
  void mkdir(call c);
  void extract(call c);
  void apply_patch(call c);
  void get_workspace(call c);
  void put_workspace(call c);

  // -- tools.cpp
  // --------------------------------------------------------------------------------------

  void tool(call c);
  void exec_command(call c, const json& arguments);
  void write_stdin(call c, const json& arguments);
  void patch_tool(call c, const json& arguments);
  void view_image(call c, const json& arguments);

  // -- events.cpp
  // -------------------------------------------------------------------------------------

  void events(call c);
  void session_events(call c);
  void stream_events(call c, const std::string& session_id);

  // -- snapshots.cpp
  // ----------------------------------------------------------------------------------

  void checkpoint(call c);
  void rewind(call c);
  void diff(call c);
  void fork(call c);
  void list_snapshots(call c);
  void get_snapshot(call c);
  void delete_snapshot(call c);
  void verify_snapshot(call c);
  void diff_snapshots(call c);
  void prune_snapshots(call c);

  // -- operations.cpp
  // ---------------------------------------------------------------------------------

  void nodes(call c);
  void healthz(call c);
  void readyz(call c);
  void metrics(call c);
  void openapi(call c);

  std::shared_ptr<api_context> context_;
  bridge bridge_;
};

/// The OpenAPI 3.1 document of the given routes.
struct described_route {
  std::string method;
  std::string pattern;
  std::string summary;
};
json openapi_document(const std::vector<described_route>& routes);

} // namespace troupe::gateway
