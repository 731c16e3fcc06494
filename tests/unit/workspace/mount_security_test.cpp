#include "test_folder.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/mount_security.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <sys/stat.h>

using namespace troupe;
using namespace troupe::workspace;
using namespace troupe::test;

namespace data = boost::unit_test::data;

namespace {

const std::string by_rclone
  = R"("mount_strategy": {"type": "in_container", "pattern": {"type": "rclone"}})";
const std::string by_docker = R"("mount_strategy": {"type": "docker_volume", "driver": "rclone"})";

manifest make(const std::string& entries) {
  return parse_manifest(parse_json(R"({"entries": )" + entries + "}").value()).value();
}

/// One mount of this kind, with these members.
manifest one(const std::string& type, const std::string& members) {
  return make(R"({"m": {"type": ")" + type + "\", " + members + "}}");
}

std::string pattern(const std::string& members) {
  return R"("mount_strategy": {"type": "in_container", "pattern": {)" + members + "}}";
}

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const auto& name : names)
    out.append(out.empty() ? "" : " ").append(name);
  return out;
}

std::string message(const result<void>& x) {
  return x ? "ok" : std::string{to_string(x.error().code)} + ": " + x.error().message;
}

struct mount_case {
  std::string type;
  std::string members;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const mount_case& x) {
  return out << x.type << " " << x.members;
}

const std::string s3 = R"("bucket": "b", )";
const std::string azure = R"("account": "a", "container": "c", )";

const std::string refused = "mount_config_invalid: credentials of a mount cannot be given to a "
                            "helper inside a model-controlled sandbox; use a mount without "
                            "credentials or one that is attached from outside";
const std::string ambient = "mount_config_invalid: the helper of this mount takes credentials from "
                            "its surroundings, which a model-controlled sandbox must not have; "
                            "use a mount that is attached from outside";

} // namespace

