#include "workspace/manifest_json.hpp"
#include "workspace/mount_rclone.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace data = boost::unit_test::data;

namespace {

constexpr const char* hex = "0f8fad5bd9cb469fa16570867728950e";

mount_entry make(const std::string& members, const std::string& pattern = "") {
  auto text = R"({"entries": {"m": {)" + members
              + R"(, "mount_strategy": {"type": "in_container", "pattern": {"type": "rclone")"
              + pattern + "}}}}}";
  return parse_manifest(parse_json(text).value()).value().entries[0].entry.mount[0];
}

rclone_place place() {
  return {"0f8fad5b-d9cb-469f-a165-70867728950e", "/workspace", "/workspace/my data", std::nullopt,
          true};
}

rclone_mount plan(const mount_entry& x, const rclone_place& where = place()) {
  return plan_rclone_mount(x, where).value();
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words)
    out.append(out.empty() ? "" : " | ").append(word);
  return out;
}

struct config_case {
  std::string members;
  std::string remote;
  std::string path;
  std::string lines;
};

std::ostream& operator<<(std::ostream& out, const config_case& x) {
  return out << x.members;
}

struct base_case {
  std::string base;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const base_case& x) {
  return out << x.base;
}

const std::string s3 = R"("type": "s3_mount", "bucket": "b")";

} // namespace

BOOST_DATA_TEST_CASE(
  each_kind_of_storage_has_its_lines,
  data::make(std::vector<config_case>{
    {s3 + R"(, "endpoint_url": "https://e", "region": "eu", "prefix": "//p/q")", "s3", "b/p/q",
     "type = s3\nprovider = AWS\nendpoint = https://e\nregion = eu\nenv_auth = false\n"},
    {s3 + R"(, "access_key_id": "A", "secret_access_key": "S", "session_token": "T")", "s3", "b",
     "type = s3\nprovider = AWS\nenv_auth = false\naccess_key_id = A\nsecret_access_key = S\n"
     "session_token = T\n"},
    {s3 + R"(, "access_key_id": "A", "session_token": "T")", "s3", "b",
     "type = s3\nprovider = AWS\nenv_auth = false\n"},
    {R"("type": "r2_mount", "bucket": "b", "account_id": "acc")", "r2", "b",
     "type = s3\nprovider = Cloudflare\nendpoint = https://acc.r2.cloudflarestorage.com\n"
     "acl = private\nenv_auth = false\n"},
    {R"("type": "r2_mount", "bucket": "b", "account_id": "acc", "custom_domain": "https://d",
        "access_key_id": "A", "secret_access_key": "S")",
     "r2", "b",
     "type = s3\nprovider = Cloudflare\nendpoint = https://d\nacl = private\nenv_auth = false\n"
     "access_key_id = A\nsecret_access_key = S\n"},
    {R"("type": "gcs_mount", "bucket": "b")", "gcs", "b",
     "type = google cloud storage\nanonymous = true\nenv_auth = false\n"},
    {R"("type": "gcs_mount", "bucket": "b", "service_account_file": "/f", "access_token": "t")",
     "gcs", "b",
     "type = google cloud storage\nservice_account_file = /f\naccess_token = t\n"
     "env_auth = false\n"},
    {R"("type": "gcs_mount", "bucket": "b", "access_id": "A", "secret_access_key": "S",
        "region": "eu")",
     "gcs_s3", "b",
     "type = s3\nprovider = GCS\nenv_auth = false\naccess_key_id = A\nsecret_access_key = S\n"
     "endpoint = https://storage.googleapis.com\nregion = eu\n"},
    {R"("type": "azure_blob_mount", "account": "a", "container": "c")", "azureblob", "c",
     "type = azureblob\naccount = a\nuse_msi = false\n"},
    {R"("type": "azure_blob_mount", "account": "a", "container": "c", "endpoint": "https://e",
        "identity_client_id": "i")",
     "azureblob", "c",
     "type = azureblob\naccount = a\nendpoint = https://e\nuse_msi = true\nmsi_client_id = i\n"},
    {R"("type": "azure_blob_mount", "account": "a", "container": "c", "account_key": "k")",
     "azureblob", "c", "type = azureblob\naccount = a\nkey = k\n"},
    {R"("type": "box_mount", "path": "/x/y", "token": "t", "box_sub_type": "enterprise",
        "owned_by": "o")",
     "box", "x/y", "type = box\ntoken = t\nbox_sub_type = enterprise\nowned_by = o\n"},
    {R"("type": "box_mount")", "box", "", "type = box\n"},
  })) {
  auto planned = plan(make(sample.members));
  auto remote = "sandbox_" + sample.remote + "_" + hex;
  BOOST_TEST(planned.config == "[" + remote + "]\n" + sample.lines);
  BOOST_TEST(planned.attach[0][2] == remote + ":" + sample.path);
}

