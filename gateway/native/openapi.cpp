#include "gateway/native/api.hpp"

#include <algorithm>
#include <map>

// The description that the server serves of itself, made from the route table. What a body holds
// stands here; that it is so, the tests of the API say.

namespace troupe::gateway {

namespace {

json text() {
  return {{"type", "string"}};
}

json number() {
  return {{"type", "number"}};
}

json boolean() {
  return {{"type", "boolean"}};
}

json integer() {
  return {{"type", "integer"}};
}

json list_of(json item) {
  return {{"type", "array"}, {"items", std::move(item)}};
}

json object(json properties, std::vector<std::string> required = {}) {
  json out{
    {"type", "object"}, {"additionalProperties", false}, {"properties", std::move(properties)}};
  if (!required.empty())
    out["required"] = required;
  return out;
}

json reference(const std::string& name) {
  return {{"$ref", "#/components/schemas/" + name}};
}

json text_map() {
  return {{"type", "object"}, {"additionalProperties", text()}};
}

json network() {
  return {{"oneOf", json::array({json{{"enum", json::array({"none", "host"})}},
                                 object({{"allow", list_of(text())}}, {"allow"})})}};
}

json limits() {
  return object({{"exec_timeout_s", number()},
                 {"output_bytes", integer()},
                 {"cpus", number()},
                 {"memory_bytes", integer()},
                 {"pids", integer()},
                 {"disk_bytes", integer()},
                 {"disk_inodes", integer()},
                 {"open_files", integer()}});
}

json command() {
  return {{"oneOf", json::array({text(), list_of(text())})}};
}

/// Request bodies by "METHOD pattern"; a route that is not in here takes none.
const std::map<std::string, json>& bodies() {
  static const std::map<std::string, json> table = {
    {"POST /v1/sessions",
     object(
       {{"manifest", {{"type", "object"}}},
        {"snapshot", {{"type", json::array({"object", "null"})}}},
        {"options", object({{"type", {{"enum", json::array({"unix_local", "isolated", "docker"})}}},
                            {"exposed_ports", list_of(integer())}})},
        {"exposed_ports", list_of(integer())},
        {"concurrency_limits",
         object({{"manifest_entries", integer()}, {"local_dir_files", integer()}})},
        {"limits", limits()},
        {"network", network()},
        {"labels", text_map()},
        {"idle_timeout_s", number()},
        {"max_lifetime_s", number()},
        {"start", boolean()}})},
    {"POST /v1/sessions/resume",
     object({{"state", {{"type", "object"}}}, {"options", {{"type", "object"}}}}, {"state"})},
    {"POST /v1/sessions/{id}/pre_stop_hooks",
     object({{"command", list_of(text())}, {"timeout_s", number()}}, {"command"})},
    {"POST /v1/sessions/{id}/persist_skip", object({{"path", text()}}, {"path"})},
    {"POST /v1/sessions/{id}/manifest",
     object({{"manifest", {{"type", "object"}}}, {"only_ephemeral", boolean()}})},
    {"POST /v1/sessions/{id}/exec",
     object({{"command", command()},
             {"shell", {{"oneOf", json::array({boolean(), list_of(text())})}}},
             {"user", text()},
             {"cwd", text()},
             {"env", text_map()},
             {"stdin", text()},
             {"timeout_s", number()},
             {"output_encoding", {{"enum", json::array({"utf-8", "base64"})}}}},
            {"command"})},
    {"POST /v1/sessions/{id}/pty",
     object({{"command", command()},
             {"shell", {{"oneOf", json::array({boolean(), list_of(text())})}}},
             {"user", text()},
             {"cwd", text()},
             {"env", text_map()},
             {"tty", boolean()},
             {"rows", integer()},
             {"cols", integer()},
             {"yield_time_ms", integer()},
             {"max_output_tokens", integer()},
             {"timeout_s", number()},
             {"output_encoding", {{"enum", json::array({"utf-8", "base64"})}}}},
            {"command"})},
    {"POST /v1/sessions/{id}/pty/{pty_id}/stdin",
     object({{"chars", text()},
             {"yield_time_ms", integer()},
             {"max_output_tokens", integer()},
             {"output_encoding", {{"enum", json::array({"utf-8", "base64"})}}}},
            {"chars"})},
    {"POST /v1/sessions/{id}/pty/{pty_id}/resize",
     object({{"rows", integer()}, {"cols", integer()}}, {"rows", "cols"})},
    {"POST /v1/sessions/{id}/apply_patch",
     object({{"patch", text()},
             {"operations",
              list_of(object(
                {{"type", {{"enum", json::array({"create_file", "update_file", "delete_file"})}}},
                 {"path", text()},
                 {"diff", text()},
                 {"move_to", text()}},
                {"type", "path"}))},
             {"partial", boolean()},
             {"cwd", text()},
             {"user", text()}})},
    {"POST /v1/sessions/{id}/tools/{name}", json{{"type", "object"}}},
    {"POST /v1/sessions/{id}/checkpoint", object({{"name", text()}})},
    {"POST /v1/sessions/{id}/rewind", object({{"snapshot_id", text()}}, {"snapshot_id"})},
    {"POST /v1/sessions/{id}/fork", object({{"count", integer()}, {"labels", text_map()}})},
    {"POST /v1/snapshots/prune", object({{"max_age_s", number()},
                                         {"max_count", integer()},
                                         {"max_bytes", integer()},
                                         {"dry_run", boolean()}})},
    {"POST /v1/sessions/{id}/mkdir",
     object({{"path", text()}, {"parents", boolean()}, {"user", text()}}, {"path"})},
  };
  return table;
}

/// Query parameters by "METHOD pattern".
const std::map<std::string, std::vector<std::string>>& queries() {
  static const std::map<std::string, std::vector<std::string>> table = {
    {"GET /v1/sessions", {"status", "label", "limit", "cursor"}},
    {"DELETE /v1/sessions/{id}", {"keep_snapshot"}},
    {"GET /v1/sessions/{id}/describe", {"depth"}},
    {"GET /v1/sessions/{id}/pty/{pty_id}/attach", {"cursor"}},
    {"GET /v1/sessions/{id}/file", {"path", "user"}},
    {"PUT /v1/sessions/{id}/file", {"path", "user", "mode"}},
    {"DELETE /v1/sessions/{id}/file", {"path", "user", "recursive"}},
    {"GET /v1/sessions/{id}/ls", {"path", "user"}},
    {"POST /v1/sessions/{id}/extract", {"path", "compression_scheme"}},
    {"POST /v1/sessions/{id}/tools/{name}", {"cwd", "user"}},
    {"GET /v1/snapshots", {"limit", "cursor"}},
    {"GET /v1/sessions/{id}/diff", {"from", "to", "text"}},
    {"GET /v1/snapshots/{id}/diff", {"to", "text"}},
  };
  return table;
}

json json_content(json schema) {
  return {{"application/json", {{"schema", std::move(schema)}}}};
}

json bytes_content(const char* type) {
  return {{type, {{"schema", {{"type", "string"}, {"format", "binary"}}}}}};
}

/// The answer of a success, by "METHOD pattern".
std::pair<std::string, json> success(const std::string& key) {
  auto described = [](const char* what, json content) {
    return json{{"description", what}, {"content", content}};
  };
  auto ends_with = [&](std::string_view tail) { return key.ends_with(tail); };
  if (key == "POST /v1/sessions" || ends_with("/resume"))
    return {"201", described("The session", json_content(reference("Session")))};
  if (ends_with("/checkpoint"))
    return {"201", described("The restore point", json_content(reference("Snapshot")))};
  if (ends_with("/fork"))
    return {"201", described("The copies", json_content(json{{"type", "object"}}))};
  if (ends_with("/rewind"))
    return {"200", described("The session", json_content(reference("Session")))};
  if (ends_with("/pre_stop_hooks"))
    return {"201", described("The hook", json_content(object({{"hook_id", text()}})))};
  if (key.starts_with("*"))
    return {"2XX", json{{"description", "What the program inside answers"}}};
  if (ends_with("/attach"))
    return {"101", json{{"description", "A WebSocket: binary messages are the terminal's bytes"}}};
  if (key == "POST /v1/sessions/{id}/pty" || ends_with("/stdin"))
    return {"200", described("What it printed", json_content(reference("PtyUpdate")))};
  if (ends_with("/apply_patch"))
    return {"200", described("What changed", json_content(reference("Patched")))};
  if (ends_with("/tools/{name}"))
    return {"200", described(
                     "What a model sees; of `view_image` JSON",
                     {{"text/plain", {{"schema", text()}}}, {"application/json", json::object()}})};
  if (key.starts_with("DELETE") || key.starts_with("PUT") || ends_with("/extract")
      || ends_with("/mkdir") || ends_with("/resize"))
    return {"204", json{{"description", "Done"}}};
  if (ends_with("/file"))
    return {"200", described("The bytes", bytes_content("application/octet-stream"))};
  if (ends_with("/workspace"))
    return {"200", described("A tar", bytes_content("application/x-tar"))};
  if (ends_with("/events"))
    return {"200", described("Server-sent events", {{"text/event-stream", json::object()}})};
  if (ends_with("/describe") || ends_with("/metrics"))
    return {"200", described("Text", {{"text/plain", {{"schema", text()}}}})};
  if (ends_with("/exec"))
    return {"200", json{{"description", "The result, or its output as it comes"},
                        {"content",
                         {{"application/json", {{"schema", reference("ExecResult")}}},
                          {"text/event-stream", json::object()}}}}};
  if (ends_with("/{id}") || ends_with("/start") || ends_with("/stop") || ends_with("/shutdown")
      || ends_with("/close"))
    return {"200", described("The object", json_content(key.find("snapshots") != std::string::npos
                                                          ? reference("Snapshot")
                                                          : reference("Session")))};
  return {"200", described("The answer", json_content(json{{"type", "object"}}))};
}

json schemas() {
  auto nullable = [](json schema) {
    return json{{"oneOf", json::array({std::move(schema), json{{"type", "null"}}})}};
  };
  json codes = json::array();
  for (int i = 1; i <= static_cast<int>(errc::internal); ++i)
    codes.push_back(to_string(static_cast<errc>(i)));
  json statuses = json::array({"created", "starting", "running", "stopping", "stopped", "failed"});
  json error_properties{{"code", {{"enum", codes}}},
                        {"message", text()},
                        {"op", text()},
                        {"retryable", {{"type", json::array({"boolean", "null"})}}},
                        {"context", {{"type", "object"}}},
                        {"request_id", text()}};
  return {
    {"Error", object({{"error", object(error_properties)}}, {"error"})},
    {"Session",
     object(
       {{"id", text()},
        {"status", {{"enum", statuses}}},
        {"backend", text()},
        {"node", text()},
        {"tenant", text()},
        {"labels", text_map()},
        {"created_at", text()},
        {"started_at", nullable(text())},
        {"last_used_at", nullable(text())},
        {"expires_at", nullable(text())},
        {"restarts", integer()},
        {"last_error", nullable(json{{"type", "object"}})},
        {"usage", object({{"cpu_s", number()},
                          {"memory_bytes", integer()},
                          {"disk_bytes", integer()},
                          {"pids", integer()}})},
        {"limits", limits()},
        {"network", network()},
        {"walls", list_of(object({{"name", text()}, {"enforced", boolean()}, {"note", text()}}))},
        {"warnings", list_of(text())},
        {"state", {{"type", "object"}}}})},
    {"ExecResult", object({{"exit_code", integer()},
                           {"stdout", text()},
                           {"stderr", text()},
                           {"wall_s", number()},
                           {"truncated", boolean()}})},
    {"PtyUpdate", object({{"process_id", nullable(integer())},
                          {"output", text()},
                          {"exit_code", nullable(integer())},
                          {"original_token_count", nullable(integer())},
                          {"wall_s", number()}})},
    {"Patched",
     object({{"result", text()},
             {"files", list_of(object(
                         {{"path", text()},
                          {"change", {{"enum", json::array({"created", "updated", "deleted"})}}},
                          {"moved_to", text()}},
                         {"path", "change"}))}})},
    {"Snapshot", object({{"id", text()},
                         {"session", text()},
                         {"created_at", text()},
                         {"size_bytes", integer()},
                         {"stored_bytes", integer()},
                         {"files", integer()},
                         {"layers", integer()},
                         {"parent", nullable(text())}})},
  };
}

/// The names between braces.
std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  for (auto open = path.find('{'); open != std::string::npos; open = path.find('{', open + 1))
    names.push_back(path.substr(open + 1, path.find('}', open) - open - 1));
  return names;
}

std::vector<std::string> methods_of(const described_route& r) {
  if (r.method == "*")
    return {"get", "put", "post", "delete", "options", "head", "patch", "trace"};
  auto method = r.method;
  std::transform(method.begin(), method.end(), method.begin(),
                 [](char c) { return static_cast<char>(c + ('a' - 'A')); });
  return {method};
}

} // namespace

