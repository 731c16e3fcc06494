#include "backends/unix_local/unix_local.hpp"

#include "backends/foreign_mounts.hpp"

#include "backends/process_tree.hpp"
#include "backends/unix_local/argv.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>
#include <utility>

namespace troupe::backends {

namespace {

/// When the pool that kills is full.
constexpr std::chrono::milliseconds sweep_retry{10};

std::atomic<uint64_t> last_life{0};

std::string marker(const std::string& session_id) {
  return "TROUPE_SESSION_ID=" + session_id;
}

std::map<std::string, std::string> allowed_environment(const std::vector<std::string>& allowlist) {
  std::map<std::string, std::string> out;
  for (auto entry = ::environ; *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    auto end = text.find('=');
    if (end != std::string_view::npos && is_allowed(std::string{text.substr(0, end)}, allowlist))
      out.emplace(text.substr(0, end), text.substr(end + 1));
  }
  return out;
}

/// The real path of an open directory; the one it was opened by if the kernel cannot say.
std::string path_of(int fd, const std::string& opened_as) {
  std::array<char, PATH_MAX> buffer;
  auto n
    = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), buffer.data(), buffer.size());
  return n > 0 ? std::string{buffer.data(), static_cast<size_t>(n)} : opened_as;
}

error cannot_start(const std::string& path, const error& why) {
  return make_error(errc::workspace_start_error, op::start,
                    "cannot make " + path + ": " + why.message)
    .with("path", path);
}

bool is_directory(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

error invalid(const char* what) {
  return make_error(errc::invalid_request, op::exec, what);
}

} // namespace

/// A life on its way out; it may outlast the sandbox.
struct unix_local_sandbox::ending {
  ending(runner_services s, life x, std::string id, std::function<void()> done)
    : services(s), what(std::move(x)), session_id(std::move(id)), waiting{std::move(done)} {}

  /// False once it is over.
  bool join(std::function<void()> done) {
    std::lock_guard guard{mutex};
    if (!over)
      waiting.push_back(std::move(done));
    return !over;
  }

  void finish() {
    what.runner->close_leftover_pipes();
    std::vector<std::function<void()>> all;
    {
      std::lock_guard guard{mutex};
      over = true;
      all.swap(waiting);
    }
    for (auto& done : all)
      done();
  }

  const runner_services services;
  const life what;
  const std::string session_id;
  std::mutex mutex;
  std::vector<std::function<void()>> waiting; ///< guarded
  bool over = false;                          ///< guarded
};

unix_local_sandbox::unix_local_sandbox(runner_services services, cgroup_tree& cgroups,
                                       sandbox_config config)
  : runner_sandbox(services), cgroups_(cgroups), config_(std::move(config)),
    host_environment_(allowed_environment(config_.env_allowlist)) {}

unix_local_sandbox::~unix_local_sandbox() {
  unix_local_sandbox::shutdown([] {});
}

result<void> unix_local_sandbox::open() {
  auto private_dir = workspace::open_or_make_directory(config_.private_dir, 0700);
  if (!private_dir)
    return unexpected{cannot_start(config_.private_dir, private_dir.error())};
  if (::fchmod(private_dir->get(), 0700) != 0)
    return unexpected{cannot_start(config_.private_dir,
                                   make_error(errc::internal, op::start, std::strerror(errno)))};
  if (auto ok = reopen_root(); !ok)
    return ok;
  std::lock_guard guard{mutex_};
  if (life_.runner)
    return {};
  if (cgroups_.available()) {
    // A new one for each life: the kernel still kills in the one that `shutdown` killed.
    auto group = cgroups_.make(config_.session_id + "-" + std::to_string(++last_life));
    if (!group)
      return unexpected{std::move(group.error())};
    life_.group = std::make_shared<cgroup>(std::move(*group));
  }
  shared_fd directory = life_.group ? life_.group->directory() : nullptr;
  life_.runner = std::make_shared<command_runner>(services_, config_.session_id, directory);
  return {};
}

shared_fd unix_local_sandbox::root() const {
  std::lock_guard guard{mutex_};
  return root_;
}

result<unique_fd> unix_local_sandbox::file_system() const {
  unique_fd top{::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)};
  if (!top)
    return unexpected{make_error(errc::internal, op::read, std::strerror(errno))};
  return top;
}

result<void> unix_local_sandbox::reopen_root() {
  auto opened = workspace::open_or_make_directory(config_.workspace_root, 0755);
  if (!opened)
    return unexpected{cannot_start(config_.workspace_root, opened.error())};
  auto path = path_of(opened->get(), config_.workspace_root);
  std::lock_guard guard{mutex_};
  root_ = std::make_shared<const unique_fd>(std::move(*opened));
  resolved_root_ = std::move(path);
  return {};
}

