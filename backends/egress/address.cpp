#include "backends/egress/address.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace troupe::backends::egress {

namespace {

struct named_range {
  const char* text;
  const char* name;
};

/// The first match names it. What carries an IPv4 address inside is refused whole: where it ends is
/// decided by a router.
constexpr named_range reserved[] = {
  {"169.254.169.254/32", "metadata"},
  {"100.100.100.200/32", "metadata"},
  {"168.63.129.16/32", "metadata"},
  {"192.0.0.192/32", "metadata"},
  {"fd00:ec2::254/128", "metadata"},
  {"0.0.0.0/8", "this_network"},
  {"10.0.0.0/8", "private"},
  {"100.64.0.0/10", "shared"},
  {"127.0.0.0/8", "loopback"},
  {"169.254.0.0/16", "link_local"},
  {"172.16.0.0/12", "private"},
  {"192.0.0.0/24", "protocol"},
  {"192.0.2.0/24", "documentation"},
  {"192.31.196.0/24", "protocol"},
  {"192.52.193.0/24", "protocol"},
  {"192.88.99.0/24", "6to4"},
  {"192.168.0.0/16", "private"},
  {"192.175.48.0/24", "protocol"},
  {"198.18.0.0/15", "benchmark"},
  {"198.51.100.0/24", "documentation"},
  {"203.0.113.0/24", "documentation"},
  {"224.0.0.0/4", "multicast"},
  {"255.255.255.255/32", "broadcast"},
  {"240.0.0.0/4", "reserved"},
  {"::/128", "unspecified"},
  {"::1/128", "loopback"},
  {"::ffff:0:0/96", "ipv4_mapped"},
  {"::/96", "ipv4_compatible"},
  {"::ffff:0:0:0/96", "ipv4_translated"},
  {"64:ff9b::/96", "nat64"},
  {"64:ff9b:1::/48", "nat64"},
  {"100::/64", "discard"},
  {"2001::/32", "teredo"},
  {"2001::/23", "protocol"},
  {"2001:db8::/32", "documentation"},
  {"2002::/16", "6to4"},
  {"3fff::/20", "documentation"},
  {"5f00::/16", "protocol"},
  {"fc00::/7", "private"},
  {"fe80::/10", "link_local"},
  {"fec0::/10", "site_local"},
  {"ff00::/8", "multicast"},
};

struct table_entry {
  address_range range;
  std::string_view name;
};

const std::vector<table_entry>& table() {
  static const std::vector<table_entry> all = [] {
    std::vector<table_entry> out;
    for (const auto& x : reserved)
      out.push_back({parse_range(x.text).value(), x.name});
    return out;
  }();
  return all;
}

} // namespace

std::optional<ip_address> parse_address(const std::string& text) {
  ip_address x;
  if (::inet_pton(AF_INET, text.c_str(), x.bytes.data()) == 1)
    return x;
  x.v6 = true;
  if (::inet_pton(AF_INET6, text.c_str(), x.bytes.data()) == 1)
    return x;
  return std::nullopt;
}

std::optional<ip_address> address_of(const sockaddr* from) {
  ip_address x;
  if (from != nullptr && from->sa_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, from, sizeof in);
    std::memcpy(x.bytes.data(), &in.sin_addr, 4);
    return x;
  }
  if (from != nullptr && from->sa_family == AF_INET6) {
    sockaddr_in6 in{};
    std::memcpy(&in, from, sizeof in);
    x.v6 = true;
    std::memcpy(x.bytes.data(), &in.sin6_addr, 16);
    return x;
  }
  return std::nullopt;
}

std::string to_string(const ip_address& x) {
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(x.v6 ? AF_INET6 : AF_INET, x.bytes.data(), text, sizeof text);
  return text;
}

sockaddr_storage socket_address(const ip_address& x, uint16_t port, socklen_t& size) {
  sockaddr_storage out{};
  if (x.v6) {
    sockaddr_in6 in{};
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(port);
    std::memcpy(&in.sin6_addr, x.bytes.data(), 16);
    std::memcpy(&out, &in, size = sizeof in);
  } else {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    std::memcpy(&in.sin_addr, x.bytes.data(), 4);
    std::memcpy(&out, &in, size = sizeof in);
  }
  return out;
}

bool address_range::contains(const ip_address& x) const {
  if (x.v6 != base.v6)
    return false;
  auto whole = static_cast<size_t>(bits / 8);
  if (!std::equal(x.bytes.begin(), x.bytes.begin() + whole, base.bytes.begin()))
    return false;
  if (bits % 8 == 0)
    return true;
  auto mask = static_cast<uint8_t>(0xff << (8 - bits % 8));
  return (x.bytes[whole] & mask) == (base.bytes[whole] & mask);
}

result<address_range> parse_range(const std::string& text) {
  auto slash = text.find('/');
  auto address = parse_address(text.substr(0, slash));
  int most = address && address->v6 ? 128 : 32;
  int bits = most;
  bool valid = address.has_value();
  if (valid && slash != std::string::npos) {
    auto* last = text.data() + text.size();
    auto [end, fault] = std::from_chars(text.data() + slash + 1, last, bits);
    valid = fault == std::errc{} && end == last && bits >= 0 && bits <= most;
  }
  if (!valid)
    return unexpected{
      make_error(errc::invalid_request, op::network, "`" + text + "` is no range of addresses")
        .with("range", text)};
  return address_range{*address, bits};
}

std::string_view reserved_range(const ip_address& x) {
  for (const auto& entry : table())
    if (entry.range.contains(x))
      return entry.name;
  return {};
}

std::string_view why_refused(const ip_address& x, const std::vector<address_range>& allowed,
                             const std::vector<ip_address>& own) {
  for (const auto& range : allowed)
    if (range.contains(x))
      return {};
  if (auto name = reserved_range(x); !name.empty())
    return name;
  return std::find(own.begin(), own.end(), x) != own.end() ? "this_machine" : "";
}

std::vector<ip_address> own_addresses() {
  std::vector<ip_address> out;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0)
    return out;
  for (auto* at = list; at != nullptr; at = at->ifa_next)
    if (auto x = address_of(at->ifa_addr))
      out.push_back(*x);
  ::freeifaddrs(list);
  return out;
}

} // namespace troupe::backends::egress