json openapi_document(const std::vector<described_route>& routes) {
  json paths = json::object();
  for (const auto& r : routes) {
    auto key = r.method + " " + r.pattern;
    json operation{{"summary", r.summary}};
    json parameters = json::array();
    auto path = r.pattern;
    if (auto dots = path.find("...}"); dots != std::string::npos)
      path.erase(dots, 3);
    for (const auto& name : names_in(path))
      parameters.push_back(
        {{"name", name}, {"in", "path"}, {"required", true}, {"schema", text()}});
    if (auto i = queries().find(key); i != queries().end())
      for (const auto& name : i->second)
        parameters.push_back(
          {{"name", name}, {"in", "query"}, {"required", name == "path"}, {"schema", text()}});
    if (!parameters.empty())
      operation["parameters"] = std::move(parameters);
    if (auto i = bodies().find(key); i != bodies().end())
      operation["requestBody"] = {{"content", json_content(i->second)}};
    else if (r.method == "PUT" || r.pattern.ends_with("/extract"))
      operation["requestBody"] = {{"content", bytes_content("application/octet-stream")}};
    auto [status, answer] = success(key);
    operation["responses"]
      = {{status, std::move(answer)},
         {"default", {{"description", "An error"}, {"content", json_content(reference("Error"))}}}};
    if (key == "POST /v1/sessions") // with the same Idempotency-Key again
      operation["responses"]["200"] = operation["responses"]["201"];
    if (key == "GET /v1/sessions/{id}/file") {
      operation["responses"]["206"] = operation["responses"]["200"];
      operation["responses"]["304"] = {{"description", "The client has it (If-None-Match)"}};
    }
    for (const auto& method : methods_of(r))
      paths[path][method] = operation;
  }
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "Troupe"}, {"version", "1"}}},
          {"paths", std::move(paths)},
          {"components",
           {{"schemas", schemas()},
            {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}},
          {"security", json::array({json{{"key", json::array()}}, json::object()})}};
}

} // namespace troupe::gateway
