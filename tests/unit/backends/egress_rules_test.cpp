#include "backends/egress/address.hpp"
#include "backends/egress/request_head.hpp"
#include "backends/egress/rules.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::backends::egress;

namespace {

std::string range_of(const std::string& address) {
  auto x = parse_address(address);
  BOOST_REQUIRE_MESSAGE(x, address);
  return std::string{reserved_range(*x)};
}

bool matches(const std::string& entry, const std::string& host, uint16_t port) {
  return parse_rule(entry).value().matches(host, port);
}

bool covers(const std::string& outer, const std::string& inner) {
  return parse_rule(outer).value().covers(parse_rule(inner).value());
}

std::string head(const std::string& first, const std::string& headers = "") {
  return first + "\r\n" + headers + "\r\n";
}

std::string refusal_of(const std::string& text) {
  auto x = parse_head(text);
  return x ? "" : x.error().reason;
}

} // namespace

// -- addresses -----------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(what_is_no_public_address_is_refused) {
  for (auto [address, name] : {
         std::pair{"127.0.0.1", "loopback"},
         {"127.255.255.254", "loopback"},
         {"0.0.0.0", "this_network"},
         {"0.1.2.3", "this_network"},
         {"10.0.0.1", "private"},
         {"172.16.0.1", "private"},
         {"172.31.255.255", "private"},
         {"192.168.1.1", "private"},
         {"169.254.1.1", "link_local"},
         {"169.254.169.254", "metadata"},
         {"168.63.129.16", "metadata"},
         {"100.100.100.200", "metadata"},
         {"100.64.0.1", "shared"},
         {"100.127.255.255", "shared"},
         {"198.18.0.1", "benchmark"},
         {"224.0.0.1", "multicast"},
         {"239.255.255.255", "multicast"},
         {"240.0.0.1", "reserved"},
         {"255.255.255.255", "broadcast"},
         {"::", "unspecified"},
         {"::1", "loopback"},
         {"::ffff:127.0.0.1", "ipv4_mapped"},
         {"::ffff:8.8.8.8", "ipv4_mapped"},
         {"::127.0.0.1", "ipv4_compatible"},
         {"64:ff9b::7f00:1", "nat64"},
         {"64:ff9b:1::1", "nat64"},
         {"2002:7f00:1::", "6to4"},
         {"2001:0:1::", "teredo"},
         {"fc00::1", "private"},
         {"fdff::1", "private"},
         {"fd00:ec2::254", "metadata"},
         {"fe80::1", "link_local"},
         {"febf::1", "link_local"},
         {"fec0::1", "site_local"},
         {"ff02::1", "multicast"},
       })
    BOOST_TEST(range_of(address) == name, address);
}

BOOST_AUTO_TEST_CASE(public_addresses_are_in_no_range) {
  for (auto address :
       {"8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
        "192.167.255.255", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "2a00::1"})
    BOOST_TEST(range_of(address) == "", address);
}

BOOST_AUTO_TEST_CASE(the_operator_s_ranges_are_exceptions_and_this_machine_is_none) {
  auto address = [](const char* text) { return parse_address(text).value(); };
  std::vector<address_range> allowed{parse_range("10.1.0.0/16").value()};
  std::vector<ip_address> own{address("8.8.4.4"), address("10.1.2.3")};
  BOOST_TEST(why_refused(address("10.1.255.1"), allowed, own) == "");
  BOOST_TEST(why_refused(address("10.2.0.1"), allowed, own) == "private");
  BOOST_TEST(why_refused(address("8.8.4.4"), allowed, own) == "this_machine");
  BOOST_TEST(why_refused(address("8.8.8.8"), allowed, own) == "");
  // A range of IPv4 says nothing of what carries such an address inside.
  BOOST_TEST(why_refused(address("::ffff:10.1.0.1"), allowed, own) == "ipv4_mapped");
}

