#pragma once

#include "messages/error.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::backends::egress {

/// What a program asks the proxy for.
struct request_head {
  bool tunnel = false; ///< CONNECT
  std::string host;    ///< as of `normal_host`
  uint16_t port = 0;
  /// The head as the server behind gets it; empty for a tunnel.
  std::string forwarded;
  bool chunked = false;
  uint64_t body = 0; ///< bytes, unless chunked
};

/// An answer that the proxy gives itself.
struct refusal {
  int status = 400;
  std::string reason;
};

/// Reads a head, with the empty line that ends it. Refuses what could be read in two ways.
tl::expected<request_head, refusal> parse_head(std::string_view text);

/// Finds the end of a chunked body in a stream, without looking at what is in it.
class chunk_scanner {
public:
  /// How many of these bytes belong to the body. Less than all: it has ended, or (`failed`) it is
  /// not a chunked body.
  size_t take(std::string_view bytes);

  bool ended() const {
    return state_ == state::done;
  }
  bool failed() const {
    return state_ == state::bad;
  }

private:
  enum class state { size, extension, size_end, data, data_cr, data_lf, trailer, done, bad };

  state step(char c);

  state state_ = state::size;
  uint64_t left_ = 0;
  unsigned digits_ = 0;
  unsigned skipped_ = 0; ///< bytes of extensions and trailers, which are bounded
  bool line_empty_ = true;
};

} // namespace troupe::backends::egress