BOOST_AUTO_TEST_CASE(fuse_is_one_command_and_its_configuration_is_left_out_of_snapshots) {
  auto x = plan(make(s3 + R"(, "read_only": false)", R"(, "remote_name": "r 1",
                     "extra_args": ["--uid", "5"])"));
  BOOST_TEST(x.folder == std::string{".sandbox-rclone-config/"} + hex);
  BOOST_TEST(x.config_path == x.folder + "/r 1.conf");
  BOOST_TEST(x.probe.empty());
  BOOST_REQUIRE(x.attach.size() == 1u);
  BOOST_TEST(joined(x.attach[0])
             == "rclone | mount | r 1:b | /workspace/my data | --config | /workspace/"
                  + x.config_path + " | --daemon | --uid | 5");
  BOOST_TEST(joined(plan(make(s3)).attach[0]).find(" | --read-only | --config | ")
             != std::string::npos);
  BOOST_REQUIRE(x.detach.size() == 2u);
  BOOST_TEST(joined(x.detach[0])
             == "sh | -lc | fusermount3 -u '/workspace/my data' || umount '/workspace/my data'");
  BOOST_TEST(joined(x.detach[1])
             == "sh | -lc | pkill -f -- 'rclone (mount|serve nfs) r 1:.*" + x.folder
                  + "/' >/dev/null 2>&1 || true");
}

BOOST_AUTO_TEST_CASE(nfs_is_a_server_and_a_client) {
  auto x = plan(make(s3, R"(, "mode": "nfs", "remote_name": "r")"));
  BOOST_TEST(joined(x.probe)
             == "sh | -lc | /usr/local/bin/rclone serve nfs --help >/dev/null 2>&1 || rclone serve "
                "nfs --help >/dev/null 2>&1");
  BOOST_REQUIRE(x.attach.size() == 2u);
  BOOST_TEST(joined(x.attach[0])
             == std::string{"sh | -lc | rclone serve nfs r:b --addr 127.0.0.1:2049 --config "
                            "/workspace/.sandbox-rclone-config/"}
                  + hex + "/r.conf --read-only &");
  BOOST_TEST(joined(x.attach[1])
             == "sh | -lc | for i in 1 2 3; do timeout 10s mount -v -t nfs -o "
                "vers=4.1,tcp,port=2049,soft,timeo=50,retrans=1 127.0.0.1:/ '/workspace/my data' "
                "&& exit 0; sleep 1; done; exit 1");
  BOOST_TEST(joined(x.detach[0])
             == "sh | -lc | umount '/workspace/my data' >/dev/null 2>&1 || true");
}

BOOST_AUTO_TEST_CASE(nfs_goes_where_it_is_told) {
  auto where = place();
  where.has_timeout = false;
  auto client = [&](const std::string& pattern) {
    auto script = plan(make(s3, R"(, "mode": "nfs")" + pattern), where).attach[1][2];
    auto begin = script.find("-o ") + 3;
    BOOST_TEST(script.starts_with("for i in 1 2 3; do mount -v"));
    return script.substr(begin, script.find(" '/workspace") - begin);
  };
  BOOST_TEST(client(R"(, "nfs_addr": "0.0.0.0:9")")
             == "vers=4.1,tcp,port=9,soft,timeo=50,retrans=1 127.0.0.1:/");
  BOOST_TEST(client(R"(, "nfs_addr": "h;x", "nfs_mount_options": ["a", "b c"])")
             == "'a,b c' 'h;x':/");
}

BOOST_DATA_TEST_CASE(generated_lines_go_into_the_section_that_is_there,
                     data::make(std::vector<base_case>{
                       {"[r]", "[r]\nLINES"},
                       {"[r]\ntoken = x\n", "[r]\ntoken = x\nLINES"},
                       {"# top\n[a]\nx = 1\n\n [r] \ny = 2\n\n\n[b]\nz = 3",
                        "# top\n[a]\nx = 1\n\n [r] \ny = 2\nLINES\n\n[b]\nz = 3"},
                       {"[r]\n[b]\n", "[r]\nLINES[b]\n"},
                       {"[r]\ny = [\n[]\n", "[r]\ny = [\n[]\nLINES"},
                       {"", "rclone config file is empty"},
                       {" \n\t\n", "rclone config file is empty"},
                       {"[rr]\n", "rclone config missing required remote section"},
                       {"x [r]\n", "rclone config missing required remote section"},
                     })) {
  auto where = place();
  where.base_config = sample.base;
  auto planned = plan_rclone_mount(make(s3, R"(, "remote_name": "r")"), where);
  if (!planned) {
    BOOST_TEST(to_string(planned.error().code) == "mount_config_invalid");
    BOOST_TEST(planned.error().message == sample.expected);
    return;
  }
  auto expected = sample.expected;
  expected.replace(expected.find("LINES"), 5, "type = s3\nprovider = AWS\nenv_auth = false\n");
  BOOST_TEST(planned->config == expected);
}

BOOST_AUTO_TEST_CASE(nothing_is_smuggled_into_the_configuration_or_the_commands) {
  BOOST_TEST(!plan_rclone_mount(make(s3, R"(, "remote_name": "a' ; x '")"), place()));
  BOOST_TEST(!plan_rclone_mount(make(s3, R"(, "remote_name": "../../x")"), place()));
  BOOST_TEST(!plan_rclone_mount(make(s3 + R"(, "region": "x\n[other]")"), place()));
}