BOOST_AUTO_TEST_CASE(ranges_are_read_strictly) {
  for (auto text : {"10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0/8", "::/129", "", "/8",
                    "10.0.0.0/8x", "example.com/8"})
    BOOST_TEST(!parse_range(text), text);
  BOOST_TEST(parse_range("fd00::/12").value().contains(parse_address("fd0f::1").value()));
  BOOST_TEST(!parse_range("fd00::/12").value().contains(parse_address("fd10::1").value()));
  BOOST_TEST(parse_range("0.0.0.0/0").value().contains(parse_address("9.9.9.9").value()));
  BOOST_TEST(!parse_range("0.0.0.0/0").value().contains(parse_address("::1").value()));
}

// -- names ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(hosts_have_one_form) {
  BOOST_TEST(normal_host("Example.COM.").value() == "example.com");
  BOOST_TEST(normal_host("[2001:DB8:0::1]").value() == "2001:db8::1");
  BOOST_TEST(normal_host("8.8.8.8").value() == "8.8.8.8");
  for (auto text : {"", ".", "a..b", "-a.com", "a-.com", "a b", "a/b", "a@b", "127.1", "0x7f.1",
                    "2130706433", "0177.0.0.1", "1.2.3.4.5", "a.0x7f", "[127.0.0.1]", "[::1",
                    "ex\xc3\xa4mple.com", "a\n.com"})
    BOOST_TEST(!normal_host(text), text);
  BOOST_TEST(!normal_host(std::string(64, 'a') + ".com"));
  BOOST_TEST(!normal_host(std::string("a\0.com", 6)));
}

BOOST_AUTO_TEST_CASE(rules_match_names_and_ports) {
  BOOST_TEST(matches("example.com:443", "example.com", 443));
  BOOST_TEST(!matches("example.com:443", "example.com", 80));
  BOOST_TEST(!matches("example.com:443", "a.example.com", 443));
  BOOST_TEST(!matches("example.com:443", "badexample.com", 443));
  BOOST_TEST(matches("*.example.com:443", "a.b.example.com", 443));
  BOOST_TEST(!matches("*.example.com:443", "example.com", 443));
  BOOST_TEST(!matches("*.example.com:443", "badexample.com", 443));
  BOOST_TEST(!matches("*.example.com:443", "example.com.evil.org", 443));
  BOOST_TEST(matches("EXAMPLE.com:*", "example.com", 12345));
  BOOST_TEST(matches("*:80", "anything.org", 80));
  BOOST_TEST(matches("[2001:db8::0:1]:443", "2001:db8::1", 443));
  BOOST_TEST(matches("8.8.8.8:53", "8.8.8.8", 53));
}

BOOST_AUTO_TEST_CASE(malformed_rules_are_refused) {
  for (auto text : {"example.com", "example.com:", "example.com:0", "example.com:65536", ":443",
                    "2001:db8::1:443", "*.:443", "*.*.com:443", "a*.com:443", "*.8.8.8.8:53",
                    "http://example.com:80", "example.com:443:1", "user@example.com:443"})
    BOOST_TEST(!parse_rule(text), text);
}

BOOST_AUTO_TEST_CASE(an_operator_s_list_bounds_a_session_s) {
  BOOST_TEST(covers("*.example.com:443", "a.example.com:443"));
  BOOST_TEST(covers("*.example.com:*", "*.a.example.com:443"));
  BOOST_TEST(covers("*.example.com:443", "*.example.com:443"));
  BOOST_TEST(covers("*:*", "*:*"));
  BOOST_TEST(!covers("*.example.com:443", "example.com:443"));
  BOOST_TEST(!covers("*.example.com:443", "a.example.com:*"));
  BOOST_TEST(!covers("a.example.com:443", "*.example.com:443"));
  BOOST_TEST(!covers("example.com:443", "*.example.com:443"));
  BOOST_TEST(!covers("*.example.com:443", "*:443"));
  std::optional<std::vector<std::string>> bound{{"*.example.com:443"}};
  BOOST_TEST(parse_rules({"a.example.com:443"}, bound).has_value());
  BOOST_TEST(!parse_rules({"a.example.com:443", "b.org:443"}, bound));
  BOOST_TEST(!parse_rules({"a.example.com:443"}, std::optional{std::vector<std::string>{}}));
  BOOST_TEST(parse_rules({"b.org:443"}, std::nullopt).has_value());
}

