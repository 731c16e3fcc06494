#pragma once

#include "gateway/http/http.hpp"

namespace troupe::gateway {

/// Finds the handler for a method and path; itself a handler. Answers 404, and 405 with `Allow`.
///
/// A pattern is a path whose segments are literals or `{name}`, which takes any one segment but the
/// empty one, decoded. A last segment `{name...}` takes what remains of the path, if anything, as
/// it was sent: still encoded, without the leading `/`. Literals go before names, names before the
/// rest. Broken escapes are answered with 400 but in paths with such a rest.
class router {
public:
  struct segment {
    enum class kind { literal, name, rest } kind;
    std::string text; ///< without the braces and dots
  };

  struct route {
    std::string method;
    std::string pattern;
    std::vector<segment> segments; ///< of `pattern`
    handler serve;
  };

  struct match {
    const route* found = nullptr;
    std::vector<std::pair<std::string, std::string>> params;
    std::string allow; ///< nothing found: the methods that the path has, for `Allow`
  };

  /// `method` and `pattern` together must be new. The method `*` is any that the same path has no
  /// better route for. GET routes serve HEAD too.
  void add(std::string_view method, std::string_view pattern, handler serve);

  match find(std::string_view method, const request_head& head) const;

  void operator()(std::shared_ptr<exchange> x) const;

private:
  std::vector<route> routes_; ///< the more literal first
};

} // namespace troupe::gateway
