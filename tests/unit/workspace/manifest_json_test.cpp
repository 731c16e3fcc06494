#include "workspace/manifest_json.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::workspace;

namespace data = boost::unit_test::data;

namespace {

result<manifest> parse(std::string_view text) {
  return parse_manifest(parse_json(text).value());
}

/// "type at.the.place" of every detail of the error, or "ok".
std::string details(const result<manifest>& x) {
  if (x)
    return "ok";
  if (x.error().code != errc::invalid_manifest)
    return std::string{to_string(x.error().code)};
  std::string out;
  const auto context = parse_json(x.error().context).value();
  for (const auto& detail : context.at("details")) {
    out.append(out.empty() ? "" : " ").append(detail.at("type").get<std::string>());
    for (const auto& step : detail.at("loc"))
      out.append(&step == &detail.at("loc").front() ? " " : ".").append(step.get<std::string>());
  }
  return out;
}

struct text_case {
  std::string text;
  std::string expected;
};

std::ostream& operator<<(std::ostream& out, const text_case& x) {
  return out << x.text;
}

/// What an entry looks like when it is written again.
std::string dumped_entry(const std::string& entry) {
  auto x = parse(R"({"entries": {"e": )" + entry + "}}");
  return x ? dump_json(dump_manifest(*x).at("entries").at("e")) : x.error().message;
}

} // namespace

BOOST_AUTO_TEST_CASE(the_default_manifest_has_the_documented_digest) {
  BOOST_TEST(manifest_digest(manifest{})
             == "448c850aeb52b21da3573d98d70b7899f53553e6947d4a7790e2e5144e44e0fc");
}

BOOST_AUTO_TEST_CASE(the_digest_escapes_what_is_not_ascii_and_sorts_keys) {
  auto a = parse(R"({"root": "/é🙂", "entries": {"b": {"type": "dir"}, "a": {"type": "dir"}}})");
  auto b = parse(R"({"entries": {"a": {"type": "dir"}, "b": {"type": "dir"}}, "root": "/é🙂"})");
  BOOST_TEST(manifest_digest(a.value()) == manifest_digest(b.value()));
  BOOST_TEST(manifest_digest(a.value()) != manifest_digest(manifest{}));
}

BOOST_AUTO_TEST_CASE(sha256_is_lower_case_hexadecimal) {
  BOOST_TEST(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

BOOST_AUTO_TEST_CASE(everything_is_written_in_the_order_of_the_contract) {
  auto x = parse(R"({
    "unknown": 1, "groups": [{"users": [{"name": "bob"}], "name": "dev"}],
    "users": [{"name": "eve"}],
    "extra_path_grants": [{"path": "/srv/./a/../data//x/", "host_path": "/h/./x", "y": 1}],
    "environment": {"value": {"A": "1", "B": {"value": "2"}, "C": {"type": "str", "value": "3"},
      "D": {"value": {"value": "4"}, "ephemeral": true}}},
    "remote_mount_command_allowlist": ["ls"], "root": "/w",
    "entries": {"f": {"content": "x", "type": "file"}}})");
  BOOST_TEST(
    dump_json(dump_manifest(x.value()))
    == R"({"version":1,"root":"/w","entries":{"f":{"type":"file","description":null,)"
       R"("ephemeral":false,"group":null,"is_dir":false,"permissions":{"owner":7,"group":5,)"
       R"("other":5,"directory":false},"content":"x"}},"environment":{"value":{"A":"1",)"
       R"("B":{"type":"str","value":"2"},"C":{"type":"str","value":"3"},)"
       R"("D":{"value":{"type":"str","value":"4"},"description":null,"ephemeral":true}}},)"
       R"("users":[{"name":"eve"}],"groups":[{"name":"dev","users":[{"name":"bob"}]}],)"
       R"("extra_path_grants":[{"path":"/srv/data/x","read_only":false,"description":null,)"
       R"("host_path":"/h/x"}],)"
       R"("remote_mount_command_allowlist":["ls"]})");
}

BOOST_AUTO_TEST_CASE(a_manifest_that_was_written_reads_back_the_same) {
  auto x = parse(R"({"entries": {
    "d": {"type": "dir", "group": {"name": "g", "users": []}, "children": {
      "r": {"type": "git_repo", "repo": "o/n", "ref": "main", "subpath": "lib"},
      "l": {"type": "local_dir"}, "f": {"type": "local_file", "src": "in//x/"}}}},
    "environment": {"value": {
      "D": {"value": {"type": "str", "value": ""}, "description": "d"}}}})");
  auto once = dump_manifest(x.value());
  BOOST_TEST(dump_json(dump_manifest(parse_manifest(once).value())) == dump_json(once));
}

