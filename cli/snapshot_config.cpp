#include "cli/snapshot_config.hpp"

namespace troupe::cli {

namespace {

using gateway::object_reader;

constexpr int64_t largest = int64_t{1} << 62;

std::optional<std::chrono::milliseconds> duration(object_reader& in, const char* key) {
  auto x = in.seconds(key);
  return x ? std::optional{std::chrono::ceil<std::chrono::milliseconds>(*x)} : std::nullopt;
}

result<snapshot::remote_options> read_store(const json& value, const std::string& where) {
  object_reader in{value, where};
  snapshot::remote_options out;
  auto& s3 = out.s3;
  s3.endpoint = in.text("endpoint").value_or("");
  while (s3.endpoint.ends_with('/'))
    s3.endpoint.pop_back();
  if (!s3.endpoint.starts_with("http://") && !s3.endpoint.starts_with("https://"))
    in.fail("endpoint", "an http or https URL");
  s3.region = in.text("region").value_or(s3.region);
  s3.bucket = in.text("bucket").value_or("");
  if (s3.bucket.empty() || s3.bucket.find('/') != std::string::npos)
    in.fail("bucket", "the name of a bucket");
  s3.prefix = in.text("prefix").value_or("");
  if (s3.prefix.starts_with('/') || s3.prefix.ends_with('/'))
    in.fail("prefix", "text without a slash at its ends");
  s3.access_key_env = in.text("access_key_env").value_or("");
  s3.secret_key_env = in.text("secret_key_env").value_or("");
  s3.session_token_env = in.text("session_token_env").value_or("");
  s3.credentials_file = in.text("credentials_file").value_or("");
  if (s3.credentials_file.empty() && (s3.access_key_env.empty() || s3.secret_key_env.empty()))
    in.fail("credentials_file", "a file, or else `access_key_env` and `secret_key_env` are needed");
  if (auto n = in.integer("parallel", 1, 16))
    s3.parallel = static_cast<uint32_t>(*n);
  if (auto n = in.integer("part_bytes", 5 * 1024 * 1024, int64_t{5} << 30))
    s3.part_bytes = static_cast<uint64_t>(*n);
  if (auto n = in.integer("attempts", 1, 20))
    s3.attempts = static_cast<uint32_t>(*n);
  s3.stall = duration(in, "stall_s").value_or(s3.stall);
  s3.deadline = duration(in, "deadline_s").value_or(s3.deadline);
  out.grace = duration(in, "grace_s").value_or(4 * s3.deadline);
  // Who works on a snapshot for so long must not lose its blobs to a collection elsewhere.
  if (out.grace < 4 * s3.deadline)
    in.fail("grace_s", "at least four times `deadline_s`");
  if (auto ok = in.finish(); !ok)
    return unexpected(std::move(ok.error()));
  return out;
}

actors::retention_policy read_policy(object_reader& in) {
  actors::retention_policy out;
  if (auto age = duration(in, "max_age_s"))
    out.max_age_ms = age->count();
  out.max_count = in.integer("max_count", 0, largest);
  out.max_bytes = in.integer("max_bytes", 0, largest);
  return out;
}

/// Gives every member of an object to `read`.
template <class Read>
result<void> each_member(object_reader& in, const char* key, Read read) {
  auto* value = in.any(key);
  if (!value)
    return {};
  if (!value->is_object()) {
    in.fail(key, "an object");
    return {};
  }
  for (const auto& [name, one] : value->items())
    if (auto ok = read(name, one, std::string{key} + '.' + name); !ok)
      return ok;
  return {};
}

} // namespace

result<void> read_snapshot_config(object_reader& in, actors::node_config& out) {
  auto store = [&](const std::string& name, const json& value, const std::string& where) {
    // Its name becomes a folder's.
    if (name.empty() || name.front() == '.' || name.find_first_of("/\\") != std::string::npos)
      in.fail("snapshot_stores", "names that can be a folder's");
    return read_store(value, where).map([&](snapshot::remote_options x) {
      out.snapshot_stores[name] = std::move(x);
    });
  };
  if (auto ok = each_member(in, "snapshot_stores", store); !ok)
    return ok;
  if (auto n = in.integer("remote_cache_bytes", 0, largest))
    out.remote_cache_bytes = static_cast<uint64_t>(*n);
  auto* value = in.any("retention");
  if (!value)
    return {};
  object_reader retention{*value, "retention"};
  out.retention = read_policy(retention);
  if (auto every = duration(retention, "interval_s"))
    out.retention_interval_ms = std::max<int64_t>(every->count(), 100);
  auto tenant = [&](const std::string& name, const json& one, const std::string& where) {
    object_reader policy{one, where};
    out.tenant_retention[name] = read_policy(policy);
    return policy.finish();
  };
  if (auto ok = each_member(retention, "tenants", tenant); !ok)
    return ok;
  return retention.finish();
}

} // namespace troupe::cli
