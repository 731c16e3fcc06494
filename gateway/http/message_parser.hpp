#pragma once

#include "gateway/http/http.hpp"

#include <boost/beast/http/basic_parser.hpp>

namespace troupe::gateway {

namespace http = boost::beast::http;
using error_code = boost::beast::error_code;

/// Everything of an answer but its body, as a client sees it.
struct response_head {
  int status = 0;
  header_list headers;
};

/// Beast's parser with a `request_head` or a `response_head` and a vector as its outlets: no second
/// copy of fields or body.
template <class Head>
class message_parser : public http::basic_parser<std::is_same_v<Head, request_head>> {
public:
  static constexpr size_t max_fields = 128;

  message_parser(Head& head, size_t header_limit) : head_(&head) {
    this->header_limit(static_cast<uint32_t>(header_limit));
    // Ours is looked at as the body comes. Not `none`: Beast 1.74 then refuses every
    // Content-Length.
    this->body_limit(UINT64_MAX);
  }

  bool http11() const {
    return http11_;
  }

  /// Parses body into `out` until it has `max` bytes; without `out` the body is dropped. A chunk
  /// that makes more than `limit` bytes in all is `http::error::body_limit`. Returns the bytes
  /// used.
  size_t put_body(const char* data, size_t size, body_reader::chunk* out, size_t max,
                  uint64_t limit, error_code& ec) {
    out_ = out;
    room_ = max;
    limit_ = limit;
    size_t used = 0;
    ec = {};
    while (!ec && used < size && room_ > 0 && !this->is_done()) {
      // Beast 1.74 asserts that it has 5 bytes once it has seen the last chunk's size; that many
      // always follow the data of a chunk.
      if (this->chunked() && chunk_left_ == 0 && size - used < 5) {
        ec = http::error::need_more;
        break;
      }
      used += this->put(boost::asio::const_buffer(data + used, size - used), ec);
    }
    out_ = nullptr;
    return used;
  }

private:
  using string_view = boost::beast::string_view;
  static constexpr bool is_request = std::is_same_v<Head, request_head>;

  void on_request_impl(http::verb, string_view method, string_view target, int version,
                       error_code&) override {
    if constexpr (is_request) {
      head_->method.assign(method.data(), method.size());
      head_->target.assign(target.data(), target.size());
    }
    http11_ = version == 11;
  }

  void on_response_impl(int status, string_view, int version, error_code&) override {
    if constexpr (!is_request)
      head_->status = status;
    http11_ = version == 11;
  }

  void on_field_impl(http::field, string_view name, string_view value, error_code& ec) override {
    if (in_body_) // a trailer: nobody may add to the head once it was judged
      return;
    if (head_->headers.size() == max_fields)
      ec = http::error::header_limit;
    else
      head_->headers.add({name.data(), name.size()}, {value.data(), value.size()});
  }

  void on_header_impl(error_code&) override {
    in_body_ = true;
  }

  void on_body_init_impl(const boost::optional<uint64_t>&, error_code&) override {}

  size_t on_body_impl(string_view body, error_code&) override {
    return take(body);
  }

  void on_chunk_header_impl(uint64_t size, string_view, error_code& ec) override {
    if (size > limit_ || chunk_total_ > limit_ - size)
      ec = http::error::body_limit;
    chunk_total_ += size;
    chunk_left_ = size;
  }

  size_t on_chunk_body_impl(uint64_t, string_view body, error_code&) override {
    auto n = take(body);
    chunk_left_ -= n;
    return n;
  }

  void on_finish_impl(error_code&) override {}

  size_t take(string_view body) {
    auto n = std::min(body.size(), room_);
    if (out_)
      out_->insert(out_->end(), body.data(), body.data() + n);
    room_ -= n;
    return n;
  }

  Head* head_;
  bool http11_ = true;
  bool in_body_ = false;
  body_reader::chunk* out_ = nullptr;
  size_t room_ = 0;
  uint64_t limit_ = 0;
  uint64_t chunk_total_ = 0;
  uint64_t chunk_left_ = 0; ///< of the chunk that is coming
};

using request_parser = message_parser<request_head>;
using response_parser = message_parser<response_head>;

} // namespace troupe::gateway
