#include "cli/event_sinks.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::actors;

namespace {

struct config {
  std::vector<sink_config> sinks;
  event_policies policies;
};

result<config> read(std::string_view text) {
  auto value = parse_json(text);
  BOOST_REQUIRE(value.has_value());
  gateway::object_reader in{*value};
  config out;
  if (auto ok = cli::read_event_sinks(in, out.sinks, out.policies); !ok)
    return unexpected(std::move(ok.error()));
  if (auto ok = in.finish(); !ok)
    return unexpected(std::move(ok.error()));
  return out;
}

std::string refusal(std::string_view text) {
  auto x = read(text);
  return x ? "" : x.error().message;
}

} // namespace

BOOST_AUTO_TEST_SUITE(configuration_of_event_sinks)

BOOST_AUTO_TEST_CASE(nothing_is_no_sink) {
  BOOST_TEST(read("{}")->sinks.empty());
}

BOOST_AUTO_TEST_CASE(every_kind_is_read_with_its_fields) {
  auto x = read(R"({
    "event_sinks": [
      {"type": "jsonl", "path": "/var/log/e.jsonl", "mode": "async", "on_error": "raise",
       "queue": 7, "policy": {"include_exec_output": true, "max_stdout_chars": 5}},
      {"type": "http", "endpoint": "https://host/x", "headers": {"a": "b"}, "timeout_s": 0.5,
       "spool_path": "/spool"},
      {"type": "workspace_jsonl", "path": "e-{session_id}", "ephemeral": true, "flush_every": 9},
      {"type": "chained", "sinks": [{"type": "jsonl", "path": "x"}]}
    ],
    "event_policy": {"redact_paths": true, "include_write_len": false},
    "event_policy_by_op": {"exec": {"max_stderr_chars": 3}}
  })");
  BOOST_REQUIRE(x.has_value());
  BOOST_REQUIRE(x->sinks.size() == 4u);
  const auto& jsonl = x->sinks[0];
  BOOST_TEST(std::get<jsonl_options>(jsonl.kind).path == "/var/log/e.jsonl");
  BOOST_TEST((jsonl.mode == sink_mode::async));
  BOOST_TEST((jsonl.on_error == sink_on_error::raise));
  BOOST_TEST(jsonl.queue_limit == 7u);
  BOOST_TEST((jsonl.policy.include_exec_output == true));
  BOOST_TEST((jsonl.policy.max_stdout_chars == 5u));
  BOOST_TEST(!jsonl.policy.max_stderr_chars.has_value());
  const auto& http = std::get<http_options>(x->sinks[1].kind);
  BOOST_TEST(http.endpoint == "https://host/x");
  BOOST_TEST(http.headers.at("a") == "b");
  BOOST_TEST(http.timeout.count() == 500);
  BOOST_TEST(http.spool_path == "/spool");
  BOOST_TEST(!x->sinks[1].mode.has_value());
  const auto& own = std::get<workspace_jsonl_options>(x->sinks[2].kind);
  BOOST_TEST(own.path == "e-{session_id}");
  BOOST_TEST(own.ephemeral);
  BOOST_TEST(own.flush_every == 9u);
  BOOST_TEST(std::get<chained_options>(x->sinks[3].kind).sinks.size() == 1u);
  BOOST_TEST((x->policies.all.redact_paths == true));
  BOOST_TEST((x->policies.by_op.at(op::exec).max_stderr_chars == 3u));
}

BOOST_AUTO_TEST_CASE(a_workspace_sink_has_defaults) {
  auto x = read(R"({"event_sinks": [{"type": "workspace_jsonl"}]})");
  BOOST_REQUIRE(x.has_value());
  const auto& own = std::get<workspace_jsonl_options>(x->sinks[0].kind);
  BOOST_TEST(own.path == "logs/events-{session_id}.jsonl");
  BOOST_TEST(!own.ephemeral);
  BOOST_TEST(own.flush_every == 1u);
}

BOOST_AUTO_TEST_CASE(what_is_wrong_is_named) {
  BOOST_TEST(refusal(R"({"event_sinks": {}})") == "`event_sinks` must be a list");
  BOOST_TEST(refusal(R"({"event_sinks": [1]})") == "`event_sinks[0]` must be a JSON object");
  BOOST_TEST(refusal(R"({"event_sinks": [{}]})") == "`event_sinks[0].type` must be given");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "kafka"}]})")
             == "`event_sinks[0].type` must be one of jsonl, http, workspace_jsonl, chained");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "jsonl"}]})")
             == "`event_sinks[0].path` must be text, not empty");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "jsonl", "path": "x", "endpoint": "y"}]})")
             == "unknown field `event_sinks[0].endpoint`");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "jsonl", "path": "x", "mode": "fast"}]})")
             == "`event_sinks[0].mode` must be one of sync, async, best_effort");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "http", "endpoint": "x", "timeout_s": 0}]})")
             == "`event_sinks[0].timeout_s` must be from 0.001 to 60");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "chained"}]})")
             == "`event_sinks[0].sinks` must be a list, not empty");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "chained", "sinks": [{"type": "jsonl"}]}]})")
             == "`event_sinks[0].sinks[0].path` must be text, not empty");
  BOOST_TEST(refusal(R"({"event_sinks": [{"type": "workspace_jsonl", "policy": {"x": 1}}]})")
             == "unknown field `event_sinks[0].policy.x`");
  BOOST_TEST(refusal(R"({"event_policy": {"max_stdout_chars": -1}})")
             == "`event_policy.max_stdout_chars` must be an integer from 0 to 10000000");
  BOOST_TEST(refusal(R"({"event_policy_by_op": {"fly": {}}})")
             == "`event_policy_by_op` must be an object whose keys are operations");
  BOOST_TEST(refusal(R"({"event_policy_by_op": {"exec": {"redact_paths": 1}}})")
             == "`event_policy_by_op.exec.redact_paths` must be true or false");
}

BOOST_AUTO_TEST_SUITE_END()
