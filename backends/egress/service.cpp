#include "backends/egress/service.hpp"

#include <netdb.h>
#include <resolv.h>

#include <memory>
#include <utility>

namespace troupe::backends::egress {

namespace {

constexpr size_t resolver_threads = 4;
constexpr size_t max_lookups = 256;
constexpr size_t max_addresses = 16;

/// A resolver's own patience, up to 30 s, would hold a thread too long, and the end of the process.
void be_impatient() {
  static thread_local const bool done = [] {
    ::res_init();
    _res.retrans = 2;
    _res.retry = 2;
    return true;
  }();
  (void) done;
}

std::vector<ip_address> look_up(const std::string& host) {
  if (auto address = parse_address(host))
    return {*address};
  be_impatient();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  std::vector<ip_address> out;
  // With a dot at its end it is a whole name: the search list of the host is none of its business.
  // One label is a name of the host's own files, if at all.
  auto name = host.find('.') == std::string::npos ? host : host + ".";
  if (::getaddrinfo(name.c_str(), nullptr, &hints, &list) != 0)
    return out;
  for (auto* at = list; at != nullptr && out.size() < max_addresses; at = at->ai_next)
    if (auto address = address_of(at->ai_addr))
      out.push_back(*address);
  ::freeaddrinfo(list);
  return out;
}

} // namespace

service::service(options opts)
  : options_([&] {
      if (!opts.resolve)
        opts.resolve = look_up;
      return std::move(opts);
    }()),
    pool_({.name = "resolver", .threads = resolver_threads, .capacity = max_lookups}) {}

service::~service() {
  pool_.stop(); // what it still says is for the reactor, which goes after it
}

bool service::resolve(const std::string& tenant, std::string host,
                      std::function<void(resolution)> done) {
  return pool_.try_submit(tenant, [this, host = std::move(host), done = std::move(done)] {
    resolution out;
    auto own = own_addresses();
    for (const auto& address : options_.resolve(host)) {
      auto why = why_refused(address, options_.allowed, own);
      if (why.empty()) {
        out.reachable.push_back(address);
      } else if (out.refused.empty()) {
        out.refused = why;
        out.refused_address = address;
      }
    }
    reactor_.post([done, out = std::move(out)] { done(out); });
  });
}

bool service::admit() {
  if (connections_.fetch_add(1) < options_.connections)
    return true;
  --connections_;
  return false;
}

void service::release() {
  --connections_;
}

} // namespace troupe::backends::egress