// -- requests ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_tunnel_names_host_and_port) {
  auto x = parse_head(head("CONNECT Example.com:443 HTTP/1.1", "Host: other.org\r\n"));
  BOOST_REQUIRE(x);
  BOOST_TEST(x->tunnel);
  BOOST_TEST(x->host == "example.com");
  BOOST_TEST(x->port == 443);
  for (auto target : {"example.com", "example.com:", "example.com:0", "example.com:99999", ":443",
                      "::1:443", "a@b:443", "127.1:443"})
    BOOST_TEST(refusal_of(head("CONNECT " + std::string{target} + " HTTP/1.1")) == "bad_host",
               target);
}

BOOST_AUTO_TEST_CASE(a_plain_request_is_forwarded_without_what_is_for_the_proxy) {
  auto x = parse_head(head("GET http://example.com:8080/a?b#c HTTP/1.1",
                           "Host: evil.org\r\nProxy-Authorization: secret\r\nAccept: */*\r\n"
                           "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\n"));
  BOOST_REQUIRE(x);
  BOOST_TEST(x->host == "example.com");
  BOOST_TEST(x->port == 8080);
  BOOST_TEST(x->forwarded
             == "GET /a?b HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\n"
                "Connection: close\r\n\r\n");
  BOOST_TEST(parse_head(head("GET http://example.com?x HTTP/1.0"))->forwarded.substr(0, 10)
             == "GET /?x HT");
}

BOOST_AUTO_TEST_CASE(what_can_be_read_in_two_ways_is_refused) {
  const std::string get = "GET http://example.com/ HTTP/1.1";
  BOOST_TEST(refusal_of(head(get, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"))
             == "ambiguous_length");
  BOOST_TEST(refusal_of(head(get, "Content-Length: 1\r\nContent-Length: 2\r\n"))
             == "bad_content_length");
  BOOST_TEST(refusal_of(head(get, "Content-Length: +1\r\n")) == "bad_content_length");
  BOOST_TEST(refusal_of(head(get, "Transfer-Encoding: gzip, chunked\r\n"))
             == "unknown_transfer_encoding");
  BOOST_TEST(refusal_of(head(get, "X : y\r\n")) == "bad_header");
  BOOST_TEST(refusal_of(head(get, "X: y\r\n folded\r\n")) == "bad_header");
  BOOST_TEST(refusal_of(head(get, "X: a\nHost: evil.org\r\n")) == "bad_header");
  BOOST_TEST(refusal_of(head(get, "X: a\rb\r\n")) == "bad_header");
  BOOST_TEST(refusal_of(head("GET http://a.org@example.com/ HTTP/1.1")) == "bad_host");
  BOOST_TEST(refusal_of(head("GET / HTTP/1.1", "Host: example.com\r\n")) == "not_for_a_proxy");
  BOOST_TEST(refusal_of(head("GET https://example.com/ HTTP/1.1")) == "not_for_a_proxy");
  BOOST_TEST(refusal_of(head("GET http://example.com/ HTTP/2.0")) == "bad_request");
  BOOST_TEST(refusal_of(head("GET http://example.com/ x HTTP/1.1")) == "bad_request");
  BOOST_TEST(refusal_of("GET http://example.com/ HTTP/1.1\n\n") == "bad_request");
}

BOOST_AUTO_TEST_CASE(a_chunked_body_ends_where_it_ends) {
  const std::string body = "5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
  const std::string next = "GET / HTTP/1.1\r\n\r\n";
  for (size_t step : {size_t{1}, size_t{2}, size_t{7}, size_t{1000}}) {
    chunk_scanner scanner;
    auto all = body + next;
    size_t taken = 0;
    for (size_t at = 0; at < all.size() && !scanner.ended(); at += step)
      taken += scanner.take(std::string_view{all}.substr(at, step));
    BOOST_TEST(scanner.ended());
    BOOST_TEST(taken == body.size());
  }
  for (auto bad : {"x\r\n", "\r\n", "5\nhello", "5\r\nhelloXX", "fffffffffffffffff\r\n"}) {
    chunk_scanner scanner;
    scanner.take(bad);
    BOOST_TEST(scanner.failed(), bad);
  }
}
