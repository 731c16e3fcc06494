#include "gateway/native/api.hpp"
#include "messages/event_json.hpp"

#include <charconv>
#include <mutex>

namespace troupe::gateway {

namespace {

std::string render(const event& x) {
  return "id: " + std::to_string(x.id) + "\nevent: " + std::string{to_string(x.phase)}
         + "\ndata: " + event_text(x) + "\n\n";
}

/// How late the stream of a session may notice that it is gone.
constexpr int64_t session_wait_ms = 5000;

/// Keeps a connection, and finds out whether it is alive.
constexpr std::string_view heartbeat = ": still here\n\n";

/// The pieces of an answer without an end of its own: each is one poll of the event hub. A client
/// that does not read is not polled for, so it costs nothing and finds what it missed in the
/// journal. The stream of a session ends with it.
class event_stream : public body_source {
public:
  event_stream(bridge& asker, std::shared_ptr<const api_context> context, poll_events first)
    : bridge_(asker), context_(std::move(context)), request_(std::move(first)) {}

  void next(next_done done) override {
    auto state = state_;
    {
      std::lock_guard lock{state->mutex};
      if (state->next_after) {
        request_.after_id = *state->next_after;
        request_.from_now = false;
      }
    }
    auto& asker = bridge_;
    bridge_.ask<event_page>(
      context_->events(),
      [done = std::move(done), state, context = context_, &asker, id = request_.session_id,
       tenant = request_.tenant](result<event_page> x) {
        if (!x) {
          done(unexpected(std::move(x.error())));
          return;
        }
        {
          std::lock_guard lock{state->mutex};
          state->next_after = x->next_after;
        }
        std::string text;
        for (const auto& e : x->items)
          text += render(e);
        if (!text.empty()) {
          done(std::vector<char>(text.begin(), text.end()));
        } else if (id.empty()) {
          done(std::vector<char>(heartbeat.begin(), heartbeat.end()));
        } else {
          auto there = [done](const result<session_view>& session) {
            if (!session && session.error().code == errc::not_found)
              done(std::nullopt);
            else
              done(std::vector<char>(heartbeat.begin(), heartbeat.end()));
          };
          asker.ask<session_view>(context->supervisor_of(id), there, peek_session{id, tenant});
        }
      },
      request_);
  }

private:
  struct position {
    std::mutex mutex;
    std::optional<uint64_t> next_after;
  };

  bridge& bridge_;
  std::shared_ptr<const api_context> context_;
  poll_events request_;
  std::shared_ptr<position> state_ = std::make_shared<position>();
};

} // namespace

void api::events(call c) {
  stream_events(std::move(c), "");
}

void api::session_events(call c) {
  auto id = c.param("id");
  // 404 for a session that is not there, before the stream begins.
  with_session(std::move(c),
               [this, id](call c2, const session_actor&) { stream_events(std::move(c2), id); });
}

void api::stream_events(call c, const std::string& session_id) {
  poll_events request;
  request.tenant = c.tenant;
  request.session_id = session_id;
  if (!session_id.empty())
    request.wait_ms = session_wait_ms;
  auto last = std::string{c.head().headers.get("Last-Event-ID").value_or("")};
  if (last.empty()) {
    // A session's stream begins with all its events, the node's with what comes from now on.
    request.from_now = session_id.empty();
  } else {
    auto [end, fault] = std::from_chars(last.data(), last.data() + last.size(), request.after_id);
    if (fault != std::errc{} || end != last.data() + last.size()) {
      c.fail(make_error(errc::invalid_request, op::request, "`Last-Event-ID` must be a number")
               .with("field", "Last-Event-ID"));
      return;
    }
  }
  response answer;
  answer.headers.add("Content-Type", "text/event-stream");
  answer.headers.add("Cache-Control", "no-store");
  answer.stream = std::make_unique<event_stream>(bridge_, context_, std::move(request));
  c.http->respond(std::move(answer));
}

} // namespace troupe::gateway
