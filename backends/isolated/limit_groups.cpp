#include "backends/isolated/limit_groups.hpp"

#include "backends/proc.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>
#include <string_view>

namespace troupe::backends::isolated {

namespace {

constexpr int64_t cpu_period_us = 100'000;

bool write_at(int dir, const std::string& name, const std::string& text) {
  unique_fd fd{::openat(dir, name.c_str(), O_WRONLY | O_CLOEXEC)};
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

/// Our own group of a controller of version 1; empty if it is not mounted as such.
std::string v1_directory(const std::string& controller) {
  auto has = [&](const std::string& list) {
    std::istringstream in{list};
    for (std::string one; std::getline(in, one, ',');)
      if (one == controller)
        return true;
    return false;
  };
  std::string own;
  std::istringstream groups{read_kernel_file(AT_FDCWD, "/proc/self/cgroup")};
  for (std::string line; std::getline(groups, line);) {
    auto a = line.find(':');
    auto b = line.find(':', a + 1);
    if (b != std::string::npos && has(line.substr(a + 1, b - a - 1)))
      own = line.substr(b + 1);
  }
  std::istringstream mounts{read_kernel_file(AT_FDCWD, "/proc/self/mountinfo")};
  for (std::string line; !own.empty() && std::getline(mounts, line);) {
    auto dash = line.find(" - cgroup ");
    if (dash == std::string::npos || !has(line.substr(line.rfind(' ') + 1)))
      continue;
    std::istringstream fields{line};
    std::string skipped;
    std::string root;
    std::string target;
    fields >> skipped >> skipped >> skipped >> root >> target;
    if (root == "/")
      return target + own;
    if (own.compare(0, root.size(), root) == 0)
      return target + own.substr(root.size());
  }
  return {};
}

const std::string& cached_directory(const std::string& controller) {
  static const std::map<std::string, std::string> all{{"memory", v1_directory("memory")},
                                                      {"pids", v1_directory("pids")},
                                                      {"cpu", v1_directory("cpu")}};
  return all.at(controller);
}

error cannot(const std::string& controller, const std::string& why) {
  return make_error(errc::sandbox_config_invalid, op::start,
                    "the wall `" + controller + "` cannot be had: " + why)
    .with("wall", controller)
    .with("cause", why);
}

/// Whether the group of version 2 itself holds limits of this kind.
bool has_controller(int unified, const std::string& controller) {
  return unified >= 0 && ::faccessat(unified, (controller + ".max").c_str(), W_OK, 0) == 0;
}

constexpr struct {
  const char* name;
  std::optional<int64_t> session_limits::*limit;
} controllers[] = {{"memory", &session_limits::memory_bytes},
                   {"pids", &session_limits::pids},
                   {"cpu", &session_limits::cpu_millis}};

struct setting {
  const char* name;
  std::string value;
  bool required;
};

struct limit {
  const char* controller;
  std::vector<setting> v2;
  std::vector<setting> v1;
};

std::vector<limit> wanted(const session_limits& x) {
  std::vector<limit> out;
  if (x.memory_bytes) {
    auto bytes = std::to_string(*x.memory_bytes);
    out.push_back({"memory",
                   {{"memory.max", bytes, true}, {"memory.swap.max", "0", false}},
                   {{"memory.limit_in_bytes", bytes, true},
                    // Both together: without swap accounting there may be swap.
                    {"memory.memsw.limit_in_bytes", bytes, false},
                    {"memory.swappiness", "0", false}}});
  }
  if (x.pids) {
    // With init, which is not the session's.
    auto count = std::to_string(*x.pids + 1);
    out.push_back({"pids", {{"pids.max", count, true}}, {{"pids.max", count, true}}});
  }
  if (x.cpu_millis) {
    auto quota = std::to_string(*x.cpu_millis * cpu_period_us / 1000);
    auto period = std::to_string(cpu_period_us);
    out.push_back({"cpu",
                   {{"cpu.max", quota + " " + period, true}},
                   {{"cpu.cfs_period_us", period, true}, {"cpu.cfs_quota_us", quota, true}}});
  }
  return out;
}

bool apply(int dir, const std::vector<setting>& settings) {
  for (const auto& x : settings)
    if (!write_at(dir, x.name, x.value) && x.required)
      return false;
  return true;
}

void remove_below(const std::string& directory) {
  std::error_code ignored;
  for (const auto& x : std::filesystem::directory_iterator{directory, ignored})
    if (x.is_directory(ignored))
      remove_below(x.path().string());
  ::rmdir(directory.c_str());
}

} // namespace

bool limit_groups::available(const std::string& controller, int unified) {
  const auto& directory = cached_directory(controller);
  return has_controller(unified, controller)
         || (!directory.empty() && ::access(directory.c_str(), W_OK) == 0);
}

result<limit_groups> limit_groups::make(const std::string& name, const session_limits& limits,
                                        int unified, bool every_one) {
  limit_groups out;
  for (const auto& controller : controllers) {
    const auto& parent = cached_directory(controller.name);
    if ((!every_one && !(limits.*controller.limit)) || parent.empty()
        || has_controller(unified, controller.name))
      continue;
    auto path = parent + "/" + name;
    if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
      auto code = errno;
      out.remove();
      return unexpected{cannot(controller.name, path + ": " + std::strerror(code))};
    }
    out.v1_[controller.name] = path;
  }
  if (auto ok = out.set(limits, unified); !ok) {
    out.remove();
    return unexpected{std::move(ok.error())};
  }
  return out;
}

result<void> limit_groups::set(const session_limits& limits, int unified) const {
  for (const auto& x : wanted(limits)) {
    if (has_controller(unified, x.controller)) {
      if (!apply(unified, x.v2))
        return unexpected{
          cannot(x.controller, std::string{x.v2.front().name} + ": " + std::strerror(errno))};
      continue;
    }
    auto path = v1_.find(x.controller);
    if (path == v1_.end())
      return unexpected{
        cannot(x.controller, "neither cgroup v2 nor v1 offers the controller here")};
    unique_fd dir{::open(path->second.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (!dir || !apply(dir.get(), x.v1))
      return unexpected{cannot(x.controller, path->second + ": " + std::strerror(errno))};
  }
  return {};
}

limit_groups limit_groups::find(const std::string& name) {
  limit_groups out;
  for (auto controller : {"memory", "pids", "cpu"})
    if (const auto& parent = cached_directory(controller); !parent.empty())
      if (auto path = parent + "/" + name; ::access(path.c_str(), F_OK) == 0)
        out.v1_[controller] = path;
  return out;
}

result<void> limit_groups::attach(pid_t pid) const {
  for (const auto& [controller, path] : v1_)
    if (!write_at(AT_FDCWD, path + "/cgroup.procs", std::to_string(pid)))
      return unexpected{cannot("limits", path + ": " + std::strerror(errno))};
  return {};
}

void limit_groups::add_usage(session_usage& out) const {
  for (const auto& [controller, path] : v1_) {
    auto number = [&](const char* name) {
      return std::atoll(read_kernel_file(AT_FDCWD, path + "/" + name).c_str());
    };
    if (auto bytes = controller == "memory" ? number("memory.usage_in_bytes") : 0; bytes > 0)
      out.memory_bytes = bytes;
  }
}

limit_groups::hits limit_groups::hits_so_far(int unified) const {
  hits out;
  auto add = [&](int dir, const std::string& file, const char* key, int64_t& to) {
    std::istringstream in{read_kernel_file(dir, file)};
    std::string name;
    for (int64_t value = 0; in >> name >> value;)
      if (name == key)
        to += value;
  };
  for (const auto& [controller, path] : v1_) {
    if (controller == "memory")
      add(AT_FDCWD, path + "/memory.oom_control", "oom_kill", out.memory);
    if (controller == "pids")
      add(AT_FDCWD, path + "/pids.events", "max", out.pids);
  }
  if (unified >= 0) {
    add(unified, "memory.events", "oom_kill", out.memory);
    add(unified, "pids.events", "max", out.pids);
  }
  return out;
}

std::vector<limit_groups::alarm> limit_groups::alarms(int unified) const {
  std::vector<alarm> out;
  auto changes_of = [&](int dir, const std::string& file) {
    unique_fd fd{::openat(dir, file.c_str(), O_RDONLY | O_CLOEXEC)};
    char unused; // until it is read it counts as changed
    if (fd && ::pread(fd.get(), &unused, 1, 0) >= 0)
      out.push_back({std::move(fd), EPOLLPRI});
  };
  for (const auto& [controller, path] : v1_) {
    if (controller != "memory")
      continue;
    // Its files report no change; it writes to an eventfd.
    unique_fd bell{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    unique_fd file{::open((path + "/memory.oom_control").c_str(), O_RDONLY | O_CLOEXEC)};
    if (bell && file
        && write_at(AT_FDCWD, path + "/cgroup.event_control",
                    std::to_string(bell.get()) + " " + std::to_string(file.get())))
      out.push_back({std::move(bell), EPOLLIN});
  }
  if (unified >= 0)
    for (auto file : {"memory.events", "pids.events"})
      changes_of(unified, file);
  return out;
}

bool limit_groups::has_silent() const {
  return v1_.contains("pids");
}

void limit_groups::remove() {
  for (const auto& [controller, path] : v1_)
    remove_below(path);
  v1_.clear();
}

void limit_groups::sweep(const std::string& prefix,
                         const std::function<bool(const std::string& rest)>& keep) {
  for (auto controller : {"memory", "pids", "cpu"}) {
    const auto& parent = cached_directory(controller);
    std::error_code ignored;
    if (parent.empty())
      continue;
    for (const auto& x : std::filesystem::directory_iterator{parent, ignored}) {
      auto name = x.path().filename().string();
      if (name.compare(0, prefix.size(), prefix) != 0 || (keep && keep(name.substr(prefix.size()))))
        continue;
      std::istringstream pids{read_kernel_file(AT_FDCWD, (x.path() / "cgroup.procs").string())};
      for (pid_t pid = 0; pids >> pid;)
        ::kill(pid, SIGKILL);
      remove_below(x.path().string());
    }
  }
}

} // namespace troupe::backends::isolated
