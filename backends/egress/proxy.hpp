#pragma once

#include "backends/egress/rules.hpp"
#include "backends/egress/service.hpp"
#include "messages/unique_fd.hpp"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace troupe::backends::egress {

/// What a proxy decided, and how often since it last said so.
struct decision {
  std::string host;
  uint16_t port = 0;
  bool allowed = false;
  std::string reason;  ///< "listed", or why not
  std::string address; ///< what the name meant, if it came to that
  uint64_t count = 1;
};

/// The proxy of one sandbox: takes connections from a listening socket inside, and connects to
/// what the rules allow. CONNECT, and plain HTTP with one request a connection.
///
/// Owned by a shared_ptr: its watches hold it too, until `stop`.
class proxy : public std::enable_shared_from_this<proxy> {
public:
  /// Runs on the service's reactor thread. The same decision comes once in `repeat_time`, with a
  /// count.
  using on_decision = std::function<void(decision)>;

  /// `name` is for the fairness of look-ups. `listener` is non-blocking from here on.
  proxy(service& shared, std::string name, std::vector<rule> rules, unique_fd listener,
        on_decision decided);
  ~proxy();

  void start();

  /// Closes everything. Any thread; nothing is decided after it has taken effect.
  void stop();

private:
  class connection;
  using decision_key = std::tuple<std::string, uint16_t, bool, std::string>;

  // -- reactor thread only -----------------------------------------------------------------------

  void accept();
  void pause(std::chrono::milliseconds time);
  void ended(uint64_t id);
  void tell(decision x);
  void tell_repeated();

  service& shared_;
  const std::string name_;
  const std::vector<rule> rules_;
  unique_fd listener_;
  on_decision decided_;

  reactor::watch_id watch_ = 0;
  reactor::timer_id paused_ = 0;
  reactor::timer_id repeating_ = 0;
  bool stopped_ = false;
  uint64_t next_id_ = 1;
  std::map<uint64_t, std::shared_ptr<connection>> connections_;
  std::map<decision_key, decision> repeated_;
};

} // namespace troupe::backends::egress
