#pragma once

#include "backends/command_host.hpp"
#include "backends/isolated/init/protocol.hpp"
#include "backends/reactor.hpp"
#include "messages/unique_fd.hpp"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::backends::isolated {

/// What happens to a command that an earlier controller of the sandbox started.
struct orphan_news {
  int32_t pid = 0;                  ///< inside; 0: unknown, it ended before we came
  std::optional<int32_t> exit_code; ///< nullopt: it still runs
  std::string out;                  ///< the end of what it put out meanwhile
  std::string err;
  uint64_t dropped = 0; ///< bytes that init had no room for
};

/// Our end of an init's control socket. Requests are sent by whoever makes them, at once: the way
/// of a command to init passes no other thread. Answers come on the reactor thread.
///
/// Owned by a shared_ptr: the watch holds it too, until init is gone.
class init_link : public command_host, public std::enable_shared_from_this<init_link> {
public:
  /// `terminals`: the directory of the sandbox's devpts. `uid_base` is added to ids inside.
  init_link(reactor& events, unique_fd control, unique_fd terminals, uint32_t uid_base,
            bool mapped);

  /// Before `open`, of a sandbox that was taken over. `told` runs on the reactor thread.
  void watch_orphans(std::function<void(orphan_news)> told) {
    on_orphan_ = std::move(told);
  }

  /// Before `open`. Tells of refused system calls, on the reactor thread.
  void watch_denials(std::function<void(const denied_message&)> told) {
    on_denied_ = std::move(told);
  }

  /// Starts to listen; `on_gone` runs on the reactor thread when init has ended, after everything
  /// that waited for it got its error.
  void open(std::function<void()> on_gone);

  // -- command_host ------------------------------------------------------------------------------

  void start(command_id id, spawn_request request, on_end ended) override;
  void open_process(command_id id, on_process done) override;
  result<pty> open_terminal(uint16_t rows, uint16_t cols, const user_ids& owner) override;

  /// A socket that is connected to `port` of the sandbox's loopback, or about to be.
  void connect(uint16_t port, on_process done);

private:
  struct outgoing {
    std::string bytes;
    std::vector<unique_fd> fds;
  };

  struct running {
    spawn_request request; ///< for errors: its strings only
    on_end ended;
  };

  /// Nothing to be sent any more: init is gone, or too much waits for it.
  bool send(std::string bytes, const std::vector<int>& fds);
  static int send_now(int socket, const std::string& bytes, const std::vector<int>& fds);
  void request(message_type type, uint64_t id, std::string bytes, on_process done);
  void on_ready(uint32_t events);
  void read_answers();
  void flush();
  void on_exited(const exited_message& m);
  void on_reply(const reply_message& m, unique_fd fd);
  void on_orphan(const orphaned_message& m);
  void on_spooled(const spooled_message& m, const unique_fd& fd);
  void on_orphan_end(const exited_message& m);
  void close();

  reactor& events_;
  unique_fd control_;
  unique_fd terminals_;
  uint32_t uid_base_;
  bool mapped_; ///< inside there are ids of its own

  std::mutex mutex_;
  bool gone_ = false;                              ///< guarded
  std::deque<outgoing> queue_;                     ///< guarded; what the socket did not take
  std::unordered_map<uint64_t, running> commands_; ///< guarded
  std::unordered_map<uint64_t, std::deque<on_process>> requests_; ///< guarded

  // -- reactor thread only
  reactor::watch_id watch_ = 0;
  std::function<void()> on_gone_;
  std::function<void(orphan_news)> on_orphan_;
  std::function<void(const denied_message&)> on_denied_;
  std::unordered_map<uint64_t, orphan_news> orphans_;
};

} // namespace troupe::backends::isolated
