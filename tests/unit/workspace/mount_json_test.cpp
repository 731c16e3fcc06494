#include "workspace/manifest_json.hpp"
#include "workspace/mount_json.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace data = boost::unit_test::data;

namespace {

constexpr const char* rclone = R"("mount_strategy":{"type":"in_container","pattern":)"
                               R"({"type":"rclone"}})";

result<manifest> parse(const std::string& mount) {
  return parse_manifest(parse_json(R"({"entries": {"m": )" + mount + "}}").value());
}

/// The mount as it is written again, from its path on.
std::string written(const std::string& mount) {
  auto x = parse(mount);
  if (!x)
    return std::string{to_string(x.error().code)} + ": " + x.error().message;
  auto text = dump_json(dump_manifest(*x).at("entries").at("m"));
  return text.substr(text.find("\"mount_path\""));
}

struct text_case {
  std::string text;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const text_case& x) {
  return out << x.text;
}

} // namespace

BOOST_AUTO_TEST_CASE(a_mount_is_an_ephemeral_directory_that_is_read_only) {
  auto x = parse(std::string{R"({"type": "s3_mount", "bucket": "b", )"} + rclone + "}").value();
  BOOST_TEST(
    dump_json(dump_manifest(x).at("entries").at("m"))
    == R"({"type":"s3_mount","description":null,"ephemeral":true,"group":null,"is_dir":true,)"
       R"("permissions":{"owner":7,"group":5,"other":5,"directory":true},"mount_path":null,)"
       R"("read_only":true,"mount_strategy":{"type":"in_container","pattern":{"type":"rclone",)"
       R"("mode":"fuse","remote_name":null,"extra_args":[],"nfs_addr":null,)"
       R"("nfs_mount_options":null,"config_file_path":null}},"bucket":"b","access_key_id":null,)"
       R"("secret_access_key":null,"session_token":null,"prefix":null,"region":null,)"
       R"("endpoint_url":null,"s3_provider":"AWS"})");
}

BOOST_DATA_TEST_CASE(
  the_fields_of_each_kind_are_written_in_order,
  data::make(std::vector<text_case>{
    {R"({"type": "gcs_mount", "bucket": "b", "access_id": "i", )",
     R"("bucket":"b","access_id":"i","secret_access_key":null,"prefix":null,"region":null,)"
     R"("endpoint_url":null,"service_account_file":null,"service_account_credentials":null,)"
     R"("access_token":null})"},
    {R"({"type": "r2_mount", "account_id": "a", "bucket": "b", )",
     R"("bucket":"b","account_id":"a","access_key_id":null,"secret_access_key":null,)"
     R"("custom_domain":null})"},
    {R"({"type": "azure_blob_mount", "account": "a", "container": "c", )",
     R"("account":"a","container":"c","endpoint":null,"identity_client_id":null,)"
     R"("account_key":null})"},
    {R"({"type": "box_mount", "box_sub_type": "enterprise", )",
     R"("path":null,"client_id":null,"client_secret":null,"access_token":null,"token":null,)"
     R"("box_config_file":null,"config_credentials":null,"box_sub_type":"enterprise",)"
     R"("root_folder_id":null,"impersonate":null,"owned_by":null})"},
  })) {
  auto text = written(sample.text + rclone + "}");
  BOOST_TEST(text.substr(std::min(text.find("}},") + 3, text.size())) == sample.expected);
}

BOOST_DATA_TEST_CASE(
  strategies_and_patterns_are_completed,
  data::make(std::vector<text_case>{
    {R"({"type": "azure_blob_mount", "account": "a", "container": "c", "mount_strategy":
      {"type": "in_container", "pattern": {"type": "fuse", "cache_path": "./c//d", "x": 1}}})",
     R"({"type":"in_container","pattern":{"type":"fuse","allow_other":true,"log_type":"syslog",)"
     R"("log_level":"log_debug","cache_type":"block_cache","cache_path":"c/d",)"
     R"("cache_size_mb":null,"block_cache_block_size_mb":16,"block_cache_disk_timeout_sec":3600,)"
     R"("file_cache_timeout_sec":120,"file_cache_max_size_mb":null,)"
     R"("attr_cache_timeout_sec":null,"entry_cache_timeout_sec":null,)"
     R"("negative_entry_cache_timeout_sec":null}})"},
    {R"({"type": "gcs_mount", "bucket": "b", "mount_strategy": {"type": "in_container",
      "pattern": {"type": "mountpoint", "options": {"region": "eu", "x": 1}}}})",
     R"({"type":"in_container","pattern":{"type":"mountpoint","options":{"prefix":null,)"
     R"("region":"eu","endpoint_url":null}}})"},
    {R"({"type": "s3_files_mount", "file_system_id": "fs", "mount_strategy":
      {"type": "in_container", "pattern": {"type": "s3files", "options":
      {"extra_options": {"tls": null, "a": "b"}}}}})",
     R"({"type":"in_container","pattern":{"type":"s3files","options":{"mount_target_ip":null,)"
     R"("access_point":null,"region":null,"extra_options":{"tls":null,"a":"b"}}}})"},
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy":
      {"type": "in_container", "pattern": {"type": "rclone", "mode": "nfs", "extra_args": ["-v"],
      "nfs_mount_options": [], "config_file_path": "/etc//r.conf"}}})",
     R"({"type":"in_container","pattern":{"type":"rclone","mode":"nfs","remote_name":null,)"
     R"("extra_args":["-v"],"nfs_addr":null,"nfs_mount_options":[],)"
     R"("config_file_path":"/etc/r.conf"}})"},
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy":
      {"type": "docker_volume", "driver": "mountpoint", "driver_options": {"z": "1", "a": "2"}}})",
     R"({"type":"docker_volume","driver":"mountpoint","driver_options":{"z":"1","a":"2"}})"},
  })) {
  auto x = parse(sample.text);
  BOOST_REQUIRE(x.has_value());
  BOOST_TEST(dump_json(dump_manifest(*x).at("entries").at("m").at("mount_strategy"))
             == sample.expected);
  BOOST_TEST(dump_manifest(parse_manifest(dump_manifest(*x)).value()) == dump_manifest(*x));
}