BOOST_DATA_TEST_CASE(
  what_gives_access_is_known_by_name,
  data::make(std::vector<mount_case>{
    {"s3_mount", s3 + by_rclone, ""},
    {"s3_mount", s3 + R"("access_key_id": "", "session_token": "t", "region": "r", )" + by_rclone,
     "access_key_id session_token"},
    {"s3_mount", s3 + R"("endpoint_url": "https://u@h", )" + by_rclone, "endpoint_url"},
    {"s3_mount", s3 + R"("endpoint_url": "https://h/?sig=1", )" + by_rclone, "endpoint_url"},
    {"s3_mount", s3 + R"("endpoint_url": "https://h/?#x?y", )" + by_rclone, ""},
    {"s3_mount", s3 + R"("region": "r\nacl = public", "prefix": "p\nq", )" + by_rclone, "region"},
    {"s3_mount", s3 + R"("s3_provider": "AWS\r", )" + by_rclone, "s3_provider"},
    {"gcs_mount", s3 + R"("service_account_file": "/f", "access_token": "t", )" + by_rclone,
     "service_account_file access_token"},
    {"r2_mount", s3 + R"("account_id": "a", "custom_domain": "h?q", )" + by_rclone,
     "custom_domain"},
    {"azure_blob_mount", azure + R"("identity_client_id": "i", )" + by_rclone,
     "identity_client_id"},
    {"box_mount", R"("client_id": "i", "client_secret": "s", "token": "t", )" + by_rclone,
     "client_secret token"},
    {"s3_files_mount",
     R"("file_system_id": "f", "extra_options": {"a": "b"}, )"
       + pattern(R"("type": "s3files", "options": {"extra_options": {"c": null}})"),
     "extra_options mount_strategy.pattern.options.extra_options"},
    {"s3_mount", s3 + R"("mount_strategy": {"type": "docker_volume", "driver": "rclone",
      "driver_options": {"a": "b"}})",
     "mount_strategy.driver_options"},
    {"s3_mount", s3 + pattern(R"("type": "mountpoint", "options": {"endpoint_url": "a@b"})"),
     "mount_strategy.pattern.options.endpoint_url"},
    {"s3_mount", s3 + pattern(R"("type": "rclone", "config_file_path": "c", "remote_name": "a/b")"),
     "mount_strategy.pattern.remote_name mount_strategy.pattern.config_file_path"},
  })) {
  BOOST_TEST(joined(mount_authority(one(sample.type, sample.members).entries[0].entry.mount[0]))
             == sample.expected);
}

BOOST_DATA_TEST_CASE(rclone_arguments_are_harmless_or_not,
                     data::make(std::vector<mount_case>{
                       {"safe", R"([])", ""},
                       {"safe", R"(["--allow-other", "--uid=1", "--gid", "2"])", ""},
                       {"safe", R"(["--Buffer_Size", "16M"])", ""},
                       {"unsafe", R"(["--allow-other=true"])", ""},
                       {"unsafe", R"(["-allow-other"])", ""},
                       {"unsafe", R"(["--uid"])", ""},
                       {"unsafe", R"(["--uid", "--allow-other"])", ""},
                       {"unsafe", R"(["--uid="])", ""},
                       {"unsafe", R"(["x"])", ""},
                       {"unsafe", R"(["--config", "/f"])", ""},
                       {"unsafe", R"(["--s3-access-key-id=A"])", ""},
                       {"unsafe", R"(["--uid=1", "2"])", ""},
                     })) {
  auto x = one("s3_mount", s3 + pattern(R"("type": "rclone", "extra_args": )" + sample.members));
  BOOST_TEST(mount_authority(x.entries[0].entry.mount[0]).empty() == (sample.type == "safe"));
}

BOOST_DATA_TEST_CASE(remote_names_are_plain_or_not, data::make(std::vector<mount_case>{
                                                      {"safe", "", ""},
                                                      {"safe", "_a.b-c 1", ""},
                                                      {"unsafe", " a", ""},
                                                      {"unsafe", "a ", ""},
                                                      {"unsafe", "-a", ""},
                                                      {"unsafe", "a'", ""},
                                                      {"unsafe", "a]\n[b", ""},
                                                      {"unsafe", "../a", ""},
                                                    })) {
  BOOST_TEST(is_safe_remote_name(sample.members) == (sample.type == "safe"));
}

BOOST_DATA_TEST_CASE(
  a_helper_inside_the_sandbox_is_given_nothing_secret,
  data::make(std::vector<mount_case>{
    {"s3_mount", s3 + by_rclone, "ok"},
    {"gcs_mount", s3 + pattern(R"("type": "mountpoint")"), "ok"},
    {"azure_blob_mount", azure + by_rclone, "ok"},
    {"s3_mount", s3 + R"("access_key_id": "A", "secret_access_key": "S", )" + by_rclone, refused},
    {"gcs_mount", s3 + R"("access_token": "t", )" + by_rclone, refused},
    {"s3_mount", s3 + pattern(R"("type": "rclone", "config_file_path": "/root/r.conf")"), refused},
    {"s3_mount", s3 + R"("region": "a\nb", )" + by_rclone,
     "mount_config_invalid: cloud mount configuration values must not contain line breaks"},
    {"box_mount", by_rclone,
     "mount_config_invalid: in-container Box mounts require a non-interactive authentication "
     "source"},
    {"box_mount", R"("token": "t", )" + by_rclone, refused},
    {"azure_blob_mount", azure + pattern(R"("type": "fuse")"), ambient},
    {"s3_files_mount", R"("file_system_id": "f", )" + pattern(R"("type": "s3files")"), ambient},
    {"s3_mount", s3 + by_docker,
     "mount_config_invalid: docker-volume mounts are not supported by this sandbox backend"},
  })) {
  auto x = one(sample.type, sample.members);
  BOOST_TEST(message(check_mounts(x, backend_kind::unix_local)) == sample.expected);
  BOOST_TEST(message(check_mounts(x, backend_kind::isolated)) == sample.expected);
}

BOOST_AUTO_TEST_CASE(an_error_names_fields_and_never_what_is_in_them) {
  auto x
    = one("s3_mount", s3 + R"("access_key_id": "AKID", "secret_access_key": "hush", )" + by_rclone);
  auto failure = check_mounts(x, backend_kind::isolated).error();
  auto context = parse_json(failure.context).value();
  BOOST_TEST(dump_json(context.at("credential_fields"))
             == R"(["access_key_id","secret_access_key"])");
  BOOST_TEST(context.at("mount_path") == "/workspace/m");
  BOOST_TEST((failure.message + failure.context).find("AKID") == std::string::npos);
  BOOST_TEST((failure.message + failure.context).find("hush") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(docker_may_have_credentials_outside_of_the_sandbox) {
  auto x = one("s3_mount", s3 + R"("access_key_id": "A", "secret_access_key": "S", )" + by_docker);
  BOOST_TEST(message(check_mounts(x, backend_kind::docker)) == "ok");
}

BOOST_DATA_TEST_CASE(
  credential_files_do_not_come_from_the_manifest,
  data::make(std::vector<mount_case>{
    {"keys/k.json", R"("keys/k.json": {"type": "file", "content": "x"})", "refused"},
    {"/workspace/keys/k.json", R"("keys": {"type": "dir", "children": {"k.json":
      {"type": "local_file", "src": "k"}}})",
     "refused"},
    {"keys/../keys/k.json", R"("keys": {"type": "git_repo", "repo": "r", "ref": "f"})", "refused"},
    {"keys/k.json", R"("keys": {"type": "dir"}, "keys/x": {"type": "file", "content": ""})", "ok"},
    {"keys/k.json", R"("keys": {"type": "local_dir"})", "ok"},
    {"keys/k.json", R"("keys": {"type": "local_dir", "src": "s"})", "refused"},
    {"/etc/k.json", R"("k.json": {"type": "file", "content": ""})", "ok"},
    {"m/k.json", R"("x": {"type": "dir"})", "refused"},
  })) {
  auto x = make(R"({"m": {"type": "gcs_mount", "bucket": "b", "service_account_file": ")"
                + sample.type + "\", " + by_docker + "}, " + sample.members + "}");
  auto checked = check_mounts(x, backend_kind::docker);
  BOOST_TEST((checked ? "ok" : "refused") == sample.expected);
  if (!checked)
    BOOST_TEST(checked.error().message
               == "credential files stored in the manifest are not supported for cloud mounts; "
                  "configure credentials outside the sandbox manifest");
}

