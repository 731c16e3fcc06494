#include "gateway/native/api.hpp"
#include "gateway/native/openapi_calls.hpp"
#include "gateway/native/openapi_schemas.hpp"

#include <algorithm>

// The description that the server serves of itself, made from the route table. The integration
// tests hold each call they make, and its answer, against it.

namespace troupe::gateway {

namespace {

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

json parameter(const char* in, const std::string& name, bool required, const json& schema) {
  return {{"name", name}, {"in", in}, {"required", required}, {"schema", schema}};
}

} // namespace

json openapi_document(const std::vector<described_route>& routes) {
  json paths = json::object();
  for (const auto& r : routes) {
    const auto& call = describe_call(r.method + " " + r.pattern);
    auto path = r.pattern;
    if (auto dots = path.find("...}"); dots != std::string::npos)
      path.erase(dots, 3);
    json parameters = json::array();
    for (const auto& name : names_in(path))
      parameters.push_back(parameter("path", name, true, schema::text()));
    for (const auto& [name, value] : call.query.items())
      parameters.push_back(parameter("query", name, name == "path", value));
    json operation{{"summary", r.summary}, {"responses", call.answers}};
    operation["responses"]["default"]
      = {{"description", "An error"},
         {"content", {{"application/json", {{"schema", schema::reference("Error")}}}}}};
    if (!parameters.empty())
      operation["parameters"] = std::move(parameters);
    if (!call.body.empty())
      operation["requestBody"] = {{"content", call.body}};
    for (const auto& method : methods_of(r))
      paths[path][method] = operation;
  }
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "Troupe"}, {"version", "1"}}},
          {"paths", std::move(paths)},
          {"components",
           {{"schemas", schema::components()},
            {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}},
          {"security", json::array({json{{"key", json::array()}}, json::object()})}};
}

} // namespace troupe::gateway
