#include "gateway/native/openapi_schemas.hpp"

#include "messages/error.hpp"

namespace troupe::gateway::schema {

json text() {
  return {{"type", "string"}};
}

json number() {
  return {{"type", "number"}};
}

json integer() {
  return {{"type", "integer"}};
}

json boolean() {
  return {{"type", "boolean"}};
}

json any_object() {
  return {{"type", "object"}};
}

json one_of(std::initializer_list<const char*> values) {
  json list = json::array();
  for (const auto* value : values)
    list.push_back(value);
  return {{"enum", std::move(list)}};
}

json nullable(json x) {
  return {{"oneOf", json::array({std::move(x), json{{"type", "null"}}})}};
}

json list_of(json item) {
  return {{"type", "array"}, {"items", std::move(item)}};
}

json map_of(json value) {
  return {{"type", "object"}, {"additionalProperties", std::move(value)}};
}

json object(json members, const std::vector<std::string>& required) {
  json out{{"type", "object"}, {"additionalProperties", false}, {"properties", std::move(members)}};
  if (!required.empty())
    out["required"] = required;
  return out;
}

json full_object(json members) {
  std::vector<std::string> names;
  for (const auto& [name, value] : members.items())
    names.push_back(name);
  return object(std::move(members), names);
}

json page_of(json item) {
  return full_object({{"items", list_of(std::move(item))}, {"next_cursor", nullable(text())}});
}

json reference(const std::string& name) {
  return {{"$ref", "#/components/schemas/" + name}};
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

json network() {
  return {{"oneOf", json::array({one_of({"none", "host"}),
                                 object({{"allow", list_of(text())}}, {"allow"})})}};
}

namespace {

/// The members of an error, `also` beside those that every one has.
json error_members(json also) {
  json codes = json::array();
  for (int i = 1; i <= static_cast<int>(errc::internal); ++i)
    codes.push_back(to_string(static_cast<errc>(i)));
  json members{{"code", {{"enum", codes}}},
               {"message", text()},
               {"op", text()},
               {"retryable", nullable(boolean())},
               {"context", any_object()}};
  members.update(also);
  return members;
}

json session(bool with_state) {
  json members{
    {"id", text()},
    {"status", one_of({"created", "starting", "running", "stopping", "stopped", "failed"})},
    {"backend", one_of({"unix_local", "isolated", "docker"})},
    {"node", text()},
    {"tenant", text()},
    {"labels", map_of(text())},
    {"created_at", text()},
    {"started_at", nullable(text())},
    {"last_used_at", nullable(text())},
    {"expires_at", nullable(text())},
    {"restarts", integer()},
    {"last_error", nullable(full_object(error_members(json::object())))},
    {"usage", full_object({{"cpu_s", number()},
                           {"memory_bytes", integer()},
                           {"disk_bytes", nullable(integer())},
                           {"pids", integer()}})},
    {"limits", limits()},
    {"network", network()},
    {"walls", list_of(full_object({{"name", text()}, {"enforced", boolean()}, {"note", text()}}))},
    {"warnings", list_of(text())}};
  if (with_state)
    members["state"] = {{"type", "object"}, {"description", "what `resume` takes"}};
  return full_object(std::move(members));
}

json snapshot(json also) {
  json members{{"id", text()},
               {"session", text()},
               {"created_at", text()},
               {"size_bytes", integer()},
               {"stored_bytes", integer()},
               {"files", integer()},
               {"layers", integer()},
               {"parent", nullable(text())},
               {"name", nullable(text())}};
  members.update(also);
  return full_object(std::move(members));
}

} // namespace

json components() {
  json change{{"path", text()},        {"change", one_of({"A", "M", "D"})},
              {"type", text()},        {"size", integer()},
              {"old_size", integer()}, {"patch", text()}};
  return {
    {"Error", full_object({{"error", full_object(error_members({{"request_id", text()}}))}})},
    {"Session", session(true)},
    {"ListedSession", session(false)},
    {"ExecResult", full_object({{"exit_code", integer()},
                                {"stdout", text()},
                                {"stderr", text()},
                                {"wall_s", number()},
                                {"truncated", boolean()}})},
    {"PtyUpdate", full_object({{"process_id", nullable(integer())},
                               {"output", text()},
                               {"exit_code", nullable(integer())},
                               {"original_token_count", nullable(integer())},
                               {"wall_s", number()}})},
    {"Pty", full_object({{"process_id", integer()},
                         {"command", list_of(text())},
                         {"tty", boolean()},
                         {"running", boolean()},
                         {"started_at", text()}})},
    {"FileEntry", full_object({{"path", text()},
                               {"permissions", text()},
                               {"owner", text()},
                               {"group", text()},
                               {"size", integer()},
                               {"kind", one_of({"file", "directory", "symlink", "other"})},
                               {"mtime", text()},
                               {"link_target", nullable(text())}})},
    {"Patched",
     full_object({{"result", text()},
                  {"files", list_of(object({{"path", text()},
                                            {"change", one_of({"created", "updated", "deleted"})},
                                            {"moved_to", text()}},
                                           {"path", "change"}))}})},
    {"Snapshot", snapshot(json::object())},
    {"RestorePoint", snapshot({{"warnings", list_of(text())}})},
    {"Diff", full_object({{"items", list_of(object(std::move(change), {"path", "change", "type",
                                                                       "size", "old_size"}))},
                          {"truncated", boolean()}})},
    {"Node", full_object({{"id", text()},
                          {"address", text()},
                          {"status", one_of({"up", "draining", "down"})},
                          {"sessions", integer()},
                          {"capacity", integer()},
                          {"last_seen_at", text()},
                          {"version", text()}})},
    {"ViewedImage",
     {{"oneOf", json::array({full_object({{"type", {{"const", "image"}}}, {"image_url", text()}}),
                             full_object({{"type", {{"const", "text"}}}, {"text", text()}})})}}},
  };
}

} // namespace troupe::gateway::schema