BOOST_AUTO_TEST_CASE(many_mounts_and_files_are_checked_in_one_pass) {
  std::string entries = "{";
  for (int i = 0; i < 20'000; ++i) {
    auto n = std::to_string(i);
    entries += R"("m)" + n + R"(": {"type": "gcs_mount", "bucket": "b", "service_account_file": "k)"
               + n + "\", " + by_docker + R"(}, "f)" + n + R"(": {"type": "file", "content": ""},)";
  }
  auto x = make(entries + R"("k19999": {"type": "file", "content": ""}})");
  BOOST_TEST(!check_mounts(x, backend_kind::docker));
}

BOOST_AUTO_TEST_CASE(a_missing_tool_is_found_before_anything_is_made) {
  test_folder t;
  mount_support support{backend_kind::unix_local, true, "/nonexistent::" + t.root};
  auto x = one("s3_mount", s3 + pattern(R"("type": "mountpoint")"));
  auto failure = check_mounts_supported(x, support).error();
  BOOST_TEST(message(unexpected(failure))
             == "mount_missing_tool: required mount tool missing: mount-s3");
  BOOST_TEST(failure.context == R"({"tool":"mount-s3","type":"s3_mount"})");

  write_file(t.in_root("mount-s3"), "#!/bin/sh\n");
  BOOST_TEST((check_mounts_supported(x, support).error().code == errc::mount_missing_tool));
}

BOOST_AUTO_TEST_CASE(only_rclone_is_run_where_the_backend_can_and_below_the_root) {
  test_folder t;
  const std::string unsupported = "mount_config_invalid: in-container mounts are not supported by "
                                  "this sandbox backend";
  mount_support support{backend_kind::unix_local, true, t.root};
  for (auto* tool : {"rclone", "mount-s3"}) {
    write_file(t.in_root(tool), "#!/bin/sh\n");
    BOOST_REQUIRE(::chmod(t.in_root(tool).c_str(), 0755) == 0);
  }
  auto x = one("s3_mount", s3 + by_rclone);
  BOOST_TEST(message(check_mounts_supported(x, support)) == "ok");
  BOOST_TEST(message(check_mounts_supported(
               one("s3_mount", s3 + R"("mount_path": "/elsewhere", )" + by_rclone), support))
             == "mount_config_invalid: this sandbox backend mounts below the workspace root only");
  BOOST_TEST(message(check_mounts_supported(
               one("s3_mount", s3 + pattern(R"("type": "mountpoint")")), support))
             == unsupported);
  support.runs_rclone = false;
  BOOST_TEST(message(check_mounts_supported(x, support)) == unsupported);
}

BOOST_AUTO_TEST_CASE(what_may_not_be_is_refused_before_tools_are_looked_for) {
  auto x = one("s3_mount", s3 + R"("session_token": "t", )" + by_rclone);
  BOOST_TEST(message(check_mounts_supported(x, {})) == refused);
  BOOST_TEST(message(check_mounts_supported(make("{}"), {})) == "ok");
}

// -- states
// -----------------------------------------------------------------------------------------

namespace {

json state_with(const std::string& entries) {
  return json{{"type", "unix_local"},
              {"session_id", "0f8fad5b-d9cb-469f-a165-70867728950e"},
              {"snapshot", {{"type", "noop"}, {"id", "s"}}},
              {"manifest", {{"entries", parse_json(entries).value()}}}};
}

json mount_in(const json& state) {
  return state.at("manifest").at("entries").at("m");
}

} // namespace

