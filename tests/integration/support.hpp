#pragma once

#include "actors/node_host.hpp"
#include "messages/ids.hpp"
#include "workspace/tree.hpp"

#include <boost/test/unit_test.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace troupe::tests {

using namespace troupe::actors;

/// What went wrong, for a test's message.
template <class T>
std::string why(const result<T>& x) {
  return x ? "" : x.error().message + " " + x.error().context;
}

/// A whole node on a temporary state directory, with real processes below it.
class node_fixture {
public:
  explicit node_fixture(node_config base = {}) : config_(std::move(base)) {
    BOOST_REQUIRE(::mkdtemp(folder_.data()) != nullptr);
    config_.state_dir = folder_ + "/state";
    config_.restart_backoff_ms = 1;
    boot();
  }

  ~node_fixture() {
    host_.reset();
    BOOST_TEST(workspace::remove_tree_at(folder_).has_value());
  }

  /// As after a death of the process: nothing is stopped, a new node comes up on the same folder.
  void reboot() {
    host_.reset();
    boot();
  }

  node_host& host() {
    return *host_;
  }
  const std::string& folder() const {
    return folder_;
  }

  session_spec spec(bool start = true) {
    session_spec x;
    x.id = make_uuid();
    x.start = start;
    return x;
  }

  result<session_view> create(session_spec x) {
    auto supervisor = host_->supervisor_of(x.id);
    return host_->ask<session_view>(supervisor, create_session{std::move(x)});
  }

  /// A started session; fails the test if it cannot be had.
  std::string make(session_spec x) {
    auto made = create(std::move(x));
    BOOST_REQUIRE_MESSAGE(made.has_value(), why(made));
    return made->record.spec.id;
  }

  std::string make() {
    return make(spec());
  }

  local_session_actor session(const std::string& id) {
    auto found = host_->ask<local_session_actor>(host_->supervisor_of(id), lookup_local{id});
    BOOST_REQUIRE_MESSAGE(found.has_value(), why(found));
    return *found;
  }

  template <class R, class Message>
  result<R> ask(const std::string& id, Message x) {
    return host_->ask<R>(session(id), std::move(x));
  }

  result<exec_result> exec(const std::string& id, const std::string& command,
                           std::optional<std::chrono::nanoseconds> timeout = {}) {
    exec_call call;
    call.call_id = ++calls_;
    call.request.command = {command};
    call.request.timeout = timeout;
    return ask<exec_result>(id, std::move(call));
  }

  /// Output of a command that must succeed.
  std::string output(const std::string& id, const std::string& command) {
    auto x = exec(id, command);
    BOOST_REQUIRE_MESSAGE(x.has_value(), why(x));
    BOOST_TEST(x->exit_code == 0, command << ": " << x->stderr_data);
    return x->stdout_data;
  }

  result<session_view> view(const std::string& id) {
    return host_->ask<session_view>(host_->supervisor_of(id), peek_session{id, "default"});
  }

  result<void> remove(const std::string& id, bool keep_snapshot = false) {
    return host_->ask<void>(host_->supervisor_of(id), remove_session{id, "default", keep_snapshot});
  }

  /// Waits until the session answers again after one of its actors died.
  void wait_until_running(const std::string& id) {
    for (int i = 0; i < 5000; ++i) {
      auto x = host_->ask<session_actor>(host_->supervisor_of(id), lookup_session{id, "default"});
      if (x) {
        auto up = host_->ask<bool>(*x, session_running{});
        if (up && *up)
          return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds{2}); // no event tells of a recovery
    }
    BOOST_FAIL("the session did not come back");
  }

  named_entry file(const std::string& path, const std::string& content) {
    named_entry x;
    x.path = path;
    x.entry.content = content;
    return x;
  }

  static std::string slurp(const std::string& path) {
    std::ifstream in{path};
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }

  /// Processes whose command line holds `marker`.
  static int processes_with(const std::string& marker) {
    int count = 0;
    for (const auto& x : std::filesystem::directory_iterator{"/proc"}) {
      auto text = slurp(x.path().string() + "/cmdline");
      if (text.find(marker) != std::string::npos)
        ++count;
    }
    return count;
  }

private:
  void boot() {
    auto host = node_host::start(config_, [] { std::abort(); });
    BOOST_REQUIRE_MESSAGE(host.has_value(), why(host));
    host_ = std::move(*host);
  }

  std::string folder_ = "/tmp/troupe-node-XXXXXX";
  node_config config_;
  std::unique_ptr<node_host> host_;
  uint64_t calls_ = 0;
};

} // namespace troupe::tests
