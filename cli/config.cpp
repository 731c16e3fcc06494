#include "cli/config.hpp"

#include "backends/egress/address.hpp"
#include "backends/egress/rules.hpp"
#include "cli/event_sinks.hpp"
#include "cli/snapshot_config.hpp"
#include "gateway/native/object_reader.hpp"
#include "gateway/native/session_json.hpp"
#include "messages/ids.hpp"
#include "messages/json.hpp"
#include "workspace/tree.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

namespace troupe::cli {

namespace {

error file_error(const std::string& path, const char* what) {
  return make_error(errc::invalid_request, op::request,
                    std::string{what} + " " + path + ": "
                      + std::strerror(errno)) // NOLINT(concurrency-mt-unsafe)
    .with("path", path);
}

/// What sandboxes with an allow list may reach at all.
result<void> read_egress(const json& value, backends::isolated_options& to) {
  gateway::object_reader in{value, "isolated.egress"};
  if (auto names = in.texts("names"))
    to.egress_names = std::move(*names);
  to.egress_ranges = in.texts("address_ranges").value_or(to.egress_ranges);
  to.egress_connections = in.integer("connections", 1, 4096).value_or(to.egress_connections);
  if (auto n = in.integer("idle_s", 1, 86'400))
    to.egress_idle_seconds = static_cast<uint32_t>(*n);
  if (auto ok = in.finish(); !ok)
    return ok;
  for (const auto& text : to.egress_ranges)
    if (auto range = backends::egress::parse_range(text); !range)
      return unexpected(std::move(range.error()));
  if (to.egress_names)
    if (auto rules = backends::egress::parse_rules(*to.egress_names); !rules)
      return unexpected(std::move(rules.error()));
  return {};
}

} // namespace

result<std::string> read_text_file(const std::string& path, size_t limit) {
  unique_fd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!fd)
    return unexpected(file_error(path, "cannot open"));
  std::string text;
  char buffer[65536];
  for (;;) {
    auto n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return unexpected(file_error(path, "cannot read"));
    if (n == 0)
      return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > limit)
      return unexpected(make_error(errc::invalid_request, op::request, path + " is too large")
                          .with("path", path)
                          .with("limit", static_cast<int64_t>(limit)));
  }
}

result<void> write_text_file(const std::string& path, const std::string& text) {
  auto beside = path + "." + random_hex(4) + ".tmp";
  unique_fd fd{::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  if (!fd)
    return unexpected(file_error(path, "cannot write"));
  if (workspace::write_all(fd.get(), text.data(), text.size()) < 0 || ::fsync(fd.get()) != 0
      || std::rename(beside.c_str(), path.c_str()) != 0) {
    auto failure = file_error(path, "cannot write");
    ::unlink(beside.c_str());
    return unexpected(std::move(failure));
  }
  return {};
}

bool is_loopback(const std::string& host) {
  in_addr v4{};
  if (::inet_pton(AF_INET, host.c_str(), &v4) == 1)
    return (ntohl(v4.s_addr) >> 24) == 127;
  return host == "::1" || host == "localhost";
}

result<void> parse_listen(const std::string& text, serve_config& out) {
  auto colon = text.rfind(':');
  auto host = text.substr(0, colon == std::string::npos ? 0 : colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  uint16_t port = 0;
  bool valid = colon != std::string::npos && !host.empty();
  if (valid) {
    auto* first = text.data() + colon + 1;
    auto* last = text.data() + text.size();
    auto [end, fault] = std::from_chars(first, last, port);
    valid = fault == std::errc{} && end == last && first != last;
  }
  if (!valid)
    return unexpected(make_error(errc::invalid_request, op::request, "`listen` must be HOST:PORT")
                        .with("listen", text));
  out.host = host;
  out.port = port;
  return {};
}

/// A number of sandboxes with the usual workspace, or of such by the place of the workspace.
void read_warm_pool(gateway::object_reader& in, const json& value,
                    std::map<std::string, uint32_t>& out) {
  constexpr uint32_t most = 1000;
  auto add = [&](const std::string& root, const json& size) {
    if (!size.is_number_integer() || size < 0 || size > most || root.empty() || root[0] != '/')
      in.fail("warm_pool", "a number to 1000, or such by the place of the workspace");
    else if (size > 0)
      out[root] = size.get<uint32_t>();
  };
  if (!value.is_object())
    return add(manifest{}.root, value);
  for (const auto& [root, size] : value.items())
    add(root, size);
}

result<void> read_config(const std::string& path, serve_config& out) {
  auto text = read_text_file(path);
  if (!text)
    return unexpected(std::move(text.error()));
  auto value = parse_json(*text);
  if (!value)
    return unexpected(std::move(value.error().with("file", path)));
  gateway::object_reader in{*value};
  if (auto listen = in.text("listen"))
    if (auto ok = parse_listen(*listen, out); !ok)
      return ok;
  if (auto x = in.text("state_dir"))
    out.node.state_dir = *x;
  if (auto x = in.text("node_id"))
    out.node.node_id = *x;
  if (auto x = in.text("default_backend")) {
    if (auto kind = backend_from_string(*x))
      out.node.default_backend = *kind;
    else
      in.fail("default_backend", "the name of a backend");
  }
  for (const auto& name : in.texts("backends").value_or(std::vector<std::string>{}))
    if (auto kind = backend_from_string(name))
      out.backends.insert(*kind);
    else
      in.fail("backends", "a list of names of backends");
  if (auto* x = in.any("isolated")) {
    gateway::object_reader one{*x, "isolated"};
    auto& to = out.node.isolated;
    to.waive = one.texts("waive").value_or(to.waive);
    for (const auto& name : to.waive)
      if (name != "user_range" && name != "seccomp" && name != "landlock" && name != "cgroup"
          && name != "layers")
        one.fail("waive", "a list of `user_range`, `seccomp`, `landlock`, `cgroup`, `layers`");
    to.root = one.text("root").value_or(to.root);
    to.uid_dir = one.text("uid_dir").value_or(to.uid_dir);
    to.allow_host_network = one.boolean("allow_host_network").value_or(to.allow_host_network);
    if (auto n = one.integer("uid_base", 65'536, 0xc0000000))
      to.uid_base = static_cast<uint32_t>(*n);
    if (auto n = one.integer("grace_s", 0, 86'400))
      to.grace_seconds = static_cast<uint32_t>(*n);
    to.default_pids = one.integer("pids", 1, 1 << 22).value_or(to.default_pids);
    to.default_open_files = one.integer("open_files", 16, 1 << 20).value_or(to.default_open_files);
    to.tmp_bytes = one.integer("tmp_bytes", 4096, int64_t{1} << 50).value_or(to.tmp_bytes);
    to.tmp_inodes = one.integer("tmp_inodes", 16, int64_t{1} << 40).value_or(to.tmp_inodes);
    if (auto* limits = one.any("max_limits"))
      if (auto ok = gateway::read_limits(*limits, backend_kind::isolated, to.max_limits,
                                         "isolated.max_limits");
          !ok)
        return ok;
    if (auto* warm = one.any("warm_pool"))
      read_warm_pool(one, *warm, to.warm);
    if (auto ids = one.text("granted_ids")) {
      if (*ids != "never" && *ids != "auto" && *ids != "required")
        one.fail("granted_ids", "\"never\", \"auto\" or \"required\"");
      out.granted_ids = *ids == "never"      ? granted_ids_mode::never
                        : *ids == "required" ? granted_ids_mode::required
                                             : granted_ids_mode::if_possible;
    }
    if (auto disk = one.text("disk")) {
      if (*disk != "none" && *disk != "image")
        one.fail("disk", "\"none\" or \"image\"");
      to.disk_images = *disk == "image";
    }
    if (auto* egress = one.any("egress"))
      if (auto ok = read_egress(*egress, to); !ok)
        return ok;
    if (auto ok = one.finish(); !ok)
      return ok;
  }
  if (auto x = in.integer("max_sessions", 1, 1'000'000))
    out.node.max_sessions = static_cast<uint32_t>(*x);
  if (auto x = in.integer("max_connections", 1, 1'000'000))
    out.max_connections = static_cast<size_t>(*x);
  if (auto x = in.texts("env_allowlist"))
    out.node.env_allowlist = *x;
  if (auto x = in.texts("local_source_roots"); x && !x->empty()) {
    out.node.local_sources.base_dir = x->front();
    out.node.local_sources.roots = {x->begin() + 1, x->end()};
  }
  if (auto x = in.texts("snapshot_roots"))
    out.snapshot_roots = *x;
  if (auto ok = read_snapshot_config(in, out.node); !ok)
    return ok;
  if (auto x = in.seconds("shutdown_timeout_s"))
    out.shutdown_timeout = std::chrono::ceil<std::chrono::milliseconds>(*x);
  if (auto ok = read_event_sinks(in, out.node.event_sinks, out.node.event_policies); !ok)
    return ok;
  if (auto* keys = in.any("api_keys")) {
    if (!keys->is_array())
      in.fail("api_keys", "a list");
    else
      for (const auto& item : *keys) {
        gateway::object_reader one{item, "api_keys[]"};
        auto key = one.text("key").value_or("");
        auto tenant = one.text("tenant").value_or("");
        if (key.empty())
          one.fail("key", "text, not empty");
        // A tenant's name becomes a folder.
        if (tenant.empty() || tenant.find_first_of("/\\\0") != std::string::npos
            || tenant.front() == '.')
          one.fail("tenant", "text that can be a folder's name");
        if (auto ok = one.finish(); !ok)
          return ok;
        out.keys[key] = tenant;
      }
  }
  return in.finish();
}

} // namespace troupe::cli
