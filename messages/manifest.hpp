#pragma once

#include "messages/inspect.hpp"
#include "messages/mount.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// What a fresh workspace holds. Plain values: parsing, checks and rendering are in workspace/.

namespace troupe {

/// Permission digits of an entry, 0 to 7 each (read 4, write 2, execute 1).
struct permissions {
  int32_t owner = 7;
  int32_t group = 5;
  int32_t other = 5;
  bool directory = false;

  /// The mode bits, without the file type.
  uint32_t mode() const {
    return static_cast<uint32_t>(owner << 6 | group << 3 | other);
  }
};

struct user {
  std::string name;
};

struct group {
  std::string name;
  std::vector<user> users;
};

/// The `group` of an entry: a plain name (a "user" in JSON) or a group with its members.
struct entry_group {
  std::string name;
  std::optional<std::vector<user>> users;
};

enum class entry_kind : uint8_t { file, dir, local_file, local_dir, git_repo };

struct named_entry;

/// One thing to put into a workspace. Members of other kinds keep their defaults.
struct entry {
  entry_kind kind = entry_kind::file;
  std::optional<std::string> description;
  bool ephemeral = false;
  std::optional<entry_group> group;
  bool is_dir = false;
  troupe::permissions permissions;
  std::string content;                ///< file: bytes
  std::vector<named_entry> children;  ///< dir: in the order given
  std::optional<std::string> src;     ///< local_file, local_dir: path on the host
  std::string host = "github.com";    ///< git_repo
  std::string repo;                   ///< git_repo
  std::string ref;                    ///< git_repo: a branch, a tag or a commit
  std::optional<std::string> subpath; ///< git_repo
  /// A `dir` with a mount is the place that the mount goes over. At most one; a list, for the many
  /// entries without one should stay small.
  std::vector<mount_entry> mount;

  bool is_mount() const {
    return !mount.empty();
  }
};

/// An entry under its key: a path relative to the workspace root (or to the parent entry), as
/// given.
struct named_entry {
  std::string path;
  troupe::entry entry;
};

/// How an environment value was written, so that it can be written back alike.
enum class environment_form : uint8_t {
  text,   ///< "value"
  object, ///< {"type": "str", "value": "value"}; the legacy {"value": "value"} is written so too
};

struct environment_value {
  std::string name;
  std::string value;
  environment_form form = environment_form::text;
  bool wrapped = false;                   ///< inside {"value", "description", "ephemeral"}
  std::optional<std::string> description; ///< of the wrapper
  bool ephemeral = false;                 ///< of the wrapper; has no effect
};

/// A path outside the workspace that a session may use.
struct path_grant {
  std::string path;
  bool read_only = false;
  std::optional<std::string> description;
  std::optional<std::string> host_path; ///< docker only
};

struct manifest {
  std::string root = "/workspace";
  std::vector<named_entry> entries; ///< in the order given
  std::vector<environment_value> environment;
  std::vector<user> users;
  std::vector<troupe::group> groups;
  std::vector<path_grant> extra_path_grants;
  std::vector<std::string> remote_mount_command_allowlist
    = {"ls", "find", "stat", "cat", "less", "head", "tail", "du",    "grep",
       "rg", "wc",   "sort", "cut", "cp",   "tee",  "echo", "mkdir", "rm"};
};

/// One file that an application of a manifest copied from the host.
struct materialized_file {
  std::string path;   ///< absolute
  std::string sha256; ///< lower-case hexadecimal
};

template <class Inspector>
auto inspect(Inspector& f, permissions& x) {
  return inspect_object(f, x, field("owner", x.owner), field("group", x.group),
                        field("other", x.other), field("directory", x.directory));
}

template <class Inspector>
auto inspect(Inspector& f, user& x) {
  return inspect_object(f, x, field("name", x.name));
}

template <class Inspector>
auto inspect(Inspector& f, group& x) {
  return inspect_object(f, x, field("name", x.name), field("users", x.users));
}

template <class Inspector>
auto inspect(Inspector& f, entry_group& x) {
  return inspect_object(f, x, field("name", x.name), field("users", x.users));
}

template <class Inspector>
auto inspect(Inspector& f, entry& x) {
  return inspect_object(f, x, field("kind", x.kind), field("description", x.description),
                        field("ephemeral", x.ephemeral), field("group", x.group),
                        field("is_dir", x.is_dir), field("permissions", x.permissions),
                        field("content", x.content), field("children", x.children),
                        field("src", x.src), field("host", x.host), field("repo", x.repo),
                        field("ref", x.ref), field("subpath", x.subpath), field("mount", x.mount));
}

template <class Inspector>
auto inspect(Inspector& f, named_entry& x) {
  return inspect_object(f, x, field("path", x.path), field("entry", x.entry));
}

template <class Inspector>
auto inspect(Inspector& f, environment_value& x) {
  return inspect_object(f, x, field("name", x.name), field("value", x.value), field("form", x.form),
                        field("wrapped", x.wrapped), field("description", x.description),
                        field("ephemeral", x.ephemeral));
}

template <class Inspector>
auto inspect(Inspector& f, path_grant& x) {
  return inspect_object(f, x, field("path", x.path), field("read_only", x.read_only),
                        field("description", x.description), field("host_path", x.host_path));
}

template <class Inspector>
auto inspect(Inspector& f, manifest& x) {
  return inspect_object(f, x, field("root", x.root), field("entries", x.entries),
                        field("environment", x.environment), field("users", x.users),
                        field("groups", x.groups), field("extra_path_grants", x.extra_path_grants),
                        field("remote_mount_command_allowlist", x.remote_mount_command_allowlist));
}

template <class Inspector>
auto inspect(Inspector& f, materialized_file& x) {
  return inspect_object(f, x, field("path", x.path), field("sha256", x.sha256));
}

} // namespace troupe
