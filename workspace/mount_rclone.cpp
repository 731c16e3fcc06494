#include "workspace/mount_rclone.hpp"

#include "workspace/mount_kinds.hpp"
#include "workspace/mount_security.hpp"
#include "workspace/path_policy.hpp"

#include <algorithm>

namespace troupe::workspace {

namespace {

using argv = std::vector<std::string>;

/// "" if it is not set.
std::string text(const mount_entry& x, std::string_view name) {
  auto* value = setting(x, name);
  return value ? *value : std::string{};
}

/// Keys that the S3 interface of Google's storage takes.
bool is_gcs_by_s3(const mount_entry& x) {
  return x.kind == mount_kind::gcs && setting(x, "access_id") && setting(x, "secret_access_key");
}

std::string_view remote_kind(const mount_entry& x) {
  switch (x.kind) {
    case mount_kind::azure_blob: return "azureblob";
    case mount_kind::box: return "box";
    case mount_kind::gcs: return is_gcs_by_s3(x) ? "gcs_s3" : "gcs";
    case mount_kind::r2: return "r2";
    case mount_kind::s3:
    case mount_kind::s3_files: break;
  }
  return "s3";
}

std::string without_leading_slash(std::string path) {
  return path.erase(0, std::min(path.find_first_not_of('/'), path.size()));
}

std::string remote_path(const mount_entry& x) {
  if (x.kind == mount_kind::azure_blob)
    return text(x, "container");
  if (x.kind == mount_kind::box)
    return without_leading_slash(text(x, "path"));
  auto path = text(x, "bucket");
  if (auto* prefix = setting(x, "prefix"))
    path += '/' + without_leading_slash(*prefix);
  return path;
}

// -- configuration
// ----------------------------------------------------------------------------------

/// The lines of a remote's section.
class section {
public:
  explicit section(const mount_entry& x) : x_(x) {}

  std::string lines() {
    switch (x_.kind) {
      case mount_kind::azure_blob: azure_blob(); break;
      case mount_kind::box: box(); break;
      case mount_kind::gcs: is_gcs_by_s3(x_) ? gcs_by_s3() : gcs(); break;
      case mount_kind::r2: r2(); break;
      case mount_kind::s3: s3(); break;
      case mount_kind::s3_files: break;
    }
    return std::move(lines_);
  }

private:
  void s3() {
    line("type", "s3");
    line("provider", text(x_, "s3_provider"));
    if_given("endpoint", "endpoint_url");
    if_given("region", "region");
    line("env_auth", "false");
    if (keys("access_key_id"))
      if_given("session_token", "session_token");
  }

  void r2() {
    line("type", "s3");
    line("provider", "Cloudflare");
    auto domain = text(x_, "custom_domain");
    line("endpoint", !domain.empty()
                       ? domain
                       : "https://" + text(x_, "account_id") + ".r2.cloudflarestorage.com");
    line("acl", "private");
    line("env_auth", "false");
    keys("access_key_id");
  }

  void gcs_by_s3() {
    line("type", "s3");
    line("provider", "GCS");
    line("env_auth", "false");
    line("access_key_id", text(x_, "access_id"));
    line("secret_access_key", text(x_, "secret_access_key"));
    auto endpoint = text(x_, "endpoint_url");
    line("endpoint", !endpoint.empty() ? endpoint : "https://storage.googleapis.com");
    if_given("region", "region");
  }

  void gcs() {
    line("type", "google cloud storage");
    bool any = if_given("service_account_file", "service_account_file");
    any = if_given("service_account_credentials", "service_account_credentials") || any;
    any = if_given("access_token", "access_token") || any;
    if (!any)
      line("anonymous", "true");
    line("env_auth", "false");
  }

  void azure_blob() {
    line("type", "azureblob");
    line("account", text(x_, "account"));
    if_given("endpoint", "endpoint");
    if (if_given("key", "account_key"))
      return;
    auto identity = text(x_, "identity_client_id");
    line("use_msi", identity.empty() ? "false" : "true");
    if (!identity.empty())
      line("msi_client_id", identity);
  }

