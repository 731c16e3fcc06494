#include "gateway/http/websocket.hpp"
#include "gateway/native/api.hpp"
#include "gateway/native/command_json.hpp"

#include <atomic>
#include <charconv>

// Interactive processes. What a terminal prints is kept by the actors, in bounds; every reader
// comes for it with a cursor of its own, so that a slow one holds nothing up and one that comes
// back goes on where it was.

namespace troupe::gateway {

namespace {

using std::chrono::steady_clock;

constexpr uint64_t pty_body_limit = 4 * 1024 * 1024;
constexpr int64_t longest_yield_ms = 24 * 3600 * 1000; // the session clamps it further
constexpr int32_t largest_side = 65'535;

/// Of one WebSocket message: the input of a terminal has little room.
constexpr size_t typed_limit = 256 * 1024;

result<int32_t> terminal_of(const call& c) {
  const auto& text = c.param("pty_id");
  int32_t id = 0;
  auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (fault != std::errc{} || end != text.data() + text.size())
    return unexpected(
      make_error(errc::pty_session_not_found, op::exec, "PTY session not found: " + text)
        .with("session_id", text));
  return id;
}

result<std::optional<uint64_t>> cursor_of(const call& c) {
  auto text = c.query("cursor");
  if (text.empty())
    return std::optional<uint64_t>{};
  uint64_t cursor = 0;
  auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), cursor);
  if (fault != std::errc{} || end != text.data() + text.size())
    return unexpected(
      make_error(errc::invalid_request, op::request, "`cursor` must be a position in the output")
        .with("field", "cursor"));
  return std::optional{cursor};
}

/// Reads what a start and a write share.
template <class Message>
void read_collection(object_reader& in, Message& out) {
  out.yield_ms = in.integer("yield_time_ms", 0, longest_yield_ms);
  out.max_output_tokens = in.integer("max_output_tokens", INT32_MIN, INT32_MAX);
}

std::optional<int32_t> read_side(object_reader& in, std::string_view key) {
  auto value = in.integer(key, 1, largest_side);
  return value ? std::optional{static_cast<int32_t>(*value)} : std::nullopt;
}

/// Reads `rows` and `cols`, which must both be there.
resize_terminal read_size(object_reader& in, int32_t id) {
  auto rows = read_side(in, "rows");
  auto cols = read_side(in, "cols");
  if (!rows || !cols)
    in.fail(rows ? "cols" : "rows", "an integer from 1 to 65535");
  return {id, rows.value_or(0), cols.value_or(0)};
}

json update_to_json(const terminal_update& x, bool base64) {
  auto optional = [](const auto& value) { return value ? json(*value) : json(nullptr); };
  return {{"process_id", optional(x.process_id)},
          {"output", encode_output(x.output, base64)},
          {"exit_code", optional(x.exit_code)},
          {"original_token_count", optional(x.original_token_count)},
          {"wall_s", seconds_to_json(x.wall)}};
}

json info_to_json(const terminal_info& x) {
  json command = json::array();
  for (const auto& part : x.command)
    command.push_back(to_utf8(part));
  return {{"process_id", x.process_id},
          {"command", std::move(command)},
          {"tty", x.tty},
          {"running", x.running},
          {"started_at", rfc3339_ms(x.started_at_ms)}};
}

/// A WebSocket on a terminal. Output: read, write to the client, read on. Input: one message at a
/// time, the next is not received before the terminal has taken it.
class attachment : public std::enable_shared_from_this<attachment> {
public:
  attachment(bridge& asker, session_actor session, int32_t id)
    : bridge_(asker), session_(std::move(session)), id_(id) {}

  void begin(std::shared_ptr<websocket> socket, const terminal_bytes& first) {
    socket_ = std::move(socket);
    show(first);
    listen();
  }

private:
  // RFC 6455, 7.4.1, and 1013 of its registry
  enum close_code : uint16_t { done = 1000, refused = 1008, failed = 1011, try_later = 1013 };

  // -- output ------------------------------------------------------------------------------------

  void read() {
    read_terminal request;
    request.process_id = id_;
    request.cursor = next_;
    bridge_.ask<terminal_bytes>(
      session_,
      [self = shared_from_this(), begun = steady_clock::now()](const result<terminal_bytes>& x) {
        if (self->gone_)
          return;
        if (!x)
          self->socket_->close(failed, x.error().message);
        else if (x->data.empty() && !x->ended
                 && steady_clock::now() - begun < std::chrono::seconds{1})
          self->socket_->close(try_later, "too many readers");
        else
          self->show(*x);
      },
      request);
  }

  void show(const terminal_bytes& x) {
    if (x.cursor != next_)
      send_text({{"type", "cursor"}, {"cursor", x.cursor}});
    next_ = x.cursor + x.data.size();
    auto go_on = [self = shared_from_this(), ended = x.ended,
                  exit_code = x.exit_code](const result<void>& sent) {
      if (!sent)
        return;
      if (ended)
        self->finish(exit_code);
      else
        self->read();
    };
    if (x.data.empty())
      go_on({});
    else
      socket_->send(websocket::kind::binary, {x.data.begin(), x.data.end()}, std::move(go_on));
  }

  void finish(std::optional<int32_t> exit_code) {
    send_text({{"type", "exit"}, {"exit_code", exit_code ? json(*exit_code) : json(nullptr)}});
    socket_->close(done);
  }

  void send_text(const json& x) {
    socket_->send(websocket::kind::text, dump_json(x), [](const result<void>&) {});
  }

