#include "workspace/environment_json.hpp"

namespace troupe::workspace {

namespace {

using need = json_reader::need;

/// Reads `{"type": "str", "value"}` or the legacy `{"value"}`.
void read_value_object(json_reader& read, const json& value, const location& at,
                       environment_value& out) {
  out.form = environment_form::object;
  auto type = value.find("type");
  const bool legacy = type == value.end() && value.size() == 1 && value.contains("value");
  if (!legacy && (type == value.end() || !type->is_string()))
    return read.fail(at, "value_error", "env value mapping must include a string `type` field");
  if (!legacy && *type != "str")
    return read.fail(at, "value_error",
                     "Unknown env value type `" + shortened(type->get_ref<const std::string&>())
                       + "`. Registered types: str");
  read.text(value, at, "value", out.value, need::required);
}

void read_wrapper(json_reader& read, const json& value, const location& at,
                  environment_value& out) {
  out.wrapped = true;
  read.text(value, at, "description", out.description);
  read.boolean(value, at, "ephemeral", out.ephemeral);
  auto* inner = read.member(value, at, "value", need::required);
  if (inner && inner->is_object())
    read_value_object(read, *inner, {at, "value"}, out);
  else if (inner)
    read.fail({at, "value"}, "type_error", "env value must be an object");
}

void read_value(json_reader& read, const json& value, const location& at, environment_value& out) {
  if (value.is_string()) {
    out.value = value.get_ref<const std::string&>();
    return;
  }
  if (!value.is_object())
    return read.fail(at, "type_error", "environment value must be text or an object");
  auto inner = value.find("value");
  if (value.contains("type") || (inner != value.end() && inner->is_string()))
    read_value_object(read, value, at, out);
  else
    read_wrapper(read, value, at, out);
}

json dump_value(const environment_value& x) {
  if (x.form == environment_form::text && !x.wrapped)
    return x.value;
  json object{{"type", "str"}, {"value", x.value}};
  if (!x.wrapped)
    return object;
  return json{{"value", std::move(object)},
              {"description", x.description ? json(*x.description) : json(nullptr)},
              {"ephemeral", x.ephemeral}};
}

} // namespace

std::vector<environment_value> read_environment(json_reader& read, const json& value,
                                                const location& at) {
  std::vector<environment_value> out;
  if (!value.is_object()) {
    read.fail(at, "model_type", "Input should be a valid dictionary or instance of Environment");
    return out;
  }
  auto* values = read.member(value, at, "value", need::optional);
  location here{at, "value"};
  if (!values)
    return out;
  if (!values->is_object()) {
    read.fail(here, "value_error", "Environment mapping must be a mapping");
    return out;
  }
  out.reserve(values->size());
  for (const auto& [name, member] : values->items()) {
    auto& x = out.emplace_back();
    x.name = name;
    read_value(read, member, {here, name}, x);
  }
  return out;
}

json dump_environment(const std::vector<environment_value>& values) {
  auto out = json::object();
  for (const auto& x : values)
    out[x.name] = dump_value(x);
  return json{{"value", std::move(out)}};
}

} // namespace troupe::workspace
