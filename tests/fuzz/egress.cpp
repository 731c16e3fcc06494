#include "backends/egress/address.hpp"
#include "backends/egress/request_head.hpp"
#include "backends/egress/rules.hpp"
#include "tests/fuzz/support.hpp"

using namespace troupe;
using namespace troupe::backends::egress;

namespace {

size_t count_of(std::string_view text, std::string_view part) {
  size_t n = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + part.size()))
    ++n;
  return n;
}

void check_host(const std::string& host) {
  auto again = normal_host(host.find(':') == host.npos ? host : "[" + host + "]");
  fuzz::require(again && *again == host, "a host in its normal form has no other");
}

} // namespace

// What a program in a sandbox says to its proxy: a head with what follows it, and the same as an
// entry of an allow list.
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto input = fuzz::as_text(data, size);
  if (auto entry = parse_rule(std::string{input})) {
    fuzz::require(entry->covers(*entry), "an entry covers itself");
    if (!entry->host.empty())
      check_host(entry->host);
  }
  (void) parse_range(std::string{input});

  auto end = input.find("\r\n\r\n");
  if (end == input.npos)
    return 0;
  auto head = parse_head(input.substr(0, end + 4));
  if (!head)
    return 0;
  check_host(head->host);
  fuzz::require(head->port != 0, "a request names a port");
  fuzz::require(head->tunnel == head->forwarded.empty(), "a tunnel forwards no head");
  if (!head->tunnel) {
    const std::string_view text = head->forwarded;
    fuzz::require(text.find("\r\n\r\n") == text.size() - 4, "one head is forwarded, and no more");
    fuzz::require(count_of(text, "\n") == count_of(text, "\r\n"), "lines end in one way");
    fuzz::require(count_of(text, "\r\nHost: ") == 1, "there is one host");
  }
  auto rest = input.substr(end + 4);
  chunk_scanner whole;
  auto taken = whole.take(rest);
  chunk_scanner pieces;
  size_t sum = 0;
  for (size_t i = 0; i < rest.size() && !pieces.ended() && !pieces.failed(); ++i)
    sum += pieces.take(rest.substr(i, 1));
  fuzz::require(taken == sum && whole.ended() == pieces.ended(), "pieces are as good as the whole");
  return 0;
}
