#include "cli/event_sinks.hpp"

namespace troupe::cli {

namespace {

using namespace actors;
using gateway::object_reader;

constexpr int64_t most_chars = 10'000'000;

/// A member whose text is one of `names`; `values` are what they mean.
template <class T, size_t N>
std::optional<T> one_of(object_reader& in, const char* key,
                        const std::pair<const char*, T> (&values)[N]) {
  auto text = in.text(key);
  if (!text)
    return std::nullopt;
  std::string known;
  for (const auto& [name, value] : values) {
    if (*text == name)
      return value;
    known += known.empty() ? "" : ", ";
    known += name;
  }
  in.fail(key, "one of " + known);
  return std::nullopt;
}

result<event_policy> read_policy(const json& value, const std::string& where) {
  object_reader in{value, where};
  auto count = [&](const char* key) -> std::optional<uint32_t> {
    auto x = in.integer(key, 0, most_chars);
    return x ? std::optional{static_cast<uint32_t>(*x)} : std::nullopt;
  };
  event_policy policy;
  policy.include_exec_output = in.boolean("include_exec_output");
  policy.max_stdout_chars = count("max_stdout_chars");
  policy.max_stderr_chars = count("max_stderr_chars");
  policy.include_write_len = in.boolean("include_write_len");
  policy.redact_paths = in.boolean("redact_paths");
  if (auto ok = in.finish(); !ok)
    return unexpected(std::move(ok.error()));
  return policy;
}

std::string needed_text(object_reader& in, const char* key) {
  auto text = in.text(key).value_or("");
  if (text.empty())
    in.fail(key, "text, not empty");
  return text;
}

jsonl_options read_jsonl(object_reader& in) {
  return {needed_text(in, "path")};
}

http_options read_http(object_reader& in) {
  http_options x;
  x.endpoint = needed_text(in, "endpoint");
  x.headers = in.text_map("headers").value_or(x.headers);
  if (auto timeout = in.seconds("timeout_s")) {
    x.timeout = std::chrono::duration_cast<std::chrono::milliseconds>(*timeout);
    // Zero would mean for ever.
    if (x.timeout.count() < 1 || x.timeout > std::chrono::minutes{1})
      in.fail("timeout_s", "from 0.001 to 60");
  }
  x.spool_path = in.text("spool_path").value_or("");
  return x;
}

workspace_jsonl_options read_workspace_jsonl(object_reader& in) {
  workspace_jsonl_options x;
  x.path = in.text("path").value_or(x.path);
  x.ephemeral = in.boolean("ephemeral").value_or(x.ephemeral);
  if (auto every = in.integer("flush_every", 1, 1'000'000))
    x.flush_every = static_cast<uint32_t>(*every);
  return x;
}

result<std::vector<sink_config>> read_sinks(object_reader& in, const char* key,
                                            const std::string& where);

result<sink_config> read_sink(const json& value, const std::string& where) {
  enum class kind { jsonl, http, workspace_jsonl, chained };
  object_reader in{value, where};
  sink_config config;
  auto type = one_of<kind>(in, "type",
                           {{"jsonl", kind::jsonl},
                            {"http", kind::http},
                            {"workspace_jsonl", kind::workspace_jsonl},
                            {"chained", kind::chained}});
  if (!type) {
    in.fail("type", "given");
    return unexpected(std::move(in.finish().error()));
  }
  switch (*type) {
    case kind::jsonl: config.kind = read_jsonl(in); break;
    case kind::http: config.kind = read_http(in); break;
    case kind::workspace_jsonl: config.kind = read_workspace_jsonl(in); break;
    case kind::chained: {
      auto inner = read_sinks(in, "sinks", where + ".sinks");
      if (!inner)
        return unexpected(std::move(inner.error()));
      if (inner->empty())
        in.fail("sinks", "a list, not empty");
      config.kind = chained_options{std::move(*inner)};
    }
  }
  config.mode = one_of<sink_mode>(in, "mode",
                                  {{"sync", sink_mode::sync},
                                   {"async", sink_mode::async},
                                   {"best_effort", sink_mode::best_effort}});
  config.on_error = one_of<sink_on_error>(in, "on_error",
                                          {{"raise", sink_on_error::raise},
                                           {"log", sink_on_error::log},
                                           {"ignore", sink_on_error::ignore}});
  if (auto limit = in.integer("queue", 1, 1'000'000))
    config.queue_limit = static_cast<size_t>(*limit);
  if (auto* own = in.any("policy")) {
    auto policy = read_policy(*own, where + ".policy");
    if (!policy)
      return unexpected(std::move(policy.error()));
    config.policy = *policy;
  }
  if (auto ok = in.finish(); !ok)
    return unexpected(std::move(ok.error()));
  return config;
}

result<std::vector<sink_config>> read_sinks(object_reader& in, const char* key,
                                            const std::string& where) {
  std::vector<sink_config> sinks;
  auto* list = in.any(key);
  if (!list)
    return sinks;
  if (!list->is_array()) {
    in.fail(key, "a list");
    return sinks;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    auto sink = read_sink((*list)[i], where + "[" + std::to_string(i) + "]");
    if (!sink)
      return unexpected(std::move(sink.error()));
    sinks.push_back(std::move(*sink));
  }
  return sinks;
}

} // namespace

result<void> read_event_sinks(object_reader& in, std::vector<sink_config>& sinks,
                              event_policies& policies) {
  auto read = read_sinks(in, "event_sinks", "event_sinks");
  if (!read)
    return unexpected(std::move(read.error()));
  sinks = std::move(*read);
  if (auto* all = in.any("event_policy")) {
    auto policy = read_policy(*all, "event_policy");
    if (!policy)
      return unexpected(std::move(policy.error()));
    policies.all = *policy;
  }
  auto* by_op = in.any("event_policy_by_op");
  if (by_op && !by_op->is_object())
    in.fail("event_policy_by_op", "an object");
  if (!by_op || !by_op->is_object())
    return {};
  for (const auto& [name, value] : by_op->items()) {
    auto operation = op_from_string(name);
    if (!operation) {
      in.fail("event_policy_by_op", "an object whose keys are operations");
      return {};
    }
    auto policy = read_policy(value, "event_policy_by_op." + name);
    if (!policy)
      return unexpected(std::move(policy.error()));
    policies.by_op[*operation] = *policy;
  }
  return {};
}

} // namespace troupe::cli
