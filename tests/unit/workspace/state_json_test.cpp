#include "workspace/manifest_json.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace data = boost::unit_test::data;

namespace {

constexpr const char* session = "0f8fad5b-d9cb-469f-a165-70867728950e";

json payload() {
  return json{{"type", "unix_local"},
              {"session_id", session},
              {"snapshot", {{"type", "local"}, {"id", "s"}, {"base_path", "/srv/snapshots"}}},
              {"manifest", {{"root", "/srv/ws"}}}};
}

json with(const char* key, const std::string& value) {
  auto x = payload();
  x[key] = parse_json(value).value();
  return x;
}

/// What became of `key`, or "invalid".
std::string read_back(const char* key, const std::string& value) {
  auto x = parse_state(with(key, value));
  return x ? dump_json(dump_state(*x).at(key)) : "invalid";
}

struct member_case {
  const char* key;
  std::string value;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const member_case& x) {
  return out << x.key << " " << x.value;
}

} // namespace

BOOST_AUTO_TEST_CASE(a_state_is_completed_and_written_in_order) {
  auto x = dump_state(parse_state(payload()).value());
  x["manifest"] = nullptr;
  BOOST_TEST(
    dump_json(x)
    == R"({"type":"unix_local","session_id":"0f8fad5b-d9cb-469f-a165-70867728950e","snapshot":)"
       R"({"type":"local","id":"s","base_path":"/srv/snapshots"},"manifest":null,)"
       R"("exposed_ports":[],"snapshot_fingerprint":null,"snapshot_fingerprint_version":null,)"
       R"("workspace_root_ready":false,"workspace_root_owned":false})");
}

BOOST_DATA_TEST_CASE(
  members_are_coerced_or_refused,
  data::make(std::vector<member_case>{
    {"exposed_ports", "null", "[]"},
    {"exposed_ports", "80", "[80]"},
    {"exposed_ports", "[80, 65535, 80, 1]", "[80,65535,1]"},
    {"exposed_ports", "[0]", "invalid"},
    {"exposed_ports", "[65536]", "invalid"},
    {"exposed_ports", "[18446744073709551615]", "invalid"},
    {"exposed_ports", "[80.0]", "invalid"},
    {"exposed_ports", "[true]", "invalid"},
    {"exposed_ports", "\"80\"", "invalid"},
    {"exposed_ports", "[\"80\"]", "invalid"},
    {"exposed_ports", "{\"a\": 1}", "invalid"},
    {"session_id", "\"0F8FAD5B-D9CB-469F-A165-70867728950E\"", json_quote(session)},
    {"session_id", "\"0f8fad5bd9cb469fa16570867728950e\"", json_quote(session)},
    {"session_id", "\"urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e\"", json_quote(session)},
    {"session_id", "\"{0f8fad5b-d9cb-469f-a165-70867728950e}\"", json_quote(session)},
    {"session_id", "\"../../etc\"", "invalid"},
    {"session_id", "null", "invalid"},
    {"snapshot_fingerprint", "\"\"", "\"\""},
    {"snapshot_fingerprint", "5", "invalid"},
    {"workspace_root_ready", "true", "true"},
    {"workspace_root_ready", "null", "invalid"},
    {"workspace_root_owned", "true", "true"},
    {"type", "\"isolated\"", "\"isolated\""},
    {"type", "\"docker\"", "invalid"},
    {"type", "\"modal\"", "invalid"},
    {"type", "3", "invalid"},
    {"snapshot", R"({"type": "noop"})", "invalid"},
    {"snapshot", R"({"type": "noop", "id": 5})", "invalid"},
    {"snapshot", R"({"type": "noop", "id": "s", "x": 1})", R"({"type":"noop","id":"s"})"},
    {"snapshot", R"({"type": "remote", "id": "s"})", "invalid"},
    {"snapshot", R"({"type": "remote", "id": "s", "client_dependency_key": "k"})",
     R"({"type":"remote","id":"s","client_dependency_key":"k"})"},
    {"snapshot", R"({"type": "local", "id": "../x", "base_path": "snaps//"})",
     R"({"type":"local","id":"../x","base_path":"snaps"})"},
    {"snapshot", R"({"type": "s3", "id": "s"})", "invalid"},
    {"limits", R"({"exec_timeout_ms": 5, "later": 1})", R"({"exec_timeout_ms":5})"},
    {"limits", R"({"output_bytes": -1})", "invalid"},
    {"limits", R"({"output_bytes": 1.5})", "invalid"},
    {"limits", R"({"memory_bytes": 1048576})", "invalid"}, // of unix_local
    {"limits", "5", "invalid"},
    {"network", "\"none\"", "invalid"},
    {"network", R"({"allow": []})", "invalid"},
    {"manifest", "null", "invalid"},
    {"manifest", R"({"version": 2})", "invalid"},
    {"manifest", R"({"entries": {"m": {"type": "s3_mount"}}})", "invalid"},
  })) {
  BOOST_TEST(read_back(sample.key, sample.value) == sample.expected);
}

