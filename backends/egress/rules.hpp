#pragma once

#include "messages/error.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::backends::egress {

/// A host as it is compared: a name in lower case without a dot at its end, or an address in its
/// shortest form, without brackets. nullopt: neither; also for what a resolver takes for an address
/// though it does not look like one ("127.1", "0x7f000001").
std::optional<std::string> normal_host(std::string_view text);

/// One entry of an allow list: "example.com:443", "*.example.com:443" (what is below, not the name
/// itself), "[2001:db8::1]:443"; `*` for any port, or for any host.
struct rule {
  std::string host; ///< empty: any
  bool below = false;
  uint16_t port = 0; ///< 0: any

  bool matches(std::string_view name, uint16_t to) const;
  /// Whether everything that `x` allows is allowed by this one.
  bool covers(const rule& x) const;
};

result<rule> parse_rule(const std::string& text);
result<std::vector<rule>> parse_rules(const std::vector<std::string>& texts);

/// The same, of a list that an operator bounds: an entry that none of `bound` covers is an error.
result<std::vector<rule>> parse_rules(const std::vector<std::string>& texts,
                                      const std::optional<std::vector<std::string>>& bound);

bool allows(const std::vector<rule>& rules, std::string_view host, uint16_t port);

} // namespace troupe::backends::egress
