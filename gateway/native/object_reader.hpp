#pragma once

#include "messages/json.hpp"

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::gateway {

/// Reads the members of a JSON object by name and type. The first fault is kept and reported by
/// `finish`, which also refuses members that nobody asked for.
class object_reader {
public:
  /// `where`: how errors name the object; empty for a request's body.
  explicit object_reader(const json& value, std::string where = "");

  // A member that is missing or null gives nullopt.

  std::optional<std::string> text(std::string_view key);
  std::optional<bool> boolean(std::string_view key);
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max);
  /// Seconds as a number, at least 0.
  std::optional<std::chrono::nanoseconds> seconds(std::string_view key);
  std::optional<std::vector<std::string>> texts(std::string_view key);
  std::optional<std::map<std::string, std::string>> text_map(std::string_view key);
  /// The member as it is; nullptr when missing or null.
  const json* any(std::string_view key);

  /// Whether the member is there, be it null.
  bool has(std::string_view key) const;

  void fail(std::string_view key, const std::string& expected);

  result<void> finish();

private:
  std::string name_of(std::string_view key) const;

  const json& value_;
  std::string where_;
  std::set<std::string, std::less<>> known_;
  std::optional<error> failure_;
};

} // namespace troupe::gateway
