#include "gateway/http/field_values.hpp"
#include "gateway/http/message_parser.hpp"
#include "gateway/http/query.hpp"
#include "tests/fuzz/support.hpp"

using namespace troupe;
using namespace troupe::gateway;

namespace {

constexpr size_t header_limit = 16 * 1024;
constexpr uint64_t body_limit = 64 * 1024;

void look_at(const header_list& headers) {
  fuzz::require(headers.size() <= request_parser::max_fields, "fields are bounded");
  (void) lists_token(headers, "connection", "close");
}

void look_at(const request_head& head) {
  look_at(head.headers);
  (void) asks_to_upgrade(head, "websocket");
  auto path = head.target.substr(0, head.target.find('?'));
  (void) split_path(path);
  (void) split_encoded_path(path);
  if (path.size() < head.target.size())
    (void) query_params::parse(std::string_view{head.target}.substr(path.size() + 1));
}

void look_at(const response_head& head) {
  look_at(head.headers);
}

/// Takes one message as a connection does: `step` bytes come at a time, of a body at most `wanted`
/// bytes are taken at once.
template <class Head>
class reader {
public:
  reader(size_t step, size_t wanted) : step_(step), wanted_(wanted) {}

  void read(std::string_view input) {
    while (!input.empty() && !parser_.is_done()) {
      auto came = input.substr(0, step_);
      input.remove_prefix(came.size());
      buffer_ += came;
      while (use()) {
      }
      if (failed_ || buffer_.size() > header_limit)
        return;
    }
    error_code ec;
    if (parser_.is_header_done() && !parser_.is_done())
      parser_.put_eof(ec);
  }

private:
  /// Whether there may be more to use.
  bool use() {
    if (buffer_.empty() || parser_.is_done())
      return false;
    error_code ec;
    auto used = parser_.is_header_done() ? use_body(ec) : use_head(ec);
    fuzz::require(used <= buffer_.size(), "no more is used than came");
    buffer_.erase(0, used);
    failed_ = ec && ec != http::error::need_more;
    return used > 0 && !ec;
  }

  size_t use_head(error_code& ec) {
    auto used = parser_.put(boost::asio::const_buffer(buffer_.data(), buffer_.size()), ec);
    if (!ec)
      look_at(head_);
    return used;
  }

  size_t use_body(error_code& ec) {
    body_reader::chunk piece;
    auto used = parser_.put_body(buffer_.data(), buffer_.size(), &piece, wanted_, body_limit, ec);
    body_ += piece.size();
    fuzz::require(piece.size() <= wanted_, "a piece has no more than was asked for");
    fuzz::require(!parser_.chunked() || body_ <= body_limit, "a chunked body keeps its limit");
    return used;
  }

  size_t step_;
  size_t wanted_;
  Head head_;
  message_parser<Head> parser_{head_, header_limit};
  std::string buffer_;
  uint64_t body_ = 0;
  bool failed_ = false;
};

} // namespace

// Bytes that come at a time, bytes of a body that are wanted at once (odd: an answer, even: a
// request), then what comes.
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2)
    return 0;
  const size_t step = data[0] + size_t{1};
  const size_t wanted = data[1] + size_t{1};
  auto input = fuzz::as_text(data + 2, size - 2);
  if (data[1] % 2 == 1)
    reader<response_head>{step, wanted}.read(input);
  else
    reader<request_head>{step, wanted}.read(input);
  return 0;
}
