#pragma once

#include "messages/error.hpp"

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::backends::egress {

/// An IPv4 or IPv6 address.
struct ip_address {
  bool v6 = false;
  std::array<uint8_t, 16> bytes{}; ///< IPv4: the first four

  bool operator==(const ip_address&) const = default;
};

std::optional<ip_address> parse_address(const std::string& text);
std::optional<ip_address> address_of(const sockaddr* from);
std::string to_string(const ip_address& x);

/// Its length goes to `size`.
sockaddr_storage socket_address(const ip_address& x, uint16_t port, socklen_t& size);

struct address_range {
  ip_address base;
  int bits = 0; ///< of the base that count

  bool contains(const ip_address& x) const;
};

/// "10.0.0.0/8", "fd00::/8", or an address alone.
result<address_range> parse_range(const std::string& text);

/// Why no sandbox may reach this address unless the operator says so: the name of the range that
/// it is in. Empty: it is an ordinary public address.
std::string_view reserved_range(const ip_address& x);

/// Why an address may not be reached; empty: it may. `allowed` are the operator's ranges, `own` the
/// addresses of this machine.
std::string_view why_refused(const ip_address& x, const std::vector<address_range>& allowed,
                             const std::vector<ip_address>& own);

/// (some system calls) The addresses of this machine's interfaces.
std::vector<ip_address> own_addresses();

} // namespace troupe::backends::egress
