// Answers one JSON request per line of standard input with one line of JSON, `{"ok": ...}` or
// `{"error": {...}}`: the functions that recorded vectors can be held against, without a server.

#include "backends/unix_local/argv.hpp"
#include "messages/json.hpp"
#include "messages/unique_fd.hpp"
#include "snapshot/extract.hpp"
#include "snapshot/repository.hpp"
#include "workspace/apply_patch.hpp"
#include "workspace/archive_limits_json.hpp"
#include "workspace/base64.hpp"
#include "workspace/file_errors.hpp"
#include "workspace/file_ops.hpp"
#include "workspace/manifest_check.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/mount_json.hpp"
#include "workspace/mount_security.hpp"
#include "workspace/mount_targets.hpp"
#include "workspace/patch_diff.hpp"
#include "workspace/path_policy.hpp"
#include "workspace/token_truncation.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <functional>
#include <iostream>
#include <map>
#include <string>

using namespace troupe;
using namespace troupe::workspace;

namespace {

using answer = result<json>;

std::string text(const json& request, const char* key) {
  return request.value(key, std::string{});
}

std::optional<std::string> text_or_null(const json& request, const char* key) {
  auto i = request.find(key);
  return i == request.end() || i->is_null() ? std::nullopt : std::optional{i->get<std::string>()};
}

std::vector<std::string> texts(const json& request, const char* key) {
  return request.value(key, std::vector<std::string>{});
}

unique_fd open_root(const json& request) {
  return unique_fd{::open(text(request, "root").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
}

/// The answer to a call that gives nothing.
answer nothing(result<void> outcome) {
  return std::move(outcome).map([] { return json(nullptr); });
}

// -- text -----------------------------------------------------------------------------------------

answer on_apply_diff(const json& x) {
  auto mode = text(x, "mode") == "create" ? diff_mode::create : diff_mode::update;
  return apply_diff(text(x, "text"), text(x, "diff"), mode);
}

answer on_truncate(const json& x) {
  auto kind = text(x, "kind");
  std::optional<int64_t> limit;
  if (auto given = x.value("limit", json(nullptr)); given.is_number())
    limit = given.get<int64_t>();
  if (kind == "bytes" || kind == "formatted_bytes")
    return truncate_bytes(text(x, "text"), static_cast<size_t>(limit.value_or(0)),
                          kind == "formatted_bytes");
  auto cut = truncate_tokens(text(x, "text"), limit, kind == "output");
  if (kind == "tokens")
    return cut.text;
  json count = nullptr;
  if (cut.original_token_count)
    count = *cut.original_token_count;
  return json{{"text", cut.text}, {"original_token_count", count}};
}

answer on_apply_patch(const json& x) {
  auto raw = text_or_null(x, "raw");
  auto operations = raw ? parse_patch(*raw) : read_patch_operations(x.at("operations"));
  if (!operations)
    return unexpected(operations.error());
  auto policy = path_policy::make(text(x, "root"), {});
  if (!policy)
    return unexpected(policy.error());
  patch_options options;
  options.cwd = text(x, "cwd");
  options.all_or_nothing = x.value("all_or_nothing", true);
  options.paths_first = raw.has_value();
  return apply_patch(open_root(x).get(), *policy, *operations, options)
    .map([](const patch_outcome& outcome) { return json(outcome.text); });
}

answer on_exec_prepare(const json& x) {
  exec_request request;
  request.command = texts(x, "command");
  request.user = text_or_null(x, "user");
  if (x.at("shell").is_array()) {
    request.shell = shell_mode::prefix;
    request.shell_prefix = texts(x, "shell");
  } else {
    request.shell = x.at("shell").get<bool>() ? shell_mode::on : shell_mode::off;
  }
  auto root = text(x, "root");
  auto local = backends::prepare_argv(request, "-c");
  auto process = backends::place_argv(local, root, root);
  return json{{"argv", backends::prepare_argv(request, "-lc")},
              {"unix_local_argv", local},
              {"unix_local_process", {{"cwd", process.cwd}, {"argv", process.argv}}}};
}

// -- manifests and states -------------------------------------------------------------------------

/// Paths of all entries, parents first.
void add_paths(const std::vector<named_entry>& entries, const std::string& parent, json& out) {
  for (const auto& x : entries) {
    auto path = join_path(parent, normalize_entry_path(x.path).value());
    out.push_back(path);
    add_paths(x.entry.children, path, out);
  }
}

answer on_manifest(const json& x) {
  auto parsed = parse_manifest(x.at("manifest"));
  if (!parsed)
    return unexpected(parsed.error());
  if (auto checked = check_entry_paths(*parsed); !checked)
    return unexpected(checked.error());
  json environment = json::object();
  for (const auto& value : parsed->environment)
    environment[value.name] = value.value;
  json paths = json::array();
  add_paths(parsed->entries, ".", paths);
  auto targets = mount_targets(*parsed);
  if (!targets)
    return unexpected(targets.error());
  json mounts = json::array();
  for (const auto& target : *targets)
    mounts.push_back(json::array({type_of(target.mount->kind).name, target.path}));
  auto checked = check_manifest(*parsed, true).and_then([&] {
    return check_mounts(*parsed, backend_kind::unix_local);
  });
  return json{{"dump", dump_manifest(*parsed)},
              {"paths", paths},
              {"persistence_skip_paths", ephemeral_paths(*parsed)},
              {"environment", environment},
              {"mount_targets", mounts},
              {"create", checked ? json("accepted") : error_to_json(checked.error())}};
}

answer on_describe(const json& x) {
  auto given = x.value("depth", json(1));
  std::optional<int> depth;
  if (!given.is_null())
    depth = static_cast<int>(std::min<int64_t>(given.get<int64_t>(), INT_MAX));
  auto parsed = parse_manifest(x.at("manifest"));
  return parsed ? answer{describe(*parsed, depth)} : unexpected(parsed.error());
}

answer on_state(const json& x) {
  auto parsed = parse_state(x.at("state"));
  if (!parsed)
    return unexpected(parsed.error());
  auto rebound
    = check_mounts(parsed->manifest, parsed->type).and_then([&] { return check_rebound(*parsed); });
  return json{{"stored", dump_state(*parsed)},
              {"path_grants_require_rebind", parsed->redacted_host_path_grants},
              {"mount_authority_redacted", parsed->mount_authority_redacted},
              {"resume", rebound ? json("accepted") : error_to_json(rebound.error())}};
}

// -- paths and files ------------------------------------------------------------------------------

result<path_policy> policy_of(const json& x) {
  std::vector<path_grant> grants;
  for (const auto& grant : x.value("grants", json::array())) {
    auto& added = grants.emplace_back();
    added.path = text(grant, "path");
    added.read_only = grant.value("read_only", false);
  }
  return path_policy::make(text(x, "root"), std::move(grants));
}

answer on_path(const json& x) {
  auto policy = policy_of(x);
  if (!policy)
    return unexpected(policy.error());
  return policy->resolve(text(x, "path"), x.value("for_write", false))
    .map([](const resolved_path& found) {
      return json{{"absolute", found.absolute}, {"relative", found.relative}};
    });
}

answer on_run_folder(const json& x) {
  return run_folder(text(x, "cwd"));
}

answer on_anchored_path(const json& x) {
  return json(anchored_path(text(x, "cwd"), text(x, "path")));
}

answer on_shown_path(const json& x) {
  return json(shown_path(text(x, "cwd"), text(x, "path")));
}

answer on_entry_path(const json& x) {
  return normalize_entry_path(text(x, "path"));
}

/// Whether nothing can be at a path.
bool is_missing(int err) {
  return err == ENOENT || err == ENOTDIR || err == ENAMETOOLONG;
}

/// Where using the path would lead, as the kernel resolves it; what is missing is kept by name.
answer on_resolve(const json& x) {
  auto policy = policy_of(x);
  if (!policy)
    return unexpected(policy.error());
  auto found = policy->resolve_local(text(x, "path"), x.value("for_write", false));
  if (!found)
    return unexpected(found.error());
  unique_fd base{::open(found->base.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  auto path = found->relative;
  std::string missing;
  for (;;) {
    unique_fd fd;
    int opened = open_beneath(base.get(), path, O_PATH);
    fd.reset(opened);
    char link[PATH_MAX];
    if (opened >= 0) {
      auto size
        = ::readlink(("/proc/self/fd/" + std::to_string(opened)).c_str(), link, sizeof link);
      return std::string{link, static_cast<size_t>(size)} + missing;
    }
    if (!is_missing(-opened) || path == ".")
      return unexpected(read_failure(-opened, text(x, "path"), text(x, "path")));
    auto parts = split_last(path);
    fd.reset(open_beneath(base.get(), path, O_PATH | O_NOFOLLOW));
    ssize_t size = fd ? ::readlinkat(fd.get(), "", link, sizeof link) : -1;
    if (size >= 0) {
      path = join_path(parts.parent, std::string{link, static_cast<size_t>(size)});
      continue;
    }
    missing = "/" + parts.name + missing;
    path = parts.parent;
  }
}

answer on_list(const json& x) {
  auto path = text(x, "path");
  auto entries = list_directory(open_root(x).get(), path, text(x, "shown"));
  if (!entries)
    return unexpected(entries.error());
  json out = json::array();
  for (const auto& entry : *entries)
    out.push_back({{"path", entry.path},
                   {"kind", to_string(entry.kind)},
                   {"mode", entry.mode},
                   {"size", entry.size}});
  return out;
}

// -- archives -------------------------------------------------------------------------------------

/// What the session's snapshots leave out.
result<std::vector<std::string>> skip_paths(const json& x, const manifest& of) {
  auto skip = ephemeral_paths(of);
  for (const auto& path : texts(x, "skip")) {
    auto normal = normalize_skip_path(path);
    if (!normal)
      return unexpected(normal.error());
    if (auto clear = check_skip_path(of, *normal); !clear)
      return unexpected(clear.error());
    skip.push_back(*normal);
  }
  return skip;
}

answer on_fingerprint(const json& x) {
  auto parsed = parse_manifest(x.at("manifest"));
  if (!parsed)
    return unexpected(parsed.error());
  auto skip = skip_paths(x, *parsed);
  if (!skip)
    return unexpected(skip.error());
  return snapshot::fingerprint(open_root(x).get(), *skip, manifest_digest(*parsed), {});
}

answer on_persist(const json& x) {
  auto parsed = parse_manifest(x.at("manifest"));
  if (!parsed)
    return unexpected(parsed.error());
  auto skip = skip_paths(x, *parsed);
  if (!skip)
    return unexpected(skip.error());
  unique_fd out{::open(text(x, "archive").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  return snapshot::write_tar(open_root(x).get(), *skip, out.get(), {})
    .map([](const std::vector<std::string>& warnings) { return json(warnings); });
}

/// Keeps the tree as a session's snapshot and restores it elsewhere.
answer on_save_and_restore(const json& x) {
  auto parsed = parse_manifest(x.at("manifest"));
  if (!parsed)
    return unexpected(parsed.error());
  auto skip = skip_paths(x, *parsed);
  if (!skip)
    return unexpected(skip.error());
  auto root = open_root(x);
  auto snapshots = snapshot::make_repository(1);
  snapshot::persist_request save;
  save.ref = {snapshot_kind::local, "conformance", text(x, "base_path"), ""};
  save.root_fd = root.get();
  save.skip = *skip;
  save.manifest_digest = manifest_digest(*parsed);
  if (auto saved = snapshots->persist(save, {}, {}); !saved)
    return unexpected(saved.error());
  return nothing(snapshots->restore({save.ref, text(x, "again")}, {}, {}));
}

answer on_hydrate(const json& x) {
  auto limits = parse_archive_limits(x.value("limits", json(nullptr)));
  if (!limits)
    return unexpected(limits.error());
  unique_fd in{::open(text(x, "archive").c_str(), O_RDONLY | O_CLOEXEC)};
  return nothing(snapshot::hydrate(in.get(), text(x, "root"), x.value("merge", true), *limits, {}));
}

answer on_extract(const json& x) {
  auto limits = parse_archive_limits(x.value("limits", json(nullptr)));
  if (!limits)
    return unexpected(limits.error());
  auto path = text(x, "path");
  auto scheme = snapshot::archive_scheme_of(path, text_or_null(x, "scheme"));
  if (!scheme)
    return unexpected(scheme.error());
  auto target = path_policy::make(text(x, "root"), {}).and_then([&](const path_policy& policy) {
    return policy.resolve_local(path, true);
  });
  if (!target)
    return unexpected(target.error());
  unique_fd in{::open(text(x, "archive").c_str(), O_RDWR | O_CLOEXEC)};
  auto root = open_root(x);
  snapshot::extract_request request;
  request.archive_fd = in.get();
  request.root_fd = root.get();
  request.path = target->relative;
  request.shown = target->absolute;
  request.scheme = *scheme;
  request.limits = *limits;
  return nothing(snapshot::extract(request, {}));
}

const std::map<std::string, std::function<answer(const json&)>> functions
  = {{"anchored_path", on_anchored_path},
     {"apply_diff", on_apply_diff},
     {"apply_patch", on_apply_patch},
     {"describe", on_describe},
     {"entry_path", on_entry_path},
     {"exec_prepare", on_exec_prepare},
     {"extract", on_extract},
     {"fingerprint", on_fingerprint},
     {"hydrate", on_hydrate},
     {"list", on_list},
     {"manifest", on_manifest},
     {"path", on_path},
     {"persist", on_persist},
     {"resolve", on_resolve},
     {"run_folder", on_run_folder},
     {"save_and_restore", on_save_and_restore},
     {"shown_path", on_shown_path},
     {"state", on_state},
     {"truncate", on_truncate}};

answer answer_to(const std::string& line) {
  auto request = parse_json(line, 100'000);
  if (!request)
    return unexpected(request.error());
  try {
    return functions.at(text(*request, "fn"))(*request);
  } catch (const json::exception& fault) { // an argument of another type
    return unexpected(make_error(errc::invalid_request, op::request, fault.what()));
  }
}

} // namespace

int main() {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    auto outcome = answer_to(line);
    json out = outcome ? json{{"ok", *outcome}} : json{{"error", error_to_json(outcome.error())}};
    std::cout << dump_json(out) << std::endl;
  }
}
