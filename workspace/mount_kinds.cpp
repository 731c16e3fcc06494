#include "workspace/mount_kinds.hpp"

#include <algorithm>
#include <array>

namespace troupe::workspace {

namespace {

using enum mount_pattern_kind;

constexpr unsigned secret = credential | config_line;

constexpr mount_field azure_blob_fields[] = {
  {"account", needed | config_line}, {"container", needed},   {"endpoint", url | config_line},
  {"identity_client_id", secret},    {"account_key", secret},
};

constexpr mount_field box_fields[] = {
  {"path"},
  {"client_id", config_line},
  {"client_secret", secret},
  {"access_token", secret},
  {"token", secret},
  {"box_config_file", secret | credential_file},
  {"config_credentials", secret},
  {"box_sub_type", 0, "user"},
  {"root_folder_id", config_line},
  {"impersonate", config_line},
  {"owned_by", config_line},
};

constexpr mount_field gcs_fields[] = {
  {"bucket", needed},
  {"access_id", secret},
  {"secret_access_key", secret},
  {"prefix"},
  {"region", config_line},
  {"endpoint_url", url | config_line},
  {"service_account_file", secret | credential_file},
  {"service_account_credentials", secret},
  {"access_token", secret},
};

constexpr mount_field r2_fields[] = {
  {"bucket", needed},
  {"account_id", needed | config_line},
  {"access_key_id", secret},
  {"secret_access_key", secret},
  {"custom_domain", url | config_line},
};

constexpr mount_field s3_fields[] = {
  {"bucket", needed},
  {"access_key_id", secret},
  {"secret_access_key", secret},
  {"session_token", secret},
  {"prefix"},
  {"region", config_line},
  {"endpoint_url", url | config_line},
  {"s3_provider", config_line, "AWS"},
};

constexpr mount_field s3_files_fields[] = {
  {"file_system_id", needed}, {"subpath"}, {"mount_target_ip"}, {"access_point"}, {"region"},
};

constexpr mount_pattern_kind by_rclone[] = {rclone};
constexpr mount_pattern_kind by_rclone_or_fuse[] = {rclone, fuse};
constexpr mount_pattern_kind by_rclone_or_mountpoint[] = {rclone, mountpoint};
constexpr mount_pattern_kind by_s3files[] = {s3files};

constexpr std::string_view rclone_volume[] = {"rclone"};
constexpr std::string_view any_volume[] = {"mountpoint", "rclone"};

/// In the order of `mount_kind`.
constexpr std::array types = {
  mount_type{mount_kind::azure_blob, "azure_blob_mount", azure_blob_fields, by_rclone_or_fuse,
             rclone_volume},
  mount_type{mount_kind::box, "box_mount", box_fields, by_rclone, rclone_volume},
  mount_type{mount_kind::gcs, "gcs_mount", gcs_fields, by_rclone_or_mountpoint, any_volume},
  mount_type{mount_kind::r2, "r2_mount", r2_fields, by_rclone, rclone_volume},
  mount_type{mount_kind::s3, "s3_mount", s3_fields, by_rclone_or_mountpoint, any_volume},
  mount_type{mount_kind::s3_files, "s3_files_mount", s3_files_fields, by_s3files, {}},
};

constexpr std::array<std::string_view, 2> strategy_names = {"in_container", "docker_volume"};
constexpr std::array<std::string_view, 4> pattern_names
  = {"fuse", "mountpoint", "rclone", "s3files"};
constexpr std::array<std::string_view, 4> tools
  = {"blobfuse2", "mount-s3", "rclone", "mount.s3files"};

constexpr std::string_view hosted[] = {
  "blaxel_cloud_bucket", "blaxel_drive",       "cloudflare_bucket_mount", "daytona_cloud_bucket",
  "e2b_cloud_bucket",    "modal_cloud_bucket", "runloop_cloud_bucket",    "vercel_cloud_bucket",
};

template <class Kind, size_t N>
std::optional<Kind> find(const std::array<std::string_view, N>& names, std::string_view name) {
  auto i = std::ranges::find(names, name);
  if (i == names.end())
    return std::nullopt;
  return static_cast<Kind>(i - names.begin());
}

} // namespace

const mount_type& type_of(mount_kind kind) {
  return types[static_cast<size_t>(kind)];
}

const mount_type* find_mount_type(std::string_view name) {
  auto i = std::ranges::find(types, name, &mount_type::name);
  return i == types.end() ? nullptr : &*i;
}

std::span<const mount_type> mount_types() {
  return types;
}

std::string_view to_string(mount_strategy_kind kind) {
  return strategy_names[static_cast<size_t>(kind)];
}

std::string_view to_string(mount_pattern_kind kind) {
  return pattern_names[static_cast<size_t>(kind)];
}

std::optional<mount_strategy_kind> mount_strategy_from_string(std::string_view name) {
  return find<mount_strategy_kind>(strategy_names, name);
}

std::optional<mount_pattern_kind> mount_pattern_from_string(std::string_view name) {
  return find<mount_pattern_kind>(pattern_names, name);
}

std::string_view tool_of(mount_pattern_kind kind) {
  return tools[static_cast<size_t>(kind)];
}

bool is_hosted_strategy(std::string_view name) {
  return std::ranges::find(hosted, name) != std::end(hosted);
}

const std::string* setting(const mount_entry& x, std::string_view name) {
  auto i = x.settings.find(std::string{name});
  return i == x.settings.end() ? nullptr : &i->second;
}

} // namespace troupe::workspace
