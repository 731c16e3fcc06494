#pragma once

#include "backends/egress/address.hpp"
#include "backends/reactor.hpp"
#include "backends/thread_pool.hpp"

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace troupe::backends::egress {

/// What one sandbox's proxy may cost.
struct proxy_limits {
  size_t connections = 64; ///< at once; more wait in the kernel's queue
  size_t head_bytes = 16 * 1024;
  size_t buffer_bytes = 64 * 1024; ///< of each direction of a connection
  std::chrono::milliseconds head_time{10'000};
  std::chrono::milliseconds connect_time{20'000}; ///< with the look-up of the name
  std::chrono::milliseconds idle_time{300'000};
};

/// What the proxies of a process share: a thread that carries bytes, so that a download slows no
/// command, and a few that wait for names to be resolved.
class service {
public:
  /// Blocks; an empty list: there is no such name.
  using resolver = std::function<std::vector<ip_address>(const std::string& host)>;

  struct options {
    std::vector<address_range> allowed; ///< the operator's exceptions from `reserved_range`
    proxy_limits limits;
    size_t connections = 8192; ///< of all proxies together
    resolver resolve;          ///< unset: the system's
  };

  /// What a host name means, and which of it may be reached.
  struct resolution {
    std::vector<ip_address> reachable;
    std::string refused; ///< why the first of the others may not be reached
    ip_address refused_address;
  };

  explicit service(options opts);
  ~service();

  service(const service&) = delete;
  service& operator=(const service&) = delete;

  reactor& events() {
    return reactor_;
  }
  const proxy_limits& limits() const {
    return options_.limits;
  }

  /// False if too many look-ups wait already. `done` runs on the reactor thread.
  bool resolve(const std::string& tenant, std::string host, std::function<void(resolution)> done);

  /// Takes one of the connections of all; gives it back.
  bool admit();
  void release();

private:
  const options options_;
  std::atomic<size_t> connections_{0};
  thread_pool pool_;
  reactor reactor_;
};

} // namespace troupe::backends::egress
