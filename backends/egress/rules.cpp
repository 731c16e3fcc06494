#include "backends/egress/rules.hpp"

#include "backends/egress/address.hpp"

#include <algorithm>
#include <charconv>

namespace troupe::backends::egress {

namespace {

constexpr size_t max_rules = 1000;

bool is_label(std::string_view x) {
  return !x.empty() && x.size() <= 63 && x.front() != '-' && x.back() != '-'
         && std::all_of(x.begin(), x.end(), [](char c) {
              return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
            });
}

/// Such a last label makes resolvers read the whole as an address.
bool is_number(std::string_view x) {
  if (x.substr(0, 2) == "0x")
    return true;
  return std::all_of(x.begin(), x.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool ends_below(std::string_view name, std::string_view domain) {
  return name.size() > domain.size() + 1 && name.substr(name.size() - domain.size()) == domain
         && name[name.size() - domain.size() - 1] == '.';
}

error bad_rule(const std::string& text) {
  return make_error(errc::sandbox_config_invalid, op::network,
                    "`" + text + "` is no \"host:port\" of an allow list")
    .with("entry", text);
}

} // namespace

std::optional<std::string> normal_host(std::string_view text) {
  std::string host{text};
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    auto address = parse_address(host.substr(1, host.size() - 2));
    return address && address->v6 ? std::optional{to_string(*address)} : std::nullopt;
  }
  if (auto address = parse_address(host))
    return to_string(*address);
  if (!host.empty() && host.back() == '.')
    host.pop_back();
  if (host.empty() || host.size() > 253)
    return std::nullopt;
  for (auto& c : host)
    if (c >= 'A' && c <= 'Z')
      c = static_cast<char>(c - 'A' + 'a');
  for (std::string_view rest = host;;) {
    auto dot = rest.find('.');
    auto label = rest.substr(0, dot);
    if (!is_label(label) || (dot == std::string_view::npos && is_number(label)))
      return std::nullopt;
    if (dot == std::string_view::npos)
      return host;
    rest.remove_prefix(dot + 1);
  }
}

bool rule::matches(std::string_view name, uint16_t to) const {
  if (port != 0 && port != to)
    return false;
  return host.empty() || (below ? ends_below(name, host) : name == host);
}

bool rule::covers(const rule& x) const {
  if (port != 0 && port != x.port)
    return false;
  if (host.empty())
    return true;
  if (x.host.empty() || (x.below && !below))
    return false;
  if (x.below && x.host == host)
    return true;
  return below ? ends_below(x.host, host) : x.host == host;
}

result<rule> parse_rule(const std::string& text) {
  auto colon = text.rfind(':');
  if (colon == std::string::npos || text.size() > 512)
    return unexpected{bad_rule(text)};
  rule out;
  auto port = text.substr(colon + 1);
  if (port != "*") {
    auto* last = port.data() + port.size();
    auto [end, fault] = std::from_chars(port.data(), last, out.port);
    if (fault != std::errc{} || end != last || out.port == 0)
      return unexpected{bad_rule(text)};
  }
  auto host = text.substr(0, colon);
  if (host == "*")
    return out;
  out.below = host.substr(0, 2) == "*.";
  // An IPv6 address without brackets has colons of its own, of which one would be taken for ours.
  auto normal = host.find(':') != std::string::npos && host.front() != '['
                  ? std::nullopt
                  : normal_host(out.below ? host.substr(2) : host);
  if (!normal || (out.below && parse_address(*normal)))
    return unexpected{bad_rule(text)};
  out.host = std::move(*normal);
  return out;
}

result<std::vector<rule>> parse_rules(const std::vector<std::string>& texts) {
  if (texts.size() > max_rules)
    return unexpected{
      make_error(errc::sandbox_config_invalid, op::network, "an allow list has too many entries")
        .with("limit", static_cast<int64_t>(max_rules))};
  std::vector<rule> out;
  for (const auto& text : texts) {
    auto one = parse_rule(text);
    if (!one)
      return unexpected{std::move(one.error())};
    out.push_back(std::move(*one));
  }
  return out;
}

result<std::vector<rule>> parse_rules(const std::vector<std::string>& texts,
                                      const std::optional<std::vector<std::string>>& bound) {
  auto rules = parse_rules(texts);
  if (!rules || !bound)
    return rules;
  auto outer = parse_rules(*bound);
  if (!outer)
    return outer;
  for (size_t i = 0; i < rules->size(); ++i)
    if (std::none_of(outer->begin(), outer->end(),
                     [&](const rule& x) { return x.covers((*rules)[i]); }))
      return unexpected{make_error(errc::sandbox_config_invalid, op::network,
                                   "the operator does not allow `" + texts[i] + "`")
                          .with("entry", texts[i])};
  return rules;
}

bool allows(const std::vector<rule>& rules, std::string_view host, uint16_t port) {
  return std::any_of(rules.begin(), rules.end(),
                     [&](const rule& x) { return x.matches(host, port); });
}

} // namespace troupe::backends::egress