  // -- input -------------------------------------------------------------------------------------

  void listen() {
    socket_->receive([self = shared_from_this()](result<websocket::message> x) {
      if (!x)
        self->gone_ = true;
      else if (x->type == websocket::kind::binary)
        self->ask(type_terminal{self->id_, {x->data.begin(), x->data.end()}});
      else
        self->control(x->data);
    });
  }

  void control(const std::string& text) {
    auto value = parse_json(text);
    if (!value)
      return socket_->close(refused, value.error().message);
    object_reader in{*value};
    if (in.text("type").value_or("") != "resize")
      in.fail("type", "\"resize\"");
    auto size = read_size(in, id_);
    if (auto ok = in.finish(); !ok)
      socket_->close(refused, ok.error().message);
    else
      ask(size);
  }

  template <class Message>
  void ask(Message x) {
    bridge_.ask<void>(
      session_,
      [self = shared_from_this()](const result<void>& taken) {
        // Of a process that has ended the reader tells.
        if (taken || taken.error().code == errc::pty_session_not_found)
          self->listen();
        else
          self->socket_->close(taken.error().code == errc::conflict     ? refused
                               : taken.error().code == errc::overloaded ? try_later
                                                                        : failed,
                               taken.error().message);
      },
      std::move(x));
  }

  bridge& bridge_;
  session_actor session_;
  int32_t id_;
  std::shared_ptr<websocket> socket_;
  std::optional<uint64_t> next_; ///< the cursor of the next byte for the client
  std::atomic<bool> gone_{false};
};

} // namespace

void api::open_pty(call c) {
  with_body(
    std::move(c),
    [this](call c2, const json& body) {
      object_reader in{body};
      start_terminal request;
      request.request = read_command(in);
      request.tty = in.boolean("tty").value_or(false);
      auto rows = read_side(in, "rows");
      auto cols = read_side(in, "cols");
      // One of them alone is that of a usual terminal; without both it has the system's default.
      request.rows = rows.value_or(cols ? request.rows : 0);
      request.cols = cols.value_or(rows ? request.cols : 0);
      read_collection(in, request);
      auto base64 = read_base64(in);
      if (auto ok = finish_command(in, request.request); !ok) {
        c2.fail(ok.error());
        return;
      }
      ask_session<terminal_update>(std::move(c2), std::move(request),
                                   [base64](const call& c3, const terminal_update& x) {
                                     c3.answer(200, update_to_json(x, base64));
                                   });
    },
    pty_body_limit);
}

void api::write_pty(call c) {
  auto id = terminal_of(c);
  if (!id) {
    c.fail(id.error());
    return;
  }
  with_body(
    std::move(c),
    [this, id = *id](call c2, const json& body) {
      object_reader in{body};
      write_terminal request;
      request.process_id = id;
      auto chars = in.text("chars");
      if (!chars)
        in.fail("chars", "text, empty to only collect output");
      request.chars = chars.value_or("");
      read_collection(in, request);
      auto base64 = read_base64(in);
      if (auto ok = in.finish(); !ok) {
        c2.fail(ok.error());
        return;
      }
      ask_session<terminal_update>(std::move(c2), std::move(request),
                                   [base64](const call& c3, const terminal_update& x) {
                                     c3.answer(200, update_to_json(x, base64));
                                   });
    },
    pty_body_limit);
}

void api::list_ptys(call c) {
  ask_session<terminal_list>(std::move(c), list_terminals{},
                             [](const call& c2, const terminal_list& found) {
                               json items = json::array();
                               for (const auto& x : found.items)
                                 items.push_back(info_to_json(x));
                               c2.answer(200, {{"items", std::move(items)}});
                             });
}

void api::resize_pty(call c) {
  auto id = terminal_of(c);
  if (!id) {
    c.fail(id.error());
    return;
  }
  with_body(std::move(c), [this, id = *id](call c2, const json& body) {
    object_reader in{body};
    auto size = read_size(in, id);
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    ask_session<void>(std::move(c2), size, [](const call& c3) { c3.answer_empty(); });
  });
}

void api::end_pty(call c) {
  auto id = terminal_of(c);
  if (!id) {
    c.fail(id.error());
    return;
  }
  ask_session<void>(std::move(c), terminate_terminal{*id},
                    [](const call& c2) { c2.answer_empty(); });
}

void api::end_ptys(call c) {
  ask_session<void>(std::move(c), terminate_terminal{}, [](const call& c2) { c2.answer_empty(); });
}

void api::attach_pty(call c) {
  auto id = terminal_of(c);
  auto cursor = cursor_of(c);
  if (!id || !cursor) {
    c.fail(id ? cursor.error() : id.error());
    return;
  }
  // What is there already says also whether the terminal is, while HTTP can still tell.
  read_terminal first;
  first.process_id = *id;
  first.cursor = *cursor;
  first.wait_ms = 0;
  with_session(std::move(c), [this, first](call c2, session_actor session) {
    bridge_.ask<terminal_bytes>(
      session,
      [this, c2, session, id = first.process_id](result<terminal_bytes> x) {
        if (!x) {
          c2.fail(x.error());
          return;
        }
        websocket_options options;
        options.message_limit = typed_limit;
        auto job = std::make_shared<attachment>(bridge_, session, id);
        accept_websocket(c2.http, options,
                         [job, bytes = std::move(*x)](std::shared_ptr<websocket> socket) {
                           job->begin(std::move(socket), bytes);
                         });
      },
      first);
  });
}

} // namespace troupe::gateway
