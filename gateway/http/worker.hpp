#pragma once

#include <utility> // before Asio: 1.74 forgets it under C++20

#include "gateway/http/server.hpp"
#include "messages/unique_fd.hpp"

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <condition_variable>
#include <ctime>
#include <list>
#include <mutex>
#include <thread>

namespace troupe::gateway {

namespace asio = boost::asio;

using steady_clock = std::chrono::steady_clock;
using executor = asio::io_context::executor_type;
using steady_timer
  = asio::basic_waitable_timer<steady_clock, asio::wait_traits<steady_clock>, executor>;
using connection_list = std::list<std::shared_ptr<connection>>;

/// What all threads of a server share.
struct server_core {
  server_options options;
  handler serve;
  std::atomic<size_t> connections{0};
  std::mutex mutex;
  std::condition_variable none_left; ///< `connections` fell to 0
};

/// Runs a callback that came from outside. One that throws must not take the server down: what it
/// held is released, so that its exchange answers 500.
template <class F, class... Ts>
void call(F&& f, Ts&&... xs) noexcept {
  try {
    f(std::forward<Ts>(xs)...);
  } catch (...) {
  }
}

/// One thread with its own io_context and its connections. A thread each instead of one context for
/// all: no strands, no contended queue. Connections and, through them, exchanges keep it alive.
class worker : public std::enable_shared_from_this<worker> {
public:
  explicit worker(std::shared_ptr<server_core> core);

  void run();

  // -- any thread --------------------------------------------------------------------------------

  /// Queues `task` for the thread; drops it once that has ended.
  template <class F>
  void post(F&& task) {
    std::lock_guard guard{mutex_};
    if (!ended_)
      asio::post(context_, std::forward<F>(task));
  }

  bool on_thread() {
    return context_.get_executor().running_in_this_thread();
  }

  server_core& core() {
    return *core_;
  }

  asio::io_context& context() {
    return context_;
  }

  /// Closes what is left and joins the thread.
  void end();

  // -- on its thread -----------------------------------------------------------------------------

  /// Takes a new connection, see `server_options::max_connections`.
  void adopt(unique_fd socket);

  /// Closes the connection that has waited longest for a whole request; false if none waits.
  bool evict();

  /// Closes waiting connections now and the others after their answer; asks successors to end.
  void begin_stop();

  bool stopping() const {
    return stopping_;
  }

  /// The time for the `Date` field.
  std::string_view date();

  // -- of connections: which of them wait for a whole request ------------------------------------

  void mark_waiting(connection_list::iterator x) {
    waiting_.splice(waiting_.end(), busy_, x);
  }
  void mark_busy(connection_list::iterator x) {
    busy_.splice(busy_.end(), waiting_, x);
  }
  void remove(connection_list& list, connection_list::iterator x);

  connection_list& waiting() {
    return waiting_;
  }
  connection_list& busy() {
    return busy_;
  }

private:
  void arm_tick();
  void on_tick();
  void close_all(const connection_list& list);

  std::shared_ptr<server_core> core_;
  asio::io_context context_{1};
  std::mutex mutex_;
  bool ended_ = false; ///< guarded by `mutex_`
  asio::executor_work_guard<executor> work_{context_.get_executor()};
  /// Deadlines are looked at now and then: a timer per connection would cost more than a request.
  steady_timer tick_{context_};
  bool ticking_ = false;
  bool stopping_ = false;
  connection_list waiting_; ///< those without a whole request, longest first
  connection_list busy_;
  time_t date_time_ = 0;
  char date_[32] = {};
  std::thread thread_;
};

} // namespace troupe::gateway