BOOST_AUTO_TEST_CASE(an_isolated_state_keeps_its_limits_and_network) {
  auto x = with("limits", R"({"memory_bytes": 1048576, "cpu_millis": 500})");
  x["type"] = "isolated";
  BOOST_TEST(!dump_state(parse_state(x).value()).contains("network"));
  for (auto network : {R"("host")", R"({"allow":["a:1","b:2"]})"}) {
    x["network"] = parse_json(network).value();
    auto again = dump_state(parse_state(x).value());
    BOOST_TEST(dump_json(again["network"]) == network);
    BOOST_TEST(dump_json(again["limits"]) == R"({"memory_bytes":1048576,"cpu_millis":500})");
  }
  for (auto network :
       {R"("allow")", R"("all")", R"({"allow":"a:1"})", R"({"allow":[1]})", "{}", "3"}) {
    x["network"] = parse_json(network).value();
    BOOST_TEST(!parse_state(x));
  }
}

BOOST_AUTO_TEST_CASE(what_is_missing_has_a_default_or_is_a_fault) {
  auto without = [](const char* key) {
    auto x = payload();
    x.erase(key);
    return parse_state(x);
  };
  BOOST_TEST((without("type")->type == backend_kind::unix_local));
  BOOST_TEST(without("session_id")->session_id != without("session_id")->session_id);
  BOOST_TEST(!without("snapshot"));
  BOOST_TEST(!without("manifest"));
}

BOOST_AUTO_TEST_CASE(a_docker_state_needs_its_container) {
  auto x = with("type", "\"docker\"");
  x["image"] = "debian";
  x["container_id"] = "c";
  x["exposed_ports"] = 80;
  BOOST_TEST((parse_state(x)->type == backend_kind::docker));
  BOOST_TEST(!dump_state(parse_state(x).value()).contains("workspace_root_owned"));
  x["network_mode"] = "none";
  BOOST_TEST(!parse_state(x));
}

BOOST_AUTO_TEST_CASE(a_docker_state_keeps_its_container) {
  auto x = with("type", "\"docker\"");
  x["image"] = "debian";
  x["container_id"] = "c";
  x["network_mode"] = "none";
  x["labels"] = json{{"team", "a"}};
  auto stored = dump_state(parse_state(x).value());
  for (auto* key : {"image", "container_id", "network_mode", "labels"})
    BOOST_TEST(stored[key] == x[key]);
  x["labels"] = json{{"team", 5}};
  BOOST_TEST(!parse_state(x));
}

BOOST_AUTO_TEST_CASE(a_docker_state_whose_mounts_lost_their_credentials_names_no_container) {
  auto x = with("type", "\"docker\"");
  x["image"] = "debian";
  x["container_id"] = "c";
  x["workspace_root_ready"] = true;
  x["manifest"] = parse_json(R"({"root": "/w", "entries": {"m": {"type": "s3_mount", "bucket": "b",
    "access_key_id": "a", "secret_access_key": "s",
    "mount_strategy": {"type": "docker_volume", "driver": "rclone"}}}})")
                    .value();
  auto parsed = parse_state(x).value();
  BOOST_TEST(!check_rebound(parsed));
  auto stored = dump_state(parsed);
  BOOST_TEST(stored["container_id"] == "");
  BOOST_TEST(stored["workspace_root_ready"] == false);
  BOOST_TEST(stored["session_id"] != x["session_id"]);
  BOOST_TEST(dump_state(parse_state(stored).value()) == stored);
}

