#include "gateway/http/router.hpp"

#include "gateway/http/answers.hpp"

#include <algorithm>

namespace troupe::gateway {

namespace {

using segment = router::segment;

segment parse_segment(std::string text) {
  if (text.size() < 2 || text.front() != '{' || text.back() != '}')
    return {segment::kind::literal, std::move(text)};
  if (text.ends_with("...}"))
    return {segment::kind::rest, text.substr(1, text.size() - 5)};
  return {segment::kind::name, text.substr(1, text.size() - 2)};
}

bool goes_before(const router::route& a, const router::route& b) {
  return std::lexicographical_compare(
    a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(),
    [](const segment& x, const segment& y) { return x.kind < y.kind; });
}

bool takes_rest(const std::vector<segment>& pattern) {
  return !pattern.empty() && pattern.back().kind == segment::kind::rest;
}

bool fits(const std::vector<segment>& pattern, const std::vector<std::string>& path) {
  bool rest = takes_rest(pattern);
  auto fixed = pattern.size() - (rest ? 1 : 0);
  if (rest ? path.size() < fixed : path.size() != fixed)
    return false;
  for (size_t i = 0; i < fixed; ++i) {
    bool literal = pattern[i].kind == segment::kind::literal;
    if (literal ? pattern[i].text != path[i] : path[i].empty())
      return false;
  }
  return true;
}

/// `path` without its first `n` segments and the slash after them.
std::string_view skip_segments(std::string_view path, size_t n) {
  for (size_t i = 0; i <= n; ++i) // the first step takes the leading slash
    path.remove_prefix(std::min(path.size(), std::min(path.find('/'), path.size()) + 1));
  return path;
}

auto take_params(const std::vector<segment>& pattern, const request_head& head) {
  std::vector<std::pair<std::string, std::string>> params;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i].kind == segment::kind::name)
      params.emplace_back(pattern[i].text, head.segments[i]);
    else if (pattern[i].kind == segment::kind::rest)
      params.emplace_back(pattern[i].text, skip_segments(head.path, i));
  }
  return params;
}

void allow(std::string& methods, std::string_view method) {
  if (methods.find(method) != std::string::npos)
    return;
  if (!methods.empty())
    methods += ", ";
  methods += method;
}

} // namespace

void router::add(std::string_view method, std::string_view pattern, handler serve) {
  route x{std::string(method), std::string(pattern), {}, std::move(serve)};
  auto parts = split_path(pattern).value();
  for (auto& text : parts)
    x.segments.push_back(parse_segment(std::move(text)));
  auto at = std::upper_bound(routes_.begin(), routes_.end(), x, goes_before);
  routes_.insert(at, std::move(x));
}

router::match router::find(std::string_view method, const request_head& head) const {
  match m;
  const route* fallback = nullptr;
  for (const auto& x : routes_) {
    if (!fits(x.segments, head.segments))
      continue;
    if (x.method == method) {
      m.found = &x;
      break;
    }
    if (!fallback && (x.method == "*" || (method == "HEAD" && x.method == "GET")))
      fallback = &x;
    allow(m.allow, x.method);
    if (x.method == "GET")
      allow(m.allow, "HEAD");
  }
  if (!m.found)
    m.found = fallback;
  if (m.found)
    m.params = take_params(m.found->segments, head);
  return m;
}

void router::operator()(std::shared_ptr<exchange> x) const {
  const auto& head = x->head();
  auto m = find(head.method, head);
  bool as_it_came = m.found && takes_rest(m.found->segments);
  if (head.malformed && !as_it_came)
    return x->respond(error_response(*head.malformed, head.request_id));
  if (m.found) {
    x->set_route(m.found->pattern, std::move(m.params));
    return m.found->serve(std::move(x));
  }
  bool known = !m.allow.empty();
  auto failure = make_error(known ? errc::invalid_request : errc::not_found, op::request,
                            known ? "the method is not allowed here" : "no such path")
                   .with("method", head.method)
                   .with("path", head.path);
  auto answer = error_response(failure, head.request_id);
  if (known) {
    answer.status = 405;
    answer.headers.add("Allow", m.allow);
  }
  x->respond(std::move(answer));
}

} // namespace troupe::gateway
