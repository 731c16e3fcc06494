#include "gateway/native/api.hpp"
#include "gateway/native/command_json.hpp"
#include "messages/ids.hpp"
#include "workspace/base64.hpp"
#include "workspace/unicode_text.hpp"

#include <deque>
#include <mutex>

namespace troupe::gateway {

namespace {

/// A command with its input; larger inputs belong into a file.
constexpr uint64_t exec_body_limit = 32 * 1024 * 1024;

struct exec_body {
  exec_request request;
  bool base64 = false;
};

result<exec_body> parse_exec(const json& body) {
  object_reader in{body};
  exec_body out;
  out.request = read_command(in);
  out.request.stdin_data = in.text("stdin").value_or("");
  out.base64 = read_base64(in);
  if (auto ok = finish_command(in, out.request); !ok)
    return unexpected(std::move(ok.error()));
  return out;
}

uint64_t new_call_id() {
  return std::stoull(random_hex(8), nullptr, 16);
}

/// How many bytes at the end of `text` begin a character that is not complete yet.
size_t incomplete_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    auto c = static_cast<unsigned char>(text[text.size() - back]);
    if ((c & 0xC0) == 0x80)
      continue;
    size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    return need > back ? back : 0;
  }
  return 0;
}

std::string sse(std::string_view name, const json& data) {
  return "event: " + std::string{name} + "\ndata: " + dump_json(data) + "\n\n";
}

/// What the sink actor and the HTTP connection share: pieces on their way to the client.
class exec_feed {
public:
  using next_done = body_source::next_done;

  explicit exec_feed(bool base64) : base64_(base64) {}

  /// Grants credit for what the client has taken.
  std::function<void(int64_t)> on_taken;

  void output(const exec_output& x) {
    std::string_view bytes{x.data.data(), x.data.size()};
    auto name = x.stream == stream_id::out ? "stdout" : "stderr";
    std::unique_lock lock{mutex_};
    if (base64_) {
      push(sse(name, {{"data", workspace::base64_encode(bytes)}, {"seq", x.seq}}),
           static_cast<int64_t>(bytes.size()));
    } else {
      auto& tail = tails_[x.stream == stream_id::out ? 0 : 1];
      auto text = tail + std::string{bytes};
      auto keep = incomplete_tail(text);
      tail = text.substr(text.size() - keep);
      text.resize(text.size() - keep);
      push(sse(name, {{"data", workspace::utf8_with_replacement(text)}, {"seq", x.seq}}),
           static_cast<int64_t>(bytes.size()));
      last_seq_ = x.seq;
    }
    deliver(lock);
  }

  void finish(const exec_result& x) {
    std::unique_lock lock{mutex_};
    if (ended_)
      return;
    for (int i = 0; i < 2; ++i)
      if (!tails_[i].empty())
        push(sse(i == 0 ? "stdout" : "stderr",
                 {{"data", workspace::utf8_with_replacement(tails_[i])}, {"seq", ++last_seq_}}),
             0);
    push(sse("exit", {{"exit_code", x.exit_code}, {"wall_s", seconds_to_json(x.wall)}}), 0);
    ended_ = true;
    deliver(lock);
  }

  void fail(const error& x) {
    std::unique_lock lock{mutex_};
    if (ended_)
      return;
    push(sse("error", error_to_json(x)), 0);
    ended_ = true;
    deliver(lock);
  }

  void next(next_done done) {
    std::unique_lock lock{mutex_};
    waiting_ = std::move(done);
    deliver(lock);
  }

private:
  struct piece {
    std::string text;
    int64_t bytes;
  };

  void push(std::string text, int64_t bytes) {
    pieces_.push_back({std::move(text), bytes});
  }

  void deliver(std::unique_lock<std::mutex>& lock) {
    if (!waiting_ || (pieces_.empty() && !ended_))
      return;
    auto done = std::exchange(waiting_, nullptr);
    if (pieces_.empty()) {
      lock.unlock();
      done(std::nullopt);
      return;
    }
    auto x = std::move(pieces_.front());
    pieces_.pop_front();
    lock.unlock();
    if (x.bytes > 0 && on_taken)
      on_taken(x.bytes);
    done(std::vector<char>(x.text.begin(), x.text.end()));
  }