BOOST_AUTO_TEST_CASE(one_generic_error_echoes_nothing) {
  for (const auto& x : {with("type", "\"secret\""), json::array(), json(nullptr),
                        with("manifest", R"({"root": 1, "secret": "secret"})")}) {
    auto e = parse_state(x).error();
    BOOST_TEST((e.code == errc::invalid_state));
    BOOST_TEST(e.message == "sandbox session state payload is invalid");
    BOOST_TEST(e.context == "{}");
  }
}

BOOST_AUTO_TEST_CASE(grants_of_host_paths_leave_only_their_names) {
  auto x = with("manifest", R"({"root": "/srv/ws", "extra_path_grants": [
    {"path": "/z", "host_path": "/srv/z"}, {"path": "/k"},
    {"path": "/a", "host_path": "/srv/a"}]})");
  x["__openai_agents_redacted_host_path_grant_paths"] = {"/data", 3, "/z", nullptr};
  auto state = parse_state(x).value();
  BOOST_TEST(state.manifest.extra_path_grants.size() == 1u);
  BOOST_TEST(state.redacted_host_path_grants == (std::vector<std::string>{"/a", "/data", "/z"}),
             boost::test_tools::per_element());

  state.manifest.extra_path_grants.push_back({"/live", false, {}, "/srv/live"});
  auto stored = dump_state(state);
  BOOST_TEST(dump_json(stored.at("__openai_agents_redacted_host_path_grant_paths"))
             == R"(["/a","/data","/live","/z"])");
  BOOST_TEST(dump_json(stored).find("/srv/live") == std::string::npos);
  BOOST_TEST(dump_json(dump_state(parse_state(stored).value())) == dump_json(stored));
}

BOOST_AUTO_TEST_CASE(a_marker_that_is_no_list_is_ignored) {
  auto x = parse_state(with("__openai_agents_redacted_host_path_grant_paths", "\"/data\""));
  BOOST_TEST(x.value().redacted_host_path_grants.empty());
}

BOOST_AUTO_TEST_CASE(a_state_remembers_that_credentials_of_mounts_were_taken_out) {
  auto marked = parse_state(with("__openai_agents_redacted_mount_authority", "true")).value();
  BOOST_TEST(marked.mount_authority_redacted);
  BOOST_TEST(dump_state(marked).at("__openai_agents_redacted_mount_authority") == true);
  auto other = parse_state(with("__openai_agents_redacted_mount_authority", "false")).value();
  BOOST_TEST(!other.mount_authority_redacted);
  BOOST_TEST(!dump_state(other).contains("__openai_agents_redacted_mount_authority"));
}

BOOST_AUTO_TEST_CASE(a_spec_is_a_snapshot_without_an_id) {
  auto spec = parse_snapshot(json{{"type", "local"}, {"base_path", "/b"}}, false);
  BOOST_TEST((spec.value().kind == snapshot_kind::local));
  BOOST_TEST(spec->id == "");
  BOOST_TEST(parse_snapshot(json{{"type", "noop"}, {"id", "x"}}, false)->id == "x");
  BOOST_TEST(!parse_snapshot(json{{"type", "noop"}, {"id", nullptr}}, false));
  BOOST_TEST(parse_snapshot(json{{"type", "s3"}}, false).error().message
             == "unknown snapshot type `s3`");
}

BOOST_AUTO_TEST_CASE(a_local_snapshot_id_is_one_path_segment) {
  for (std::string_view good : {"s", "...", ".hidden", "a b", session})
    BOOST_TEST(check_local_snapshot_id(good).has_value());
  for (std::string_view bad : {"", ".", "..", "a/b", "a/", "a\\b", "C:x", "C:"})
    BOOST_TEST(check_local_snapshot_id(bad).error().message
               == "LocalSnapshot id must be a single path segment");
  BOOST_TEST(!check_local_snapshot_id(std::string_view{"a\0b", 3}));
}
