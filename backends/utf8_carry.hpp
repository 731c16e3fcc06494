#pragma once

#include <string>
#include <string_view>

namespace troupe::backends {

/// Cuts a stream of bytes into pieces that end between characters: the beginning of a character at
/// the end of one piece is carried over to the next. Bytes that are no UTF-8 pass as they are.
class utf8_carry {
public:
  /// What was carried, then `bytes`, without the beginning of a character at the end.
  std::string take(std::string_view bytes);

  /// What is carried, as it is: the stream has ended, or goes on elsewhere.
  std::string flush();

private:
  std::string carried_; ///< at most 3 bytes
};

} // namespace troupe::backends
