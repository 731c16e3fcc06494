#include "backends/proc.hpp"

#include "messages/unique_fd.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>

namespace troupe::backends {

namespace {

/// Of an environment block; more than the kernel lets an exec have.
constexpr size_t read_limit = 8 * 1024 * 1024;

std::string proc_path(pid_t pid, const char* rest) {
  return "/proc/" + std::to_string(pid) + rest;
}

std::optional<pid_t> to_pid(std::string_view text) {
  pid_t pid = 0;
  auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (status != std::errc{} || end != text.data() + text.size())
    return std::nullopt;
  return pid;
}

/// The numeric names in a directory.
std::vector<pid_t> numeric_entries(const std::string& path) {
  std::vector<pid_t> out;
  std::unique_ptr<DIR, int (*)(DIR*)> dir{::opendir(path.c_str()), ::closedir};
  if (!dir)
    return out;
  while (auto entry = ::readdir(dir.get()))
    if (auto pid = to_pid(entry->d_name))
      out.push_back(*pid);
  return out;
}

} // namespace

std::string read_kernel_file(int dir_fd, const std::string& path) {
  std::string out;
  unique_fd fd{::openat(dir_fd, path.c_str(), O_RDONLY | O_CLOEXEC)};
  std::array<char, 4096> buffer;
  while (fd && out.size() < read_limit) {
    auto n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n <= 0)
      break;
    out.append(buffer.data(), static_cast<size_t>(n));
  }
  return out;
}

std::optional<process_info> read_process(pid_t pid) {
  auto text = read_kernel_file(AT_FDCWD, proc_path(pid, "/stat"));
  auto name_end = text.rfind(')'); // the name before it may hold anything, blanks and ')' included
  if (name_end == std::string::npos)
    return std::nullopt;
  char state = 0;
  int parent = 0;
  int session = 0;
  long threads = 0;
  if (std::sscanf(text.c_str() + name_end + 1,
                  " %c %d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld", &state,
                  &parent, &session, &threads)
      != 4)
    return std::nullopt;
  // A leader that left its threads behind is shown as a zombie although the process runs.
  auto dead = (state == 'Z' || state == 'X') && threads <= 1;
  return process_info{pid, parent, session, dead};
}

std::vector<process_info> all_processes() {
  std::vector<process_info> out;
  for (auto pid : numeric_entries("/proc"))
    if (auto info = read_process(pid))
      out.push_back(*info);
  return out;
}

std::optional<std::vector<pid_t>> children_of(pid_t pid) {
  static const bool listed = ::access("/proc/thread-self/children", R_OK) == 0;
  if (!listed)
    return std::nullopt;
  std::vector<pid_t> out;
  for (auto thread : numeric_entries(proc_path(pid, "/task"))) {
    auto path = proc_path(pid, "/task/") + std::to_string(thread) + "/children";
    auto text = read_kernel_file(AT_FDCWD, path);
    for (size_t at = 0; at < text.size();) {
      auto end = text.find(' ', at);
      if (auto child = to_pid(std::string_view{text}.substr(at, end - at)))
        out.push_back(*child);
      if (end == std::string::npos)
        break;
      at = end + 1;
    }
  }
  return out;
}

bool started_with(pid_t pid, const std::string& assignment) {
  auto block = '\0' + read_kernel_file(AT_FDCWD, proc_path(pid, "/environ")) + '\0';
  return block.find('\0' + assignment + '\0') != std::string::npos;
}

pid_t pid_of(int pidfd) {
  auto text = read_kernel_file(AT_FDCWD, "/proc/self/fdinfo/" + std::to_string(pidfd));
  auto at = text.find("Pid:");
  return at == std::string::npos ? -1 : static_cast<pid_t>(std::atol(text.c_str() + at + 4));
}

std::string unescape_mount_path(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8
                               + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

} // namespace troupe::backends