  std::mutex mutex_;
  bool base64_;
  std::deque<piece> pieces_;
  std::string tails_[2]; ///< of incomplete characters
  uint64_t last_seq_ = 0;
  bool ended_ = false;
  next_done waiting_;
};

/// Puts what a backend sends into a feed; ends with the command.
struct exec_sink_state {
  using handle_type = exec_sink_actor;
  static constexpr const char* name = "troupe.exec_sink";

  exec_sink_state(self_ptr<exec_sink_actor> ptr, std::shared_ptr<exec_feed> to)
    : self(ptr), feed(std::move(to)) {}

  exec_sink_actor::behavior_type make_behavior() {
    return {
      [this](const exec_output& x) -> caf::result<void> {
        feed->output(x);
        return caf::unit;
      },
      [this](const exec_finished& x) -> caf::result<void> {
        if (x.failure)
          feed->fail(*x.failure);
        else
          feed->finish(x.result);
        self->quit();
        return caf::unit;
      },
    };
  }

  self_ptr<exec_sink_actor> self;
  std::shared_ptr<exec_feed> feed;
};

/// The answer's body; when the client leaves, the command is cancelled.
class exec_stream : public body_source {
public:
  exec_stream(std::shared_ptr<exec_feed> feed, std::function<void()> cancel)
    : feed_(std::move(feed)), cancel_(std::move(cancel)) {}
  ~exec_stream() override {
    cancel_();
  }
  void next(next_done done) override {
    feed_->next(std::move(done));
  }

private:
  std::shared_ptr<exec_feed> feed_;
  std::function<void()> cancel_;
};

} // namespace

void api::exec(call c) {
  with_body(
    std::move(c),
    [this](call c2, const json& body) {
      auto parsed = parse_exec(body);
      if (!parsed) {
        c2.fail(parsed.error());
        return;
      }
      if (c2.head().accepts("text/event-stream")) {
        exec_streamed(std::move(c2), std::move(parsed->request), parsed->base64);
        return;
      }
      exec_call request{new_call_id(), std::move(parsed->request)};
      with_session(std::move(c2), [this, request = std::move(request),
                                   base64 = parsed->base64](call c3, session_actor session) {
        // A client that leaves takes its command with it.
        c3.http->on_disconnect(
          [session, id = request.call_id] { anon_tell(session, exec_cancel{id}); });
        bridge_.ask<exec_result>(
          session,
          [c3, base64](result<exec_result> x) {
            if (!x) {
              c3.fail(x.error());
              return;
            }
            c3.answer(200, {{"exit_code", x->exit_code},
                            {"stdout", encode_output(x->stdout_data, base64)},
                            {"stderr", encode_output(x->stderr_data, base64)},
                            {"wall_s", seconds_to_json(x->wall)},
                            {"truncated", x->stdout_truncated || x->stderr_truncated}});
          },
          request);
      });
    },
    exec_body_limit);
}

void api::exec_streamed(call c, exec_request request, bool base64) {
  exec_call command{new_call_id(), std::move(request)};
  with_session(std::move(c), [this, command = std::move(command), base64](call c2,
                                                                          session_actor session) {
    auto feed = std::make_shared<exec_feed>(base64);
    auto id = command.call_id;
    feed->on_taken = [session, id](int64_t bytes) { anon_tell(session, exec_grant{id, bytes}); };
    exec_sink_actor sink = bridge_.system().spawn<state_actor<exec_sink_state>>(feed);
    response answer;
    answer.headers.add("Content-Type", "text/event-stream");
    answer.headers.add("Cache-Control", "no-store");
    answer.stream
      = std::make_unique<exec_stream>(feed, [session, id] { anon_tell(session, exec_cancel{id}); });
    c2.http->respond(std::move(answer));
    bridge_.ask<exec_result>(
      session,
      // By way of the sink, which still has output to take that was sent before this answer.
      [sink, id](result<exec_result> x) {
        exec_finished end{id, {}, {}};
        if (x)
          end.result = std::move(*x);
        else
          end.failure = std::move(x.error());
        anon_tell(sink, std::move(end));
      },
      command, sink);
  });
}

} // namespace troupe::gateway