BOOST_AUTO_TEST_CASE(no_credential_is_written_into_a_state) {
  auto state = parse_state(state_with("{}")).value();
  state.manifest = make(R"({
    "m": {"type": "gcs_mount", "bucket": "b", "access_token": "hush-1", "region": "a\nhush-2",
          "service_account_file": "keys/k", "endpoint_url": "https://hush-3@h",
          "mount_strategy": {"type": "docker_volume", "driver": "rclone",
                             "driver_options": {"token": "hush-4"}}},
    "n": {"type": "s3_mount", "bucket": "b", "secret_access_key": "hush-5",
          "mount_strategy": {"type": "in_container", "pattern": {"type": "rclone",
            "extra_args": ["--config", "/workspace/conf", "--token=hush-6"],
            "remote_name": "hush/7", "config_file_path": "r.conf"}}},
    "keys": {"type": "dir", "children": {"k": {"type": "file", "content": "hush-8"}}},
    "conf": {"type": "file", "content": "hush-9"},
    "r.conf": {"type": "file", "content": "hush-10"},
    "other": {"type": "file", "content": "kept"}})");
  auto written = dump_state(state);
  auto text = dump_json(written);
  BOOST_TEST(text.find("hush") == std::string::npos);
  BOOST_TEST(text.find("kept") != std::string::npos);
  BOOST_TEST(written.at("__openai_agents_redacted_mount_authority") == true);
  BOOST_TEST(mount_in(written).at("access_token").is_null());
  BOOST_TEST(mount_in(written).at("service_account_file").is_null());
  BOOST_TEST(mount_in(written).at("endpoint_url").is_null());
  BOOST_TEST(mount_in(written).at("region") == "");
  BOOST_TEST(mount_in(written).at("mount_strategy").at("driver_options") == json::object());
  BOOST_TEST(dump_json(dump_manifest(state.manifest)).find("hush-1") != std::string::npos);

  auto again = parse_state(written).value();
  BOOST_TEST(again.mount_authority_redacted);
  BOOST_TEST(dump_json(dump_state(again)) == text);
}

BOOST_AUTO_TEST_CASE(a_long_root_over_many_credential_files_costs_no_more_than_one) {
  auto state = parse_state(state_with("{}")).value();
  state.manifest.root = "/" + std::string(size_t{1} << 20, 'r');
  named_entry x{
    "m", one("gcs_mount", s3 + R"("service_account_file": "k", )" + by_rclone).entries[0].entry};
  for (int i = 0; i < 20'000; ++i) {
    x.path = std::to_string(i);
    state.manifest.entries.push_back(x);
  }
  BOOST_TEST(redact_mounts(state.manifest));
  BOOST_TEST(mount_authority(state.manifest.entries[19'999].entry.mount[0]).empty());
}

BOOST_AUTO_TEST_CASE(credentials_in_a_given_state_are_not_read) {
  auto state = parse_state(state_with(R"({"m": {"type": "s3_mount", "bucket": "b",
    "access_key_id": "A", "secret_access_key": "S", )"
                                      + by_rclone + "}}"))
                 .value();
  BOOST_TEST(state.mount_authority_redacted);
  BOOST_TEST(mount_authority(state.manifest.entries[0].entry.mount[0]).empty());
}

BOOST_AUTO_TEST_CASE(a_mount_without_credentials_is_stored_as_it_is) {
  const auto entries
    = R"({"m": {"type": "s3_mount", "bucket": "b", "mount_path": "/mnt", )" + by_rclone + "}}";
  auto state = parse_state(state_with(entries)).value();
  BOOST_TEST(!state.mount_authority_redacted);
  auto written = dump_state(state);
  BOOST_TEST(!written.contains("__openai_agents_redacted_mount_authority"));
  BOOST_TEST(mount_in(written) == dump_manifest(make(entries)).at("entries").at("m"));
}

BOOST_AUTO_TEST_CASE(what_was_dropped_from_a_mount_may_have_been_a_credential) {
  auto state = parse_state(state_with(
    R"({"m": {"type": "s3_mount", "bucket": "b", "password": "p", )" + by_rclone + "}}"));
  BOOST_TEST(state.value().mount_authority_redacted);
}

BOOST_AUTO_TEST_CASE(a_bad_mount_in_a_state_is_not_echoed) {
  auto state = parse_state(state_with(R"({"m": {"type": "s3_mount", "bucket": 5,
    "secret_access_key": "hush", )" + by_rclone
                                      + "}}"));
  BOOST_TEST(state.error().message == "sandbox session state payload is invalid");
  BOOST_TEST(state.error().context == "{}");
}
