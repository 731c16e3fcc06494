#pragma once

#include "gateway/http/query.hpp"
#include "messages/error.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What a handler sees of HTTP: a request, its body by the piece, and one answer. Nothing here
// blocks, and every callback runs on the server thread of its connection, which a callback must not
// hold up.

namespace troupe::gateway {

class connection;
class successor;

/// Header fields in the order they came. Names compare without case.
class header_list {
public:
  using field = std::pair<std::string, std::string>;

  void add(std::string name, std::string value) {
    fields_.emplace_back(std::move(name), std::move(value));
  }

  /// The first value of `name`.
  std::optional<std::string_view> get(std::string_view name) const;

  /// How many fields are called `name`.
  size_t count(std::string_view name) const;

  auto begin() const {
    return fields_.begin();
  }
  auto end() const {
    return fields_.end();
  }
  size_t size() const {
    return fields_.size();
  }

private:
  std::vector<field> fields_;
};

/// Everything of a request but its body.
struct request_head {
  std::string method;
  std::string target;                ///< as it came
  std::string path;                  ///< of `target`, still encoded
  std::vector<std::string> segments; ///< of `path`, see `split_path`
  query_params query;
  std::string query_text; ///< of `target` as it came, with its `?`
  /// Why `segments` are not decoded, or `query` is empty: a broken escape. The router refuses it,
  /// but where the rest of the path goes on as it came.
  std::optional<error> malformed;
  header_list headers;
  bool http11 = true;
  bool keep_alive = true;
  std::string request_id; ///< the client's if it is sane, else fresh
  std::optional<uint64_t> content_length;
  std::vector<std::pair<std::string, std::string>> params; ///< from the route

  /// The value that the route's pattern took for `name`; empty if there is none.
  const std::string& param(std::string_view name) const;

  /// Whether `Accept` names this media type itself. Wildcards do not count: clients that do not
  /// care send `*/*`, and what they get is the handler's default.
  bool accepts(std::string_view mime) const;
};

/// The body of one request, pulled. A cheap handle to the connection; valid as long as it is kept,
/// but the exchange it came from must be kept too, or it answers 500 and the reads fail.
class body_reader {
public:
  using chunk = std::vector<char>;
  using read_done = std::function<void(result<chunk>)>;

  static constexpr size_t max_chunk = 256 * 1024;

  body_reader(std::shared_ptr<connection> c, uint64_t turn)
    : connection_(std::move(c)), turn_(turn) {}

  /// The next piece, at most `max` (1 to `max_chunk`) bytes; empty at the end. One read at a time.
  /// Fails with `cancelled` (the client went away, stalled, or has its answer), `payload_too_large`
  /// or `invalid_request` (malformed chunks).
  void read(size_t max, read_done done) const;

  /// The whole body, which may have at most `limit` bytes; sets the exchange's body limit to it.
  /// Fails with `overloaded`, too: of all bodies that are collected at once, 256 MiB are held.
  void read_all(uint64_t limit, read_done done) const;

private:
  std::shared_ptr<connection> connection_;
  uint64_t turn_;
};

/// Where a streamed answer comes from. It is destroyed on the server thread when the answer is
/// complete or the client is gone, which is how a producer learns that nobody reads any more.
class body_source {
public:
  using chunk = std::vector<char>;
  using next_done = std::function<void(result<std::optional<chunk>>)>;

  virtual ~body_source() = default;

  /// Asks for the next piece, not before the last one went to the kernel. `done` may be called from
  /// any thread, once; nullopt ends the body; an error, or dropping `done` uncalled, cuts the
  /// connection so that the client sees that the body is not whole.
  virtual void next(next_done done) = 0;
};

/// An answer. The server itself adds `X-Request-Id`, `Connection` and the fields that frame the
/// body, and ignores them here; `Server` and `Date` it adds where they are missing.
struct response {
  int status = 200;
  header_list headers;
  std::string body;
  std::unique_ptr<body_source> stream; ///< instead of `body`
  /// Bytes that `stream` will give, announced to the client; unknown: chunked transfer.
  std::optional<uint64_t> stream_length;
};

/// One request and its answer. Thread-safe. A handler keeps it until it has answered; dropped
/// without an answer it answers 500.
class exchange {
public:
  exchange(std::shared_ptr<connection> c, uint64_t turn, request_head head);
  ~exchange();

  exchange(const exchange&) = delete;
  exchange& operator=(const exchange&) = delete;

  const request_head& head() const {
    return head_;
  }

  body_reader body() const {
    return {connection_, turn_};
  }

  /// Bytes of body beyond which reads fail; to be called before the first read.
  void set_body_limit(uint64_t bytes);

  /// Answers. Only the first call counts.
  void respond(response answer);

  /// Leaves the client to `next` instead of an answer; for a request without a body. If the client
  /// is gone already, or the server stops, `next` is dropped.
  void upgrade(std::shared_ptr<successor> next);

  /// Calls `callback`, once, if the client goes away before the answer is complete; a client that
  /// sends nothing more (half-closed) counts as gone. Noticed once the body has been read. Must not
  /// keep the exchange alive: hold it weakly.
  void on_disconnect(std::function<void()> callback);

  /// Runs `task` on this connection's server thread, never inside this call.
  void post(std::function<void()> task);

  /// The client's connection, for the files of this folder.
  const std::shared_ptr<connection>& link() const {
    return connection_;
  }

  /// What the router found. Only before a handler has the exchange.
  void set_route(std::string pattern, std::vector<std::pair<std::string, std::string>> params);

private:
  std::shared_ptr<connection> connection_;
  uint64_t turn_;
  request_head head_;
  std::atomic<bool> answered_{false};
};

/// Takes a request: keeps the exchange, answers now or later. Called on the server thread.
using handler = std::function<void(std::shared_ptr<exchange>)>;

/// ASCII comparison without case.
bool equal_ignoring_case(std::string_view a, std::string_view b);

} // namespace troupe::gateway