BOOST_DATA_TEST_CASE(
  entries_are_completed_and_normalised,
  data::make(std::vector<text_case>{
    {R"({"type": "dir", "is_dir": false,
         "permissions": {"owner": 6.0, "group": "4", "other": true}})",
     R"({"type":"dir","description":null,"ephemeral":false,"group":null,"is_dir":false,)"
     R"("permissions":{"owner":6,"group":4,"other":1,"directory":true},"children":{}})"},
    {R"({"type": "local_file", "src": "", "group": {"name": "g"}, "ephemeral": "yes"})",
     R"({"type":"local_file","description":null,"ephemeral":true,"group":{"name":"g"},)"
     R"("is_dir":false,"permissions":{"owner":7,"group":5,"other":5,"directory":false},)"
     R"("src":"."})"},
    {R"({"type": "local_dir", "src": "in//sub/", "permissions": {"owner": 8}})",
     R"({"type":"local_dir","description":null,"ephemeral":false,"group":null,"is_dir":true,)"
     R"("permissions":{"owner":8,"group":0,"other":0,"directory":true},"src":"in/sub"})"},
    {R"({"type": "git_repo", "repo": "o/n", "ref": "v1",
         "group": {"name": "g", "users": [{"name": "u"}]}})",
     R"({"type":"git_repo","description":null,"ephemeral":false,)"
     R"("group":{"name":"g","users":[{"name":"u"}]},"is_dir":true,)"
     R"("permissions":{"owner":7,"group":5,"other":5,"directory":true},"host":"github.com",)"
     R"("repo":"o/n","ref":"v1","subpath":null})"},
  })) {
  BOOST_TEST(dumped_entry(sample.text) == sample.expected);
}

BOOST_DATA_TEST_CASE(
  faults_are_typed_and_placed,
  data::make(std::vector<text_case>{
    {"[]", "model_type"},
    {R"({"version": 2})", "literal_error version"},
    {R"({"version": "1"})", "literal_error version"},
    {R"({"version": 1.5})", "literal_error version"},
    {R"({"version": true})", "ok"},
    {R"({"version": 1.0})", "ok"},
    {R"({"root": null})", "string_type root"},
    {R"({"entries": []})", "type_error entries"},
    {R"({"entries": null})", "ok"},
    {R"({"entries": {"a": null}})", "type_error entries.a"},
    {R"({"entries": {"a": {"type": 1}}})", "value_error entries.a"},
    {R"({"entries": {"a": {"type": "nope"}}})", "value_error entries.a"},
    {R"({"entries": {"a": {"type": "file"}}})", "missing entries.a.content"},
    {R"({"entries": {"a": {"type": "file", "content": [1]}}})", "bytes_type entries.a.content"},
    {R"({"entries": {"d": {"type": "dir", "children": {"a": {"type": "local_file", "src": 1}}}}})",
     "path_type entries.d.children.a.src"},
    {R"({"entries": {"a": {"type": "git_repo"}}})", "missing entries.a.repo missing entries.a.ref"},
    {R"({"entries": {"d": {"type": "dir", "ephemeral": null, "is_dir": "maybe",
         "description": 1}}})",
     "string_type entries.d.description bool_type entries.d.ephemeral bool_parsing "
     "entries.d.is_dir"},
    {R"({"entries": {"d": {"type": "dir",
         "permissions": {"owner": 1.5, "group": 1e12, "other": "x"}}}})",
     "int_from_float entries.d.permissions.owner int_parsing_size entries.d.permissions.group "
     "int_parsing entries.d.permissions.other"},
    {R"({"entries": {"d": {"type": "dir",
         "permissions": {"owner": " +6.0 ", "group": "0_5", "other": "5"}}}})",
     "ok"},
    {R"({"entries": {"d": {"type": "dir",
         "permissions": {"owner": "5_", "group": "1.", "other": "99999999999"}}}})",
     "int_parsing entries.d.permissions.owner int_parsing entries.d.permissions.group "
     "int_parsing_size entries.d.permissions.other"},
    {R"({"entries": {"d": {"type": "dir", "group": "g"}}})", "model_type entries.d.group"},
    {R"({"environment": null})", "model_type environment"},
    {R"({"environment": {"A": "1"}})", "ok"},
    {R"({"environment": {"value": []}})", "value_error environment.value"},
    {R"({"environment": {"value": {"A": 1}}})", "type_error environment.value.A"},
    {R"({"environment": {"value": {"A": {"description": "d"}}}})",
     "missing environment.value.A.value"},
    {R"({"environment": {"value": {"A": {"value": "x", "description": "d"}}}})",
     "value_error environment.value.A"},
    {R"({"environment": {"value": {"A": {"type": "vault", "value": "x"}}}})",
     "value_error environment.value.A"},
    {R"({"users": ["bob"]})", "model_type users.0"},
    {R"({"users": null})", "list_type users"},
    {R"({"groups": [{"name": "dev"}]})", "missing groups.0.users"},
    {R"({"extra_path_grants": [{"path": ""}]})", "value_error extra_path_grants.0.path"},
    {R"({"extra_path_grants": [{"path": "/a/.."}]})", "value_error extra_path_grants.0.path"},
    {R"({"extra_path_grants": [{"path": "/a", "host_path": "C:\\"}]})",
     "value_error extra_path_grants.0.host_path"},
    {R"({"extra_path_grants": [{"path": "/a", "host_path": "/b/../c"}]})",
     "value_error extra_path_grants.0.host_path"},
    {R"({"extra_path_grants": [{"path": "/a", "host_path": "\\\\h\\s"}]})",
     "value_error extra_path_grants.0.host_path"},
    {R"({"extra_path_grants": [{"path": "/a", "host_path": "/..."}]})", "ok"},
    {R"({"remote_mount_command_allowlist": [1]})", "string_type remote_mount_command_allowlist.0"},
    {R"({"mount_credential_exposure_policy": 1})", "type_error mount_credential_exposure_policy"},
    {R"({"_inContainerMountCredentialExposureAllowedPaths": []})",
     "type_error _inContainerMountCredentialExposureAllowedPaths"},
    {R"({"entries": {"m": {"type": "s3_mount", "bucket": "b"}}})",
     "missing entries.m.mount_strategy"},
  })) {
  BOOST_TEST(details(parse(sample.text)) == sample.expected);
}