  void box() {
    line("type", "box");
    for (const auto& field : type_of(x_.kind).fields)
      if (field.is(config_line))
        if_given(field.name, field.name);
      else if (field.name == "box_sub_type" && text(x_, field.name) != field.fallback)
        line(field.name, text(x_, field.name));
  }

  /// Both keys or none.
  bool keys(std::string_view id) {
    if (text(x_, id).empty() || text(x_, "secret_access_key").empty())
      return false;
    line("access_key_id", text(x_, id));
    line("secret_access_key", text(x_, "secret_access_key"));
    return true;
  }

  bool if_given(std::string_view name, std::string_view field) {
    auto value = text(x_, field);
    if (!value.empty())
      line(name, value);
    return !value.empty();
  }

  void line(std::string_view name, std::string_view value) {
    lines_.append(name).append(" = ").append(value).append("\n");
  }

  const mount_entry& x_;
  std::string lines_;
};

std::string_view trimmed(std::string_view line) {
  auto begin = std::min(line.find_first_not_of(" \t\r\v\f"), line.size());
  return line.substr(begin, line.find_last_not_of(" \t\r\v\f") + 1 - begin);
}

/// Where the first section with this header ends, without the blank lines behind it; npos: there is
/// none.
size_t end_of_section(std::string_view config, std::string_view header) {
  size_t end = std::string_view::npos;
  bool inside = false;
  for (size_t at = 0; at < config.size();) {
    auto next = std::min(config.find('\n', at), config.size() - 1) + 1;
    auto line = trimmed(config.substr(at, config.find('\n', at) - at));
    const bool is_header = line.size() > 2 && line.front() == '[' && line.back() == ']';
    if (inside && is_header)
      break;
    inside = inside || line == header;
    if (inside && !line.empty())
      end = std::min(config.find('\n', at), config.size());
    at = next;
  }
  return end;
}

error config_fault(const mount_entry& x, const char* text) {
  return make_error(errc::mount_config_invalid, op::materialize, text)
    .with("type", type_of(x.kind).name);
}

/// The generated lines, in the section of the remote that is there already or in a new one.
result<std::string> config_text(const mount_entry& x, const std::string& remote,
                                const std::optional<std::string>& base) {
  auto header = "[" + remote + "]";
  auto lines = section{x}.lines();
  if (!base)
    return header + "\n" + lines;
  if (base->find_first_not_of(" \t\r\v\f\n") == std::string::npos)
    return unexpected(config_fault(x, "rclone config file is empty"));
  auto end = end_of_section(*base, header);
  if (end == std::string::npos)
    return unexpected(
      config_fault(x, "rclone config missing required remote section").with("remote_name", remote));
  auto rest = base->substr(std::min(end + 1, base->size()));
  return base->substr(0, end) + "\n" + lines + rest;
}

// -- commands
// ---------------------------------------------------------------------------------------

argv shell(std::string script) {
  return {"sh", "-lc", std::move(script)};
}

std::string joined(const argv& words) {
  std::string out;
  for (const auto& word : words)
    out.append(out.empty() ? "" : " ").append(shell_quote(word));
  return out;
}

void append(argv& to, const argv& more) {
  to.insert(to.end(), more.begin(), more.end());
}

class commands {
public:
  commands(const mount_entry& x, const rclone_place& place, std::string remote,
           const rclone_mount& plan)
    : x_(x), pattern_(x.strategy.pattern.rclone), place_(place), remote_(std::move(remote)),
      folder_(plan.folder), config_(place.root + "/" + plan.config_path) {}

  argv mount() const {
    argv out{"rclone", "mount", source(), place_.target};
    if (x_.read_only)
      out.push_back("--read-only");
    append(out, {"--config", config_, "--daemon"});
    append(out, pattern_.extra_args);
    return out;
  }

