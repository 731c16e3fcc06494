#pragma once

#include "backends/proc.hpp"
#include "backends/runtime.hpp"

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <iterator>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::backends::test {

/// A directory that goes away.
struct temporary_directory {
  temporary_directory() {
    path = (std::filesystem::temp_directory_path() / "troupe-test-XXXXXX").string();
    BOOST_REQUIRE(::mkdtemp(path.data()) != nullptr);
  }
  ~temporary_directory() {
    std::filesystem::remove_all(path);
  }
  std::string path;
};

/// Waits for what nobody reports. False after a time that is long for any machine.
inline bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition())
      return true;
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
  }
  return false;
}

inline bool is_alive(pid_t pid) {
  auto info = read_process(pid);
  return info && !info->dead;
}

inline size_t count_entries(const char* directory) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator{directory},
                                           std::filesystem::directory_iterator{}));
}

inline std::vector<pid_t> pids_in(const std::string& text) {
  std::istringstream in{text};
  return {std::istream_iterator<pid_t>{in}, {}};
}

/// A program without a shell.
inline exec_request plain(std::vector<std::string> command) {
  exec_request out;
  out.command = std::move(command);
  out.shell = shell_mode::off;
  return out;
}

/// Whether the process waits in write(2), to something that is full.
inline bool blocks_in_write(pid_t pid) {
  auto text = read_kernel_file(AT_FDCWD, "/proc/" + std::to_string(pid) + "/syscall");
  return text.substr(0, 6) == "1 0x1 ";
}

/// A name that no other process of these tests uses.
inline std::string unique_instance() {
  static std::atomic<int> last{0};
  return "test-" + std::to_string(::getpid()) + "-" + std::to_string(++last);
}

/// A running command.
struct running {
  command_id id = 0;
  std::future<result<command_exit>> exit;
};

/// A runtime with one open sandbox.
struct sandbox_fixture {
  explicit sandbox_fixture(bool cgroups = true, std::vector<std::string> allowlist = {"PATH"},
                           backend_kind kind = backend_kind::unix_local,
                           const std::function<void(runtime::options&, sandbox_config&)>& adjust
                           = nullptr) {
    runtime::options opts;
    opts.instance = unique_instance();
    opts.cgroups = cgroups;
    opts.isolated.dir = dir.path + "/isolated";
    opts.isolated.uid_dir = dir.path + "/uids";
    config.session_id = "11111111-2222-4333-8444-555555555555";
    config.private_dir = dir.path + "/session";
    config.workspace_root = config.private_dir + "/workspace";
    config.env_allowlist = std::move(allowlist);
    if (adjust)
      adjust(opts, config);
    host = std::make_unique<runtime>(opts);
    auto made = host->make_sandbox(kind, config);
    BOOST_REQUIRE(made);
    box = std::move(*made);
    auto opened = box->open();
    BOOST_REQUIRE_MESSAGE(opened, (opened ? "" : opened.error().message));
  }

  ~sandbox_fixture() {
    shutdown();
  }

  /// What `sh` is given.
  static exec_request script(std::string text) {
    exec_request request;
    request.command = {std::move(text)};
    return request;
  }

  running start(command_spec spec,
                std::function<void(stream_id, std::vector<char>)> on_output = nullptr) {
    auto promise = std::make_shared<std::promise<result<command_exit>>>();
    running out;
    out.exit = promise->get_future();
    command_handlers handlers;
    handlers.on_exit = [promise](result<command_exit> x) { promise->set_value(std::move(x)); };
    handlers.on_output = std::move(on_output);
    out.id = box->exec(std::move(spec), std::move(handlers));
    return out;
  }

  command_spec prepare(const exec_request& request) {
    auto spec = box->prepare(request, {});
    BOOST_REQUIRE_MESSAGE(spec, (spec ? "" : spec.error().message));
    return std::move(*spec);
  }

  result<command_exit> run(const exec_request& request) {
    auto spec = box->prepare(request, {});
    if (!spec)
      return unexpected{spec.error()};
    return start(std::move(*spec)).exit.get();
  }

  command_exit run_script(const std::string& text) {
    auto x = run(script(text));
    BOOST_REQUIRE_MESSAGE(x, (x ? "" : x.error().message));
    return *x;
  }

  void shutdown() {
    std::promise<void> gone;
    box->shutdown([&] { gone.set_value(); });
    gone.get_future().wait();
  }

  std::string in_root(const std::string& name) const {
    return config.workspace_root + "/" + name;
  }

  bool exists(const std::string& name) const {
    return std::filesystem::exists(in_root(name));
  }

  temporary_directory dir;
  std::unique_ptr<runtime> host;
  sandbox_config config;
  std::unique_ptr<sandbox> box;
};

/// What a streamed command has said so far.
class transcript {
public:
  std::function<void(stream_id, std::vector<char>)> handler() {
    return [this](stream_id, std::vector<char> data) {
      std::lock_guard guard{mutex_};
      text_.append(data.begin(), data.end());
      largest_ = std::max(largest_, data.size());
    };
  }

  std::string text() const {
    std::lock_guard guard{mutex_};
    return text_;
  }

  size_t size() const {
    return text().size();
  }

  size_t largest_piece() const {
    std::lock_guard guard{mutex_};
    return largest_;
  }

private:
  mutable std::mutex mutex_;
  std::string text_;
  size_t largest_ = 0;
};

} // namespace troupe::backends::test
