#include "gateway/native/openapi_calls.hpp"

#include "gateway/native/openapi_schemas.hpp"

#include <map>

namespace troupe::gateway {

namespace {

using namespace schema;

constexpr const char* octets = "application/octet-stream";
constexpr const char* tar = "application/x-tar";

json media(const char* type, json schema) {
  return {{type, {{"schema", std::move(schema)}}}};
}

json json_media(json schema) {
  return media("application/json", std::move(schema));
}

json bytes(const char* type) {
  return media(type, {{"type", "string"}, {"format", "binary"}});
}

json both(json a, const json& b) {
  a.update(b);
  return a;
}

json answer(const char* status, const char* what, json content = nullptr) {
  json x{{"description", what}};
  if (!content.is_null())
    x["content"] = std::move(content);
  return {{status, std::move(x)}};
}

json done() {
  return answer("204", "Done");
}

json session_answer(const char* status = "200") {
  return answer(status, "The session", json_media(reference("Session")));
}

json list_answer(const char* what, json item) {
  return answer("200", what, json_media(full_object({{"items", list_of(std::move(item))}})));
}

json command() {
  return {{"oneOf", json::array({text(), list_of(text())})}};
}

json output_encoding() {
  return one_of({"utf-8", "base64"});
}

json conflict_policy() {
  return one_of({"snapshot_wins", "live_wins", "fail"});
}

json options() {
  return object({{"type", one_of({"unix_local", "isolated", "docker"})},
                 {"exposed_ports", list_of(integer())},
                 {"on_conflict", conflict_policy()}});
}

/// Members that a command has in common, run to its end or interactively, and more.
json command_members(json also) {
  json members{{"command", command()},
               {"shell", {{"oneOf", json::array({boolean(), list_of(text())})}}},
               {"user", text()},
               {"cwd", text()},
               {"env", map_of(text())},
               {"timeout_s", number()},
               {"output_encoding", output_encoding()}};
  members.update(also);
  return members;
}

json create_body() {
  return object({{"manifest", any_object()},
                 {"snapshot", nullable(any_object())},
                 {"options", options()},
                 {"exposed_ports", list_of(integer())},
                 {"concurrency_limits", object({{"manifest_entries", nullable(integer())},
                                                {"local_dir_files", nullable(integer())}})},
                 {"archive_limits", nullable(object({{"max_input_bytes", nullable(integer())},
                                                     {"max_extracted_bytes", nullable(integer())},
                                                     {"max_members", nullable(integer())}}))},
                 {"limits", limits()},
                 {"network", network()},
                 {"labels", map_of(text())},
                 {"idle_timeout_s", nullable(number())},
                 {"max_lifetime_s", nullable(number())},
                 {"start", boolean()}});
}

json patch_body() {
  auto operation = object({{"type", one_of({"create_file", "update_file", "delete_file"})},
                           {"path", text()},
                           {"diff", text()},
                           {"move_to", text()}},
                          {"type", "path"});
  return object({{"patch", text()},
                 {"operations", {{"oneOf", json::array({operation, list_of(operation)})}}},
                 {"partial", boolean()},
                 {"cwd", text()},
                 {"user", text()}});
}

json event_stream() {
  return answer("200", "Server-sent events: of a session until it is deleted",
                media("text/event-stream", text()));
}

json page_query(json also = json::object()) {
  return both({{"limit", integer()}, {"cursor", text()}}, also);
}

using table = std::map<std::string, call_description>;

void add_life(table& calls) {
  // The second with an `Idempotency-Key` that made a session before.
  calls["POST /v1/sessions"]
    = {{}, json_media(create_body()), both(session_answer("201"), session_answer("200"))};
  calls["GET /v1/sessions"]
    = {page_query({{"status", text()}, {"label", text()}, {"node", text()}}),
       {},
       answer("200", "Sessions", json_media(page_of(reference("ListedSession"))))};
  calls["POST /v1/sessions/resume"]
    = {{},
       json_media(object({{"state", any_object()}, {"options", options()}}, {"state"})),
       session_answer("201")};
  calls["GET /v1/sessions/{id}"] = {{}, {}, session_answer()};
  calls["DELETE /v1/sessions/{id}"] = {{{"keep_snapshot", boolean()}}, {}, done()};
  calls["POST /v1/sessions/{id}/start"]
    = {{}, json_media(object({{"on_conflict", conflict_policy()}})), session_answer()};
  for (const char* step : {"stop", "shutdown", "close"})
    calls[std::string{"POST /v1/sessions/{id}/"} + step] = {{}, {}, session_answer()};
  calls["GET /v1/sessions/{id}/running"]
    = {{}, {}, answer("200", "Whether it is", json_media(full_object({{"running", boolean()}})))};
  calls["GET /v1/sessions/{id}/describe"]
    = {{{"depth", integer()}}, {}, answer("200", "A tree", media("text/plain", text()))};
  calls["POST /v1/sessions/{id}/pre_stop_hooks"]
    = {{},
       json_media(object({{"command", list_of(text())}, {"timeout_s", number()}}, {"command"})),
       answer("201", "The hook", json_media(full_object({{"hook_id", text()}})))};
  calls["POST /v1/sessions/{id}/persist_skip"]
    = {{},
       json_media(object({{"path", text()}}, {"path"})),
       answer("200", "The path as it is kept", json_media(full_object({{"path", text()}})))};
  calls["POST /v1/sessions/{id}/manifest"]
    = {{},
       json_media(object({{"manifest", any_object()}, {"only_ephemeral", boolean()}})),
       answer("200", "What was made",
              json_media(full_object(
                {{"files", list_of(full_object({{"path", text()}, {"sha256", text()}}))}})))};
  calls["GET /v1/sessions/{id}/events"] = {{}, {}, event_stream()};
}

void add_commands(table& calls) {
  calls["POST /v1/sessions/{id}/exec"]
    = {{},
       json_media(object(command_members({{"stdin", text()}}), {"command"})),
       answer("200", "The result, or its output as it comes",
              both(json_media(reference("ExecResult")), media("text/event-stream", text())))};
  auto update = answer("200", "What it printed", json_media(reference("PtyUpdate")));
  calls["POST /v1/sessions/{id}/pty"]
    = {{},
       json_media(object(command_members({{"tty", boolean()},
                                          {"rows", integer()},
                                          {"cols", integer()},
                                          {"yield_time_ms", integer()},
                                          {"max_output_tokens", integer()}}),
                         {"command"})),
       update};
  calls["GET /v1/sessions/{id}/pty"]
    = {{}, {}, list_answer("Interactive processes", reference("Pty"))};
  calls["DELETE /v1/sessions/{id}/pty"] = {{}, {}, done()};
  calls["DELETE /v1/sessions/{id}/pty/{pty_id}"] = {{}, {}, done()};
  calls["POST /v1/sessions/{id}/pty/{pty_id}/stdin"]
    = {{},
       json_media(object({{"chars", text()},
                          {"yield_time_ms", integer()},
                          {"max_output_tokens", integer()},
                          {"output_encoding", output_encoding()}},
                         {"chars"})),
       update};
  calls["POST /v1/sessions/{id}/pty/{pty_id}/resize"] = {
    {}, json_media(object({{"rows", integer()}, {"cols", integer()}}, {"rows", "cols"})), done()};
  calls["GET /v1/sessions/{id}/pty/{pty_id}/attach"]
    = {{{"cursor", integer()}},
       {},
       answer("101", "A WebSocket: binary messages are the terminal's bytes")};
}

void add_files(table& calls) {
  json whose{{"path", text()}, {"user", text()}};
  auto file = answer("200", "The bytes", bytes(octets));
  file.update(answer("206", "Those that `Range` asks for", bytes(octets)));
  file.update(answer("304", "The client has it (`If-None-Match`)"));
  calls["GET /v1/sessions/{id}/file"] = {whose, {}, file};
  calls["PUT /v1/sessions/{id}/file"] = {both({{"mode", text()}}, whose), bytes(octets), done()};
  calls["DELETE /v1/sessions/{id}/file"] = {both({{"recursive", boolean()}}, whose), {}, done()};
  calls["GET /v1/sessions/{id}/ls"]
    = {whose, {}, list_answer("The folder", reference("FileEntry"))};
  calls["POST /v1/sessions/{id}/mkdir"]
    = {{},
       json_media(object({{"path", text()}, {"parents", boolean()}, {"user", text()}}, {"path"})),
       done()};
  calls["POST /v1/sessions/{id}/extract"]
    = {{{"path", text()}, {"compression_scheme", text()}}, bytes(octets), done()};
  calls["POST /v1/sessions/{id}/apply_patch"] = {
    {}, json_media(patch_body()), answer("200", "What changed", json_media(reference("Patched")))};
  calls["POST /v1/sessions/{id}/tools/{name}"]
    = {{{"cwd", text()}, {"user", text()}},
       json_media(any_object()),
       answer("200", "What a model sees; of `view_image` JSON",
              both(media("text/plain", text()), json_media(reference("ViewedImage"))))};
  calls["GET /v1/sessions/{id}/workspace"] = {{}, {}, answer("200", "A tar", bytes(tar))};
  calls["PUT /v1/sessions/{id}/workspace"] = {{}, bytes(tar), done()};
  calls["GET /v1/sessions/{id}/ports/{port}"]
    = {{},
       {},
       answer("200", "Where it is",
              json_media(full_object(
                {{"host", text()}, {"port", integer()}, {"tls", boolean()}, {"query", text()}})))};
  calls["* /v1/sessions/{id}/proxy/{port}/{rest...}"]
    = {{}, {}, answer("2XX", "What the program inside answers")};
}

void add_snapshots(table& calls) {
  calls["POST /v1/sessions/{id}/checkpoint"]
    = {{},
       json_media(object({{"name", text()}})),
       answer("201", "The restore point", json_media(reference("RestorePoint")))};
  calls["POST /v1/sessions/{id}/rewind"]
    = {{}, json_media(object({{"snapshot_id", text()}}, {"snapshot_id"})), session_answer()};
  auto diff = answer("200", "What changed", json_media(reference("Diff")));
  calls["GET /v1/sessions/{id}/diff"]
    = {{{"from", text()}, {"to", text()}, {"text", boolean()}}, {}, diff};
  calls["POST /v1/sessions/{id}/fork"]
    = {{},
       json_media(object({{"count", integer()}, {"labels", map_of(text())}})),
       answer("201", "The copies",
              json_media(full_object(
                {{"items", list_of(reference("Session"))}, {"warnings", list_of(text())}})))};
  calls["GET /v1/snapshots"]
    = {page_query(), {}, answer("200", "Snapshots", json_media(page_of(reference("Snapshot"))))};
  calls["GET /v1/snapshots/{id}"]
    = {{}, {}, answer("200", "The snapshot", json_media(reference("Snapshot")))};
  calls["DELETE /v1/snapshots/{id}"] = {{}, {}, done()};
  calls["POST /v1/snapshots/{id}/verify"] = {
    {},
    {},
    answer("200", "It is whole", json_media(full_object({{"id", text()}, {"sound", boolean()}})))};
  calls["GET /v1/snapshots/{id}/diff"] = {{{"to", text()}, {"text", boolean()}}, {}, diff};
  calls["POST /v1/snapshots/prune"]
    = {{},
       json_media(object({{"max_age_s", number()},
                          {"max_count", integer()},
                          {"max_bytes", integer()},
                          {"dry_run", boolean()}})),
       answer("200", "Their ids", json_media(full_object({{"removed", list_of(text())}})))};
}

void add_operation(table& calls) {
  calls["GET /v1/nodes"] = {{}, {}, answer("200", "Nodes", json_media(page_of(reference("Node"))))};
  calls["GET /v1/events"] = {{}, {}, event_stream()};
  auto status = json_media(full_object({{"status", text()}}));
  calls["GET /healthz"] = {{}, {}, answer("200", "Alive", status)};
  calls["GET /readyz"] = {
    {}, {}, both(answer("200", "Ready", status), answer("503", "Starting or going down", status))};
  calls["GET /metrics"] = {{}, {}, answer("200", "Prometheus text", media("text/plain", text()))};
  calls["GET /openapi.json"] = {{}, {}, answer("200", "OpenAPI", json_media(any_object()))};
}

} // namespace

const call_description& describe_call(const std::string& method_and_pattern) {
  static const table calls = [] {
    table x;
    add_life(x);
    add_commands(x);
    add_files(x);
    add_snapshots(x);
    add_operation(x);
    return x;
  }();
  static const call_description unknown;
  auto i = calls.find(method_and_pattern);
  return i == calls.end() ? unknown : i->second;
}

} // namespace troupe::gateway
