#pragma once

#include "messages/inspect.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

// Storage from elsewhere at a place in the workspace. Plain values: what they mean and who may use
// them is in workspace/.

namespace troupe {

enum class mount_kind : uint8_t { azure_blob, box, gcs, r2, s3, s3_files };

/// Who attaches a mount.
enum class mount_strategy_kind : uint8_t {
  in_container,  ///< a helper inside the sandbox, which sees whatever the helper is given
  docker_volume, ///< the container engine, from outside
};

/// The helper of an `in_container` mount.
enum class mount_pattern_kind : uint8_t { fuse, mountpoint, rclone, s3files };

/// `name=value`, or a bare name.
struct mount_option {
  std::string name;
  std::optional<std::string> value;
};

/// How blobfuse2 caches.
struct fuse_pattern {
  bool allow_other = true;
  std::string log_type = "syslog";
  std::string log_level = "log_debug";
  std::string cache_type = "block_cache"; ///< or `file_cache`
  std::optional<std::string> cache_path;  ///< relative to the workspace root
  std::optional<int32_t> cache_size_mb;
  int32_t block_cache_block_size_mb = 16;
  int32_t block_cache_disk_timeout_sec = 3600;
  int32_t file_cache_timeout_sec = 120;
  std::optional<int32_t> file_cache_max_size_mb;
  std::optional<int32_t> attr_cache_timeout_sec;
  std::optional<int32_t> entry_cache_timeout_sec;
  std::optional<int32_t> negative_entry_cache_timeout_sec;
};

/// What mount-s3 is told where the mount itself says nothing.
struct mountpoint_pattern {
  std::optional<std::string> prefix;
  std::optional<std::string> region;
  std::optional<std::string> endpoint_url;
};

struct rclone_pattern {
  std::string mode = "fuse";              ///< or `nfs`
  std::optional<std::string> remote_name; ///< section of the configuration; unset: a name of ours
  std::vector<std::string> extra_args;
  std::optional<std::string> nfs_addr;
  std::optional<std::vector<std::string>> nfs_mount_options;
  std::optional<std::string> config_file_path; ///< in the sandbox
};

/// What mount.s3files is told where the mount itself says nothing.
struct s3files_pattern {
  std::optional<std::string> mount_target_ip;
  std::optional<std::string> access_point;
  std::optional<std::string> region;
  std::vector<mount_option> extra_options;
};

/// The parts of other patterns keep their defaults.
struct mount_pattern {
  mount_pattern_kind kind = mount_pattern_kind::rclone;
  fuse_pattern fuse;
  mountpoint_pattern mountpoint;
  rclone_pattern rclone;
  s3files_pattern s3files;
};

struct mount_strategy {
  mount_strategy_kind kind = mount_strategy_kind::in_container;
  mount_pattern pattern;                    ///< in_container
  std::string driver;                       ///< docker_volume: `mountpoint` or `rclone`
  std::vector<mount_option> driver_options; ///< docker_volume, each with a value
};

struct mount_entry {
  mount_kind kind = mount_kind::s3;
  std::optional<std::string> mount_path; ///< unset: where its entry is
  bool read_only = true;
  mount_strategy strategy;
  /// The text fields of its kind that are not null, by their names in JSON.
  std::map<std::string, std::string> settings;
  std::vector<mount_option> extra_options; ///< s3_files
};

template <class Inspector>
auto inspect(Inspector& f, mount_option& x) {
  return inspect_object(f, x, field("name", x.name), field("value", x.value));
}

template <class Inspector>
auto inspect(Inspector& f, fuse_pattern& x) {
  return inspect_object(
    f, x, field("allow_other", x.allow_other), field("log_type", x.log_type),
    field("log_level", x.log_level), field("cache_type", x.cache_type),
    field("cache_path", x.cache_path), field("cache_size_mb", x.cache_size_mb),
    field("block_cache_block_size_mb", x.block_cache_block_size_mb),
    field("block_cache_disk_timeout_sec", x.block_cache_disk_timeout_sec),
    field("file_cache_timeout_sec", x.file_cache_timeout_sec),
    field("file_cache_max_size_mb", x.file_cache_max_size_mb),
    field("attr_cache_timeout_sec", x.attr_cache_timeout_sec),
    field("entry_cache_timeout_sec", x.entry_cache_timeout_sec),
    field("negative_entry_cache_timeout_sec", x.negative_entry_cache_timeout_sec));
}

template <class Inspector>
auto inspect(Inspector& f, mountpoint_pattern& x) {
  return inspect_object(f, x, field("prefix", x.prefix), field("region", x.region),
                        field("endpoint_url", x.endpoint_url));
}

template <class Inspector>
auto inspect(Inspector& f, rclone_pattern& x) {
  return inspect_object(f, x, field("mode", x.mode), field("remote_name", x.remote_name),
                        field("extra_args", x.extra_args), field("nfs_addr", x.nfs_addr),
                        field("nfs_mount_options", x.nfs_mount_options),
                        field("config_file_path", x.config_file_path));
}

template <class Inspector>
auto inspect(Inspector& f, s3files_pattern& x) {
  return inspect_object(f, x, field("mount_target_ip", x.mount_target_ip),
                        field("access_point", x.access_point), field("region", x.region),
                        field("extra_options", x.extra_options));
}

template <class Inspector>
auto inspect(Inspector& f, mount_pattern& x) {
  return inspect_object(f, x, field("kind", x.kind), field("fuse", x.fuse),
                        field("mountpoint", x.mountpoint), field("rclone", x.rclone),
                        field("s3files", x.s3files));
}

template <class Inspector>
auto inspect(Inspector& f, mount_strategy& x) {
  return inspect_object(f, x, field("kind", x.kind), field("pattern", x.pattern),
                        field("driver", x.driver), field("driver_options", x.driver_options));
}

template <class Inspector>
auto inspect(Inspector& f, mount_entry& x) {
  return inspect_object(f, x, field("kind", x.kind), field("mount_path", x.mount_path),
                        field("read_only", x.read_only), field("strategy", x.strategy),
                        field("settings", x.settings), field("extra_options", x.extra_options));
}

} // namespace troupe