result<command_spec> unix_local_sandbox::prepare(
  const exec_request& request,
  const std::vector<std::pair<std::string, std::string>>& environment) const {
  if (request.user && !request.user->empty())
    return unexpected{
      make_error(errc::sandbox_config_invalid, op::exec,
                 "unix_local runs commands as the server's own user and cannot take another")
        .with("user", *request.user)};
  if (request.command.empty())
    return unexpected{invalid("the command is empty")};
  for (const auto& [name, value] : request.env)
    if (name.empty() || name.find('=') != std::string::npos)
      return unexpected{invalid("an environment variable has no proper name")};

  std::string root;
  {
    std::lock_guard guard{mutex_};
    root = resolved_root_.empty() ? config_.workspace_root : resolved_root_;
  }
  auto directory = root;
  if (request.cwd && !request.cwd->empty())
    directory = request.cwd->front() == '/' ? *request.cwd : root + "/" + *request.cwd;
  // The spawner would find out too, but not for `sh -c`, which goes there by itself.
  if (!is_directory(directory))
    return unexpected{
      make_error(errc::workspace_root_not_found, op::exec, "workspace root not found: " + directory)
        .with("path", directory)};

  auto process = place_argv(prepare_argv(request, "-c"), root, directory);
  command_spec spec;
  spec.argv = std::move(process.argv);
  spec.cwd = std::move(process.cwd);
  spec.env = environment_of(request, environment);
  spec.stdin_data = request.stdin_data;
  spec.timeout = request.timeout;
  if (request.output_limit > 0)
    spec.output_limit = request.output_limit;
  return spec;
}

result<std::optional<user_ids>>
unix_local_sandbox::file_identity(const std::optional<std::string>& user) const {
  if (user && !user->empty())
    return unexpected{make_error(errc::sandbox_config_invalid, op::exec,
                                 "unix_local works as the server's own user; it cannot act as "
                                 "another")
                        .with("user", *user)};
  return std::optional<user_ids>{};
}

void unix_local_sandbox::connect(uint16_t, std::function<void(result<unique_fd>)> done) {
  services_.events.post([done = std::move(done)] { done(unique_fd{}); });
}

void unix_local_sandbox::shutdown(std::function<void()> done) {
  std::shared_ptr<ending> x;
  {
    std::lock_guard guard{mutex_};
    if (!life_.runner && ending_ && ending_->join(done))
      return;
    if (life_.runner)
      x = ending_
        = std::make_shared<ending>(services_, std::exchange(life_, {}), config_.session_id, done);
  }
  if (!x) {
    services_.events.post(std::move(done));
    return;
  }
  x->what.runner->stop([x] {
    if (x->what.group)
      destroy(x->services.events, x->what.group, [x] { x->finish(); });
    else
      sweep(x);
  });
  // After `stop` has marked them as cancelled, or they would look like commands that were killed.
  if (x->what.group)
    services_.events.post([x] {
      if (!x->what.group->remove())
        x->what.group->kill();
    });
}

/// Without a cgroup: finds what is left by its marks.
void unix_local_sandbox::sweep(const std::shared_ptr<ending>& x) {
  auto job = [x] {
    auto& sessions = *x->services.sessions;
    kill_marked(marker(x->session_id), sessions.sessions_of(x->session_id));
    sessions.forget(x->session_id);
    x->services.events.post([x] { x->finish(); });
  };
  if (!x->services.kills.try_submit(x->session_id, job))
    x->services.events.at(reactor::clock::now() + sweep_retry, [x] { sweep(x); });
}

result<void> unix_local_sandbox::remove() {
  {
    // The last descriptor of a removed directory frees its blocks when it is closed: here, where
    // that may take time.
    std::lock_guard guard{mutex_};
    root_.reset();
  }
  auto removed = workspace::remove_tree_at(config_.private_dir);
  if (!removed && detach_helper_mounts(config_.private_dir)) // whose helper was killed
    removed = workspace::remove_tree_at(config_.private_dir);
  if (!config_.workspace_root.starts_with(config_.private_dir + "/"))
    if (auto ok = detach_helper_mounts(config_.workspace_root); !ok && removed)
      removed = std::move(ok);
  return removed;
}

session_usage unix_local_sandbox::usage() const {
  auto group = current().group;
  return group ? group->usage() : session_usage{};
}

std::vector<wall> unix_local_sandbox::walls() const {
  return {{"isolation", false, "unix_local runs commands as the server's own user, unconfined"}};
}

unix_local_sandbox::life unix_local_sandbox::current() const {
  std::lock_guard guard{mutex_};
  return life_;
}

std::vector<std::string> unix_local_sandbox::environment_of(
  const exec_request& request,
  const std::vector<std::pair<std::string, std::string>>& environment) const {
  auto variables = host_environment_;
  variables.emplace("PATH", default_path);
  for (const auto& [name, value] : environment)
    variables[name] = value;
  variables["HOME"] = config_.workspace_root;
  for (const auto& [name, value] : request.env)
    variables[name] = value;
  variables.erase("TROUPE_SESSION_ID");
  std::vector<std::string> out{marker(config_.session_id)};
  for (const auto& [name, value] : variables)
    out.emplace_back(name).append("=").append(value);
  return out;
}

} // namespace troupe::backends
