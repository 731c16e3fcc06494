#include "backends/cgroups.hpp"

#include "backends/proc.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::backends {

namespace {

using std::chrono::milliseconds;

/// What is in uninterruptible sleep may take its time; the next start sweeps again.
constexpr milliseconds sweep_limit{2000};

/// After the group reports that it is empty, the kernel may hold it for an instant.
constexpr milliseconds retry_pause{5};

unique_fd open_directory(int at, const std::string& path) {
  return unique_fd{::openat(at, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)};
}

void write_file(int dir_fd, const char* name, std::string_view text) {
  unique_fd fd{::openat(dir_fd, name, O_WRONLY | O_CLOEXEC)};
  if (fd)
    (void) !::write(fd.get(), text.data(), text.size());
}

/// The number after `key ` in a file of such lines.
int64_t number_of(const std::string& text, const std::string& key) {
  std::istringstream in{text};
  std::string name;
  int64_t value = 0;
  while (in >> name >> value)
    if (name == key)
      return value;
  return 0;
}

/// Directory of the cgroup (v2) that we are in.
std::optional<std::string> own_cgroup() {
  std::string own;
  std::istringstream groups{read_kernel_file(AT_FDCWD, "/proc/self/cgroup")};
  for (std::string line; std::getline(groups, line);)
    if (line.substr(0, 3) == "0::")
      own = line.substr(3);
  std::istringstream mounts{read_kernel_file(AT_FDCWD, "/proc/self/mountinfo")};
  for (std::string line; !own.empty() && std::getline(mounts, line);) {
    if (line.find(" - cgroup2 ") == std::string::npos)
      continue;
    std::istringstream fields{line};
    std::string skipped;
    std::string root;
    std::string target;
    fields >> skipped >> skipped >> skipped >> root >> target;
    root = root == "/" ? "" : unescape_mount_path(root);
    if (own.compare(0, root.size(), root) == 0 && own.find("/..") == std::string::npos)
      return unescape_mount_path(target) + own.substr(root.size());
  }
  return std::nullopt;
}

std::vector<std::string> subdirectories(int dir_fd) {
  std::vector<std::string> out;
  auto copy = open_directory(dir_fd, ".");
  auto dir = copy ? ::fdopendir(copy.get()) : nullptr;
  if (dir == nullptr)
    return out;
  copy.release();
  while (auto entry = ::readdir(dir))
    if (entry->d_type == DT_DIR && std::string_view{entry->d_name} != "."
        && std::string_view{entry->d_name} != "..")
      out.emplace_back(entry->d_name);
  ::closedir(dir);
  return out;
}

/// Removes a group with those below it. Commands may make some, but not deeper than a path can be.
bool remove_group(int parent_fd, const std::string& name) {
  if (::unlinkat(parent_fd, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT)
    return true;
  if (auto dir = open_directory(parent_fd, name))
    for (const auto& below : subdirectories(dir.get()))
      remove_group(dir.get(), below);
  return ::unlinkat(parent_fd, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT;
}

bool is_empty(int dir_fd) {
  return number_of(read_kernel_file(dir_fd, "cgroup.events"), "populated") == 0;
}

bool wait_until_empty(int dir_fd) {
  auto deadline = std::chrono::steady_clock::now() + sweep_limit;
  unique_fd events{::openat(dir_fd, "cgroup.events", O_RDONLY | O_CLOEXEC)};
  char buffer[256];
  while (!is_empty(dir_fd)) {
    auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
    if (!events || left.count() <= 0)
      return false;
    // Each report has to be read, or the next poll returns at once; re-checked against a lost one.
    (void) !::pread(events.get(), buffer, sizeof buffer, 0);
    pollfd p{events.get(), POLLPRI, 0};
    ::poll(&p, 1, static_cast<int>(std::min<int64_t>(left.count(), 50)));
  }
  return true;
}

/// Lives while a group is being emptied.
struct destruction : std::enable_shared_from_this<destruction> {
  destruction(reactor& r, std::shared_ptr<const cgroup> g, std::function<void()> d)
    : events(r), group(std::move(g)), done(std::move(d)) {}

  void start() {
    if (group->remove()) { // nothing was left in it
      finish();
      return;
    }
    group->kill();
    report.reset(::openat(group->directory()->get(), "cgroup.events", O_RDONLY | O_CLOEXEC));
    if (report)
      watch = events.watch(report.get(), EPOLLPRI,
                           [self = shared_from_this()](uint32_t) { self->check(); });
    check();
  }

  void check() {
    // Read before the state is looked at, so that a change after it makes another report.
    char buffer[256];
    if (report)
      (void) !::pread(report.get(), buffer, sizeof buffer, 0);
    if (group->empty() && group->remove()) {
      finish();
    } else if (group->empty() || !report) {
      events.cancel(retry);
      retry = events.at(reactor::clock::now() + retry_pause,
                        [self = shared_from_this()] { self->check(); });
    }
  }

  void finish() {
    events.cancel(retry);
    if (report)
      events.unwatch(watch);
    report.reset();
    if (auto f = std::exchange(done, nullptr))
      f();
  }

  reactor& events;
  std::shared_ptr<const cgroup> group;
  std::function<void()> done;
  unique_fd report;
  reactor::watch_id watch = 0;
  reactor::timer_id retry = 0;
};

} // namespace

// -- cgroup --------------------------------------------------------------------------------------

cgroup::cgroup(shared_fd parent, std::string name, unique_fd directory)
  : parent_(std::move(parent)), name_(std::move(name)),
    directory_(std::make_shared<const unique_fd>(std::move(directory))) {}

void cgroup::kill() const {
  write_file(directory_->get(), "cgroup.kill", "1");
}

bool cgroup::empty() const {
  return is_empty(directory_->get());
}

bool cgroup::remove() const {
  return remove_group(parent_->get(), name_);
}

session_usage cgroup::usage() const {
  auto text = [this](const char* name) { return read_kernel_file(directory_->get(), name); };
  session_usage out;
  out.cpu_ms = number_of(text("cpu.stat"), "usage_usec") / 1000;
  out.memory_bytes = std::strtoll(text("memory.current").c_str(), nullptr, 10);
  if (auto pids = text("pids.current"); !pids.empty()) {
    out.pids = static_cast<int32_t>(std::strtol(pids.c_str(), nullptr, 10));
  } else {
    auto list = text("cgroup.procs");
    out.pids = static_cast<int32_t>(std::count(list.begin(), list.end(), '\n'));
  }
  return out;
}

// -- cgroup_tree ---------------------------------------------------------------------------------

cgroup_tree::cgroup_tree(const std::string& instance) {
  auto own = own_cgroup();
  if (!own) {
    reason_ = "no cgroup v2 hierarchy that we are in is mounted";
    return;
  }
  path_ = *own + "/troupe-" + instance;
  if (::mkdir(path_.c_str(), 0755) != 0 && errno != EEXIST) {
    reason_ = path_ + ": " + std::strerror(errno);
    return;
  }
  auto directory = open_directory(AT_FDCWD, path_);
  if (!directory || ::faccessat(directory.get(), "cgroup.kill", W_OK, 0) != 0) {
    reason_ = path_ + "/cgroup.kill: " + std::strerror(errno);
    return;
  }
  root_ = std::make_shared<const unique_fd>(std::move(directory));
  sweep();
  // One at a time: a write that names one missing controller enables none. These work only where
  // somebody delegated them to us; without, there are no memory and pids figures.
  for (auto controller : {"+memory", "+pids"})
    write_file(root_->get(), "cgroup.subtree_control", controller);
}

cgroup_tree::~cgroup_tree() {
  if (!root_)
    return;
  sweep();
  ::rmdir(path_.c_str());
}

void cgroup_tree::sweep() {
  for (const auto& name : subdirectories(root_->get())) {
    auto directory = open_directory(root_->get(), name);
    if (!directory)
      continue;
    write_file(directory.get(), "cgroup.kill", "1");
    wait_until_empty(directory.get());
    remove_group(root_->get(), name);
  }
}

result<cgroup> cgroup_tree::make(const std::string& name) {
  auto failed = [&](const std::string& why) {
    return unexpected{make_error(errc::workspace_start_error, op::start,
                                 "cannot make cgroup " + name + ": " + why)};
  };
  if (!root_)
    return failed(reason_);
  if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos)
    return failed("not a name");
  if (::mkdirat(root_->get(), name.c_str(), 0755) != 0)
    return failed(std::strerror(errno));
  auto directory = open_directory(root_->get(), name);
  if (!directory)
    return failed(std::strerror(errno));
  return cgroup{root_, name, std::move(directory)};
}

void destroy(reactor& events, std::shared_ptr<const cgroup> group, std::function<void()> done) {
  std::make_shared<destruction>(events, std::move(group), std::move(done))->start();
}

} // namespace troupe::backends