  /// Goes on in the background.
  argv serve_nfs() const {
    argv out{"rclone", "serve", "nfs", source(), "--addr", address(), "--config", config_};
    if (x_.read_only)
      out.push_back("--read-only");
    append(out, pattern_.extra_args);
    return shell(joined(out) + " &");
  }

  argv mount_nfs() const {
    auto address = this->address();
    auto colon = address.rfind(':');
    auto host = address.substr(0, colon);
    auto port = colon == std::string::npos ? "2049" : address.substr(colon + 1);
    if (host == "0.0.0.0" || host == "::")
      host = "127.0.0.1";
    std::string options;
    for (const auto& option : pattern_.nfs_mount_options.value_or(argv{}))
      options.append(options.empty() ? "" : ",").append(option);
    if (options.empty())
      options = "vers=4.1,tcp,port=" + port + ",soft,timeo=50,retrans=1";
    auto client = joined({"mount", "-v", "-t", "nfs", "-o", options}) + " " + shell_quote(host)
                  + ":/ " + shell_quote(place_.target);
    return shell("for i in 1 2 3; do " + std::string{place_.has_timeout ? "timeout 10s " : ""}
                 + client + " && exit 0; sleep 1; done; exit 1");
  }

  argv unmount() const {
    auto target = shell_quote(place_.target);
    if (pattern_.mode == "nfs")
      return shell("umount " + target + " >/dev/null 2>&1 || true");
    return shell("fusermount3 -u " + target + " || umount " + target);
  }

  /// Of this mount only: where sandboxes see each other's processes, others may have a remote of
  /// that name.
  argv end_rclone() const {
    return shell("pkill -f -- "
                 + shell_quote("rclone (mount|serve nfs) " + remote_ + ":.*" + folder_ + "/")
                 + " >/dev/null 2>&1 || true");
  }

private:
  std::string source() const {
    return remote_ + ":" + remote_path(x_);
  }

  std::string address() const {
    auto given = pattern_.nfs_addr.value_or("");
    return given.empty() ? "127.0.0.1:2049" : given;
  }

  const mount_entry& x_;
  const rclone_pattern& pattern_;
  const rclone_place& place_;
  std::string remote_;
  std::string folder_; ///< of the configuration, which is named after the session
  std::string config_; ///< absolute
};

} // namespace

result<rclone_mount> plan_rclone_mount(const mount_entry& x, const rclone_place& place) {
  const auto& pattern = x.strategy.pattern.rclone;
  auto hex = place.session_id;
  std::erase(hex, '-');
  auto remote = pattern.remote_name.value_or("");
  // It becomes a file name, a line and a pattern.
  if (!is_safe_remote_name(remote))
    return unexpected(config_fault(x, "rclone remote_name must be a plain name"));
  if (remote.empty())
    remote.append("sandbox_").append(remote_kind(x)).append("_").append(hex);
  for (const auto& field : type_of(x.kind).fields)
    if (field.is(config_line) && text(x, field.name).find_first_of("\r\n") != std::string::npos)
      return unexpected(
        config_fault(x, "cloud mount configuration values must not contain line breaks"));

  rclone_mount out;
  out.folder = std::string{rclone_config_folder} + "/" + hex;
  out.config_path = out.folder + "/" + remote + ".conf";
  auto config = config_text(x, remote, place.base_config);
  if (!config)
    return unexpected(std::move(config.error()));
  out.config = std::move(*config);

  const commands run{x, place, remote, out};
  if (pattern.mode == "nfs") {
    out.probe = shell("/usr/local/bin/rclone serve nfs --help >/dev/null 2>&1"
                      " || rclone serve nfs --help >/dev/null 2>&1");
    out.attach = {run.serve_nfs(), run.mount_nfs()};
  } else {
    out.attach = {run.mount()};
  }
  out.detach = {run.unmount(), run.end_rclone()};
  return out;
}

} // namespace troupe::workspace