BOOST_DATA_TEST_CASE(
  mounts_that_cannot_be_are_refused,
  data::make(std::vector<text_case>{
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy": "rclone"})",
     "invalid_manifest: manifest is not valid: entries.m.mount_strategy: mount strategy must be an "
     "object"},
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy": {"type": "in_container"}})",
     "invalid_manifest: manifest is not valid: entries.m.mount_strategy.pattern: Field required"},
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy": {"type": "magic"}})",
     "invalid_manifest: manifest is not valid: entries.m.mount_strategy: Unknown mount strategy "
     "type `magic`. Registered types: docker_volume, in_container"},
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy": {"type": "modal_cloud_bucket"}})",
     "mount_config_invalid: mount strategy is not supported by this sandbox backend"},
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy": {"type": "in_container",
      "pattern": {"type": "fuse"}}})",
     "mount_config_invalid: invalid mount_pattern type"},
    {R"({"type": "r2_mount", "bucket": "b", "account_id": "a", "mount_strategy":
      {"type": "docker_volume", "driver": "mountpoint"}})",
     "mount_config_invalid: invalid Docker volume driver"},
    {R"({"type": "s3_files_mount", "file_system_id": "f", "mount_strategy":
      {"type": "docker_volume", "driver": "rclone"}})",
     "mount_config_invalid: invalid Docker volume driver"},
    {R"({"type": "azure_blob_mount", "account": "a", "container": "c", "mount_strategy":
      {"type": "in_container", "pattern": {"type": "fuse", "cache_path": "../c"}}})",
     "mount_config_invalid: blobfuse cache_path must be relative to the workspace root"},
    {R"({"type": "azure_blob_mount", "account": "a", "container": "c", "mount_strategy":
      {"type": "in_container", "pattern": {"type": "fuse", "cache_type": "none"}}})",
     "invalid_manifest: manifest is not valid: entries.m.mount_strategy.pattern.cache_type: Input "
     "should be 'block_cache' or 'file_cache'"},
    {R"({"type": "s3_mount", "bucket": "b", "s3_provider": null, "mount_strategy":
      {"type": "docker_volume", "driver": "rclone"}})",
     "invalid_manifest: manifest is not valid: entries.m.s3_provider: Input should be a valid "
     "string"},
    {R"({"type": "s3_mount", "bucket": "b", "mount_strategy":
      {"type": "docker_volume", "driver": "rclone", "driver_options": {"a": null}}})",
     "invalid_manifest: manifest is not valid: entries.m.mount_strategy.driver_options.a: Input "
     "should be a valid string"},
  })) {
  BOOST_TEST(written(sample.text) == sample.expected);
}

BOOST_AUTO_TEST_CASE(faults_of_the_form_come_before_faults_of_the_configuration) {
  BOOST_TEST(written(R"({"type": "s3_mount", "mount_strategy": {"type": "in_container",
                         "pattern": {"type": "fuse"}}})")
             == "invalid_manifest: manifest is not valid: entries.m.bucket: Field required");
}

BOOST_AUTO_TEST_CASE(permissions_of_a_mount_are_nobodys) {
  auto x = parse(std::string{R"({"type": "s3_mount", "bucket": "b", "ephemeral": false,
                                "permissions": {"owner": 4, "group": 9, "other": 0}, )"}
                 + rclone + "}");
  BOOST_TEST(x.value().entries[0].entry.permissions.mode() == 0755u);
  BOOST_TEST(x.value().entries[0].entry.permissions.directory);
  BOOST_TEST(!x.value().entries[0].entry.ephemeral);
}

BOOST_DATA_TEST_CASE(
  unknown_members_of_mounts_are_noticed_at_any_depth,
  data::make(std::vector<text_case>{
    {R"({"m": {"type": "s3_mount", "bucket": "b", "colour": 1}})", "yes"},
    {R"({"m": {"type": "s3_mount", "bucket": "b"}, "d": {"type": "dir", "colour": 1}})", "no"},
    {R"({"d": {"type": "dir", "children": {"m": {"type": "s3_mount", "bucket": "b", "x": 1}}}})",
     "yes"},
  })) {
  auto given = parse_json(sample.text).value();
  const auto strategy = parse_json(std::string{"{"} + rclone + "}").value().at("mount_strategy");
  for (auto& [key, entry] : given.items()) {
    auto& mount = entry.contains("children") ? entry["children"]["m"] : entry;
    if (mount["type"] == "s3_mount")
      mount["mount_strategy"] = strategy;
  }
  auto known = dump_manifest(parse_manifest(json{{"entries", given}}).value()).at("entries");
  BOOST_TEST(mounts_have_unknown_members(given, known) == (sample.expected == "yes"));
  given = known;
  BOOST_TEST(!mounts_have_unknown_members(given, known));
}

BOOST_AUTO_TEST_CASE(unknown_members_of_a_pattern_are_noticed) {
  auto x = parse_json(std::string{R"({"m": {"type": "s3_mount", "bucket": "b", )"} + rclone + "}}")
             .value();
  auto known = dump_manifest(parse_manifest(json{{"entries", x}}).value()).at("entries");
  BOOST_TEST(!mounts_have_unknown_members(x, known));
  x["m"]["mount_strategy"]["pattern"]["password"] = "p";
  BOOST_TEST(mounts_have_unknown_members(x, known));
}
