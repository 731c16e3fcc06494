#pragma once

#include "messages/error.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::gateway {

/// Resolves `%XX`; nullopt for a broken escape or a NUL byte. `plus_is_space`: as forms encode.
std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space = false);

/// The parameters after `?`, decoded, in the order they came.
class query_params {
public:
  using item = std::pair<std::string, std::string>;

  /// `text` is without the `?`. `invalid_request` for what `percent_decode` refuses.
  static result<query_params> parse(std::string_view text);

  /// The first value of `name`; `?name` alone has the empty value.
  std::optional<std::string_view> get(std::string_view name) const;

  std::vector<std::string_view> all(std::string_view name) const;

  const std::vector<item>& items() const {
    return items_;
  }

private:
  std::vector<item> items_;
};

/// The decoded parts of a path that starts with `/`: none for `/`, and `/a/` has the parts `a` and
/// the empty one. `%2F` stays inside its part. `invalid_request` for what `percent_decode` refuses.
result<std::vector<std::string>> split_path(std::string_view path);

/// The same parts as they are, for a path that cannot be decoded.
std::vector<std::string> split_encoded_path(std::string_view path);

} // namespace troupe::gateway
