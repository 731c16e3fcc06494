#include "backends/unix_local/argv.hpp"

#include "workspace/path_policy.hpp"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace troupe::backends {

namespace {

/// One part stands as it is; of several, each is one word of the shell.
std::string join_for_shell(const std::vector<std::string>& parts) {
  if (parts.size() == 1)
    return parts.front();
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0)
      out += ' ';
    out += workspace::shell_quote(parts[i]);
  }
  return out;
}

/// Names in a path; empty ones and "." mean nothing.
std::vector<std::string_view> components(std::string_view path) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < path.size();) {
    auto end = std::min(path.find('/', at), path.size());
    if (auto name = path.substr(at, end - at); !name.empty() && name != ".")
      out.push_back(name);
    at = end + 1;
  }
  return out;
}

/// `path` relative to `root`, compared by names and not resolved; nullopt if it is not below it.
/// Exactly two leading slashes have a meaning of their own.
std::optional<std::string> relative_to(std::string_view path, std::string_view root) {
  if (path.empty() || path.front() != '/' || (path.starts_with("//") && !path.starts_with("///")))
    return std::nullopt;
  auto names = components(path);
  auto above = components(root);
  if (names.size() < above.size() || !std::equal(above.begin(), above.end(), names.begin()))
    return std::nullopt;
  std::string out;
  for (size_t i = above.size(); i < names.size(); ++i)
    (out += out.empty() ? "" : "/") += names[i];
  return out.empty() ? "." : out;
}

} // namespace

std::vector<std::string> prepare_argv(const exec_request& request, const std::string& shell_flag) {
  std::vector<std::string> argv;
  if (request.user && !request.user->empty())
    argv = {"sudo", "-u", *request.user, "--"};
  if (request.shell == shell_mode::on) {
    argv.insert(argv.end(), {"sh", shell_flag, join_for_shell(request.command)});
  } else if (request.shell == shell_mode::prefix && !request.shell_prefix.empty()) {
    argv.insert(argv.end(), request.shell_prefix.begin(), request.shell_prefix.end());
    argv.push_back(join_for_shell(request.command));
  } else {
    argv.insert(argv.end(), request.command.begin(), request.command.end());
  }
  return argv;
}

local_process place_argv(std::vector<std::string> argv, const std::string& root,
                         const std::string& directory) {
  if (directory == root)
    for (size_t i = 1; i < argv.size(); ++i)
      if (auto relative = relative_to(argv[i], root))
        argv[i] = std::move(*relative);
  if (argv.size() < 3 || argv[0] != "sh" || argv[1] != "-c")
    return {std::move(argv), directory};
  argv[2] = "cd " + workspace::shell_quote(directory) + " && " + argv[2];
  return {std::move(argv), "/"};
}

bool is_allowed(const std::string& name, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    if (pattern.empty() || pattern.back() != '*')
      return pattern == name;
    return name.compare(0, pattern.size() - 1, pattern, 0, pattern.size() - 1) == 0;
  });
}

} // namespace troupe::backends