BOOST_AUTO_TEST_CASE(the_message_names_the_first_fault) {
  auto x = parse(R"({"entries": {"a": {"type": "file"}}, "users": null})");
  BOOST_TEST(x.error().message == "manifest is not valid: entries.a.content: Field required");
}

BOOST_AUTO_TEST_CASE(an_unknown_type_is_told_the_known_ones) {
  auto x = parse(R"({"entries": {"m": {"type": "nfs_mount"}}})");
  BOOST_TEST(x.error().message
             == "manifest is not valid: entries.m: Unknown artifact type `nfs_mount`. Registered "
                "types: azure_blob_mount, box_mount, dir, file, gcs_mount, git_repo, local_dir, "
                "local_file, r2_mount, s3_files_mount, s3_mount");
}

BOOST_AUTO_TEST_CASE(entry_paths_are_no_business_of_parsing) {
  BOOST_TEST(parse(R"({"entries": {"../../etc": {"type": "dir"}}})").has_value());
}

BOOST_AUTO_TEST_CASE(errors_stay_small_however_many_and_long_the_faults) {
  auto x = json{{"entries", json::object()}};
  for (int i = 0; i < 1000; ++i)
    x["entries"][std::string(10'000, 'k') + std::to_string(i)] = i;
  auto context = parse_json(parse_manifest(x).error().context).value();
  BOOST_TEST(context.at("details").size() == 100u);
  BOOST_TEST(dump_json(context).size() < 40'000u);
}

BOOST_AUTO_TEST_CASE(content_that_is_no_text_goes_beside_it) {
  manifest x;
  named_entry file{"bin", {}};
  file.entry.content = std::string{"\xff\x00\xfe", 3};
  x.entries.push_back(file);
  auto written = dump_manifest(x);
  BOOST_TEST(written["entries"]["bin"]["content"] == "");
  BOOST_TEST(written["entries"]["bin"]["content_base64"] == "/wD+");
  BOOST_TEST(parse_manifest(written)->entries[0].entry.content == file.entry.content);
}

BOOST_AUTO_TEST_CASE(base64_has_one_spelling) {
  auto read = [](const char* text) {
    auto x
      = parse_manifest(json{{"entries", {{"f", {{"type", "file"}, {"content_base64", text}}}}}});
    return x ? x->entries[0].entry.content : details(x);
  };
  BOOST_TEST(read("") == "");
  BOOST_TEST(read("Zg==") == "f");
  BOOST_TEST(read("Zm8=") == "fo");
  BOOST_TEST(read("Zm9v") == "foo");
  for (auto* bad : {"Zg", "Zh==", "Zg==Zg==", "Z=g=", "Zm9v\n", "====", "Zm 9"})
    BOOST_TEST(read(bad) == "value_error entries.f.content_base64");
}

BOOST_AUTO_TEST_CASE(deep_documents_are_refused) {
  json x{{"type", "dir"}};
  for (int i = 0; i < 250; ++i) {
    json parent{{"type", "dir"}, {"children", json::object()}};
    parent["children"]["d"] = std::move(x);
    x = std::move(parent);
  }
  json top{{"entries", json::object()}};
  top["entries"]["d"] = std::move(x);
  BOOST_TEST(details(parse_manifest(top)).starts_with("recursion_loop"));
}
