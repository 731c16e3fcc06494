#include "backends/egress/request_head.hpp"

#include "backends/egress/rules.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

namespace troupe::backends::egress {

namespace {

using failure = tl::unexpected<refusal>;

failure refuse(int status, std::string reason) {
  return failure{refusal{status, std::move(reason)}};
}

bool is_token(std::string_view x) {
  constexpr std::string_view marks = "!#$%&'*+-.^_`|~";
  return !x.empty() && std::all_of(x.begin(), x.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
           || marks.find(c) != std::string_view::npos;
  });
}

std::string lower(std::string_view x) {
  std::string out{x};
  for (auto& c : out)
    if (c >= 'A' && c <= 'Z')
      c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string_view trimmed(std::string_view x) {
  while (!x.empty() && (x.front() == ' ' || x.front() == '\t'))
    x.remove_prefix(1);
  while (!x.empty() && (x.back() == ' ' || x.back() == '\t'))
    x.remove_suffix(1);
  return x;
}

bool has_control(std::string_view x) {
  return std::any_of(x.begin(), x.end(), [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f;
  });
}

/// Splits "host:port"; without a port: `usual`, or none if that is 0.
bool read_authority(std::string_view text, uint16_t usual, request_head& out) {
  auto colon = text.rfind(':');
  if (colon != std::string_view::npos && text.find(']', colon) != std::string_view::npos)
    colon = std::string_view::npos;
  out.port = usual;
  if (colon != std::string_view::npos) {
    auto port = text.substr(colon + 1);
    auto [end, fault] = std::from_chars(port.data(), port.data() + port.size(), out.port);
    if (fault != std::errc{} || end != port.data() + port.size())
      return false;
  }
  auto host = text.substr(0, colon);
  // Only in brackets may a host have colons.
  if (host.find(':') != std::string_view::npos && host.front() != '[')
    return false;
  auto normal = normal_host(host);
  if (!normal || out.port == 0)
    return false;
  out.host = std::move(*normal);
  return true;
}

struct header_line {
  std::string name; ///< lower case
  std::string_view line;
  std::string_view value;
};

/// Hop by hop, or ours to say.
bool is_dropped(const std::string& name, const std::vector<std::string>& by_connection) {
  static const std::vector<std::string> always{"connection",
                                               "keep-alive",
                                               "proxy-connection",
                                               "proxy-authorization",
                                               "proxy-authenticate",
                                               "te",
                                               "upgrade",
                                               "host",
                                               "trailer"};
  return std::find(always.begin(), always.end(), name) != always.end()
         || (name != "transfer-encoding" && name != "content-length"
             && std::find(by_connection.begin(), by_connection.end(), name) != by_connection.end());
}

std::vector<std::string> words_of(std::string_view list) {
  std::vector<std::string> out;
  while (!list.empty()) {
    auto comma = list.find(',');
    out.push_back(lower(trimmed(list.substr(0, comma))));
    list.remove_prefix(comma == std::string_view::npos ? list.size() : comma + 1);
  }
  return out;
}

/// The body's framing; what says two things about it is refused.
std::optional<refusal> read_framing(const std::vector<header_line>& headers, request_head& out) {
  bool has_length = false;
  for (const auto& x : headers) {
    if (x.name == "content-length") {
      auto [end, fault]
        = std::from_chars(x.value.data(), x.value.data() + x.value.size(), out.body);
      if (has_length || fault != std::errc{} || end != x.value.data() + x.value.size())
        return refusal{400, "bad_content_length"};
      has_length = true;
    } else if (x.name == "transfer-encoding") {
      if (out.chunked || lower(x.value) != "chunked")
        return refusal{501, "unknown_transfer_encoding"};
      out.chunked = true;
    }
  }
  if (has_length && out.chunked)
    return refusal{400, "ambiguous_length"};
  return std::nullopt;
}

} // namespace

tl::expected<request_head, refusal> parse_head(std::string_view text) {
  std::vector<std::string_view> lines;
  for (size_t at = 0; at < text.size();) {
    auto end = text.find("\r\n", at);
    if (end == std::string_view::npos)
      return refuse(400, "bad_request");
    lines.push_back(text.substr(at, end - at));
    at = end + 2;
  }
  if (lines.size() < 2 || !lines.back().empty())
    return refuse(400, "bad_request");
  lines.pop_back();

  auto first = lines.front();
  auto a = first.find(' ');
  auto b = first.rfind(' ');
  if (a == std::string_view::npos || a == b || has_control(first))
    return refuse(400, "bad_request");
  auto method = first.substr(0, a);
  auto target = first.substr(a + 1, b - a - 1);
  auto version = first.substr(b + 1);
  if (!is_token(method) || target.empty() || target.find(' ') != std::string_view::npos
      || (version != "HTTP/1.1" && version != "HTTP/1.0"))
    return refuse(400, "bad_request");

  request_head out;
  std::vector<header_line> headers;
  std::vector<std::string> by_connection;
  for (size_t i = 1; i < lines.size(); ++i) {
    auto colon = lines[i].find(':');
    if (colon == std::string_view::npos || !is_token(lines[i].substr(0, colon))
        || has_control(lines[i]))
      return refuse(400, "bad_header");
    headers.push_back(
      {lower(lines[i].substr(0, colon)), lines[i], trimmed(lines[i].substr(colon + 1))});
    if (headers.back().name == "connection")
      for (auto& word : words_of(headers.back().value))
        by_connection.push_back(std::move(word));
  }
  if (method == "CONNECT") {
    out.tunnel = true;
    if (!read_authority(target, 0, out))
      return refuse(400, "bad_host");
    return out;
  }

  constexpr std::string_view scheme = "http://";
  if (lower(target.substr(0, scheme.size())) != scheme)
    return refuse(target.front() == '/' ? 400 : 501, "not_for_a_proxy");
  target.remove_prefix(scheme.size());
  auto path = target.find_first_of("/?#");
  auto authority = target.substr(0, path);
  if (authority.find('@') != std::string_view::npos || !read_authority(authority, 80, out))
    return refuse(400, "bad_host");
  if (auto fault = read_framing(headers, out))
    return failure{std::move(*fault)};

  auto rest = path == std::string_view::npos ? std::string_view{} : target.substr(path);
  rest = rest.substr(0, rest.find('#'));
  out.forwarded = std::string{method} + " ";
  if (rest.empty() || rest.front() != '/')
    out.forwarded += '/';
  out.forwarded.append(rest).append(" HTTP/1.1\r\nHost: ").append(authority).append("\r\n");
  for (const auto& x : headers)
    if (!is_dropped(x.name, by_connection))
      out.forwarded.append(x.line).append("\r\n");
  // One request a connection: another might be for another host.
  out.forwarded += "Connection: close\r\n\r\n";
  return out;
}

// -- chunk_scanner -------------------------------------------------------------------------------

chunk_scanner::state chunk_scanner::step(char c) {
  constexpr unsigned max_skipped = 16 * 1024;
  switch (state_) {
    case state::size: {
      int digit = c >= '0' && c <= '9'   ? c - '0'
                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                         : -1;
      if (digit >= 0 && digits_ < 15) {
        left_ = left_ * 16 + static_cast<uint64_t>(digit);
        ++digits_;
        return state::size;
      }
      if (digits_ == 0)
        return state::bad;
      return c == '\r' ? state::size_end : c == ';' ? state::extension : state::bad;
    }
    case state::extension:
      if (c == '\n' || ++skipped_ > max_skipped)
        return state::bad;
      return c == '\r' ? state::size_end : state::extension;
    case state::size_end:
      digits_ = 0;
      line_empty_ = true;
      return c != '\n' ? state::bad : left_ > 0 ? state::data : state::trailer;
    case state::data_cr: return c == '\r' ? state::data_lf : state::bad;
    case state::data_lf: return c == '\n' ? state::size : state::bad;
    case state::trailer:
      if (++skipped_ > max_skipped)
        return state::bad;
      if (c == '\n') {
        if (line_empty_)
          return state::done;
        line_empty_ = true;
      } else if (c != '\r') {
        line_empty_ = false;
      }
      return state::trailer;
    default: return state_;
  }
}

size_t chunk_scanner::take(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size() && !ended() && !failed()) {
    if (state_ == state::data) {
      auto n = std::min<uint64_t>(left_, bytes.size() - at);
      at += static_cast<size_t>(n);
      left_ -= n;
      if (left_ == 0)
        state_ = state::data_cr;
      continue;
    }
    state_ = step(bytes[at++]);
  }
  return at;
}

} // namespace troupe::backends::egress
