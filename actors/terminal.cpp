#include "actors/terminal.hpp"

#include "backends/terminal_rules.hpp"
#include "workspace/token_truncation.hpp"
#include "workspace/unicode_text.hpp"

#include <algorithm>

namespace troupe::actors {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// What a terminal may print in a tenth of a second; nobody reads faster, and a program that floods
/// must not keep the node busy.
constexpr int64_t output_per_window = 2 * 1024 * 1024;
constexpr milliseconds window_length{100};

constexpr int64_t read_wait_limit_ms = 60'000;
constexpr size_t reader_limit = 64;

error no_stdin() {
  return make_error(errc::conflict, op::exec, "stdin is not available for this process");
}

} // namespace

terminal_state::terminal_state(self_ptr<handle_type> self, services& shared, backend_actor backend,
                               sandbox_terminal command)
  : self_(self), shared_(shared), backend_(std::move(backend)), command_(std::move(command)) {
  start();
}

terminal_state::~terminal_state() {
  if (!end_)
    anon_tell(backend_, exec_cancel{command_.call_id});
}

terminal_state::handle_type::behavior_type terminal_state::make_behavior() {
  return {
    [this](exec_output& x) { return on_output(x); },
    // The answer to our request says it, and also comes when the backend dies.
    [](const exec_finished&) -> caf::result<void> { return caf::unit; },
    [this](collect_terminal& x) { return collect(x); },
    [this](read_terminal& x) { return read(x); },
    [this](type_terminal& x) { return type(x); },
    [this](const resize_terminal& x) -> caf::result<void> {
      if (!command_.tty)
        return to_caf(make_error(errc::conflict, op::exec, "this process has no terminal"));
      tell(self_, backend_, terminal_size{command_.call_id, x.rows, x.cols});
      return caf::unit;
    },
    [this](const end_terminal&) { return terminate(); },
    [](action& work) { work(); },
  };
}

void terminal_state::start() {
  exec_sink_actor sink = caf::actor_cast<exec_sink_actor>(caf::strong_actor_ptr{self_->ctrl()});
  ask_then<exec_result>(
    self_, backend_, [this](result<exec_result> x) { on_end(std::move(x)); }, command_, sink);
}

caf::result<terminal_update> terminal_state::collect(collect_terminal& x) {
  reply_to<terminal_update> reply{self_};
  if (!x.chars.empty() && !command_.tty) {
    reply.finish(unexpected(no_stdin()));
    return reply;
  }
  collection wait{reply, x.max_tokens, steady_clock::now(), next_id_++};
  if (end_) {
    finish(wait);
    return reply;
  }
  collections_.push_back(wait);
  auto delay = milliseconds{x.yield_ms};
  if (!x.chars.empty()) {
    delay += backends::pause_after_input;
    ask_then<void>(
      self_, backend_,
      [this, id = wait.id](const result<void>& typed) {
        if (auto refused = typed ? std::nullopt : take_collection(id))
          refused->reply.finish(unexpected(typed.error()));
      },
      terminal_input{command_.call_id, {x.chars.begin(), x.chars.end()}});
  }
  tell_later(self_, delay, action{[this, id = wait.id] {
               if (auto over = take_collection(id))
                 finish(*over);
             }});
  return reply;
}

std::optional<terminal_state::collection> terminal_state::take_collection(uint64_t id) {
  auto i = std::find_if(collections_.begin(), collections_.end(),
                        [id](const collection& x) { return x.id == id; });
  if (i == collections_.end())
    return std::nullopt;
  auto found = std::move(*i);
  collections_.erase(i);
  return found;
}

caf::result<terminal_bytes> terminal_state::read(read_terminal& x) {
  reply_to<terminal_bytes> reply{self_};
  x.max_bytes = std::clamp(x.max_bytes, 1, 1024 * 1024);
  reader wait{reply, x, next_id_++};
  if (try_answer(wait, x.wait_ms <= 0 || readers_.size() >= reader_limit))
    return reply;
  readers_.push_back(wait);
  tell_later(self_, milliseconds{std::min(x.wait_ms, read_wait_limit_ms)},
             action{[this, id = wait.id] {
               auto i = std::find_if(readers_.begin(), readers_.end(),
                                     [id](const reader& y) { return y.id == id; });
               if (i == readers_.end())
                 return;
               try_answer(*i, true);
               readers_.erase(i);
             }});
  return reply;
}

caf::result<void> terminal_state::type(type_terminal& x) {
  if (!command_.tty)
    return to_caf(no_stdin());
  reply_to<void> reply{self_};
  ask_then<void>(
    self_, backend_, [reply](const result<void>& typed) { reply.finish(typed); },
    terminal_input{command_.call_id, std::move(x.data)});
  return reply;
}

caf::result<void> terminal_state::terminate() {
  reply_to<void> reply{self_};
  if (end_) {
    reply.finish({});
    return reply;
  }
  terminations_.push_back(reply);
  tell(self_, backend_, exec_cancel{command_.call_id});
  return reply;
}

caf::result<void> terminal_state::on_output(exec_output& x) {
  ring_.append({x.data.data(), x.data.size()});
  for (auto i = readers_.begin(); i != readers_.end();)
    i = try_answer(*i, false) ? readers_.erase(i) : std::next(i);
  grant(static_cast<int64_t>(x.data.size()));
  return caf::unit;
}

void terminal_state::grant(int64_t bytes) {
  auto now = steady_clock::now();
  if (now - window_ >= window_length) {
    window_ = now;
    granted_ = 0;
  }
  granted_ += bytes;
  exec_grant more{command_.call_id, bytes};
  if (granted_ <= output_per_window)
    tell(self_, backend_, more);
  else
    tell_later(self_, window_length, action{[this, more] { tell(self_, backend_, more); }});
}

void terminal_state::on_end(result<exec_result> outcome) {
  end_ = std::move(outcome);
  for (const auto& x : std::exchange(collections_, {}))
    finish(x);
  for (const auto& x : std::exchange(readers_, {}))
    try_answer(x, true);
  for (const auto& x : std::exchange(terminations_, {}))
    x.finish({});
  if (command_.on_end)
    command_.on_end();
}

std::string terminal_state::take_output(uint64_t& lost) {
  auto piece = ring_.read_from(taken_, ring_.end() - ring_.begin());
  taken_ = piece.next;
  lost = piece.lost;
  auto text = piece.lost > 0 ? carry_.flush() : std::string{};
  text += carry_.take(piece.bytes);
  return end_ ? text + carry_.flush() : text;
}

void terminal_state::finish(const collection& x) {
  // What never ran, or was lost with its sandbox, is an error; what ran and was ended is not.
  if (end_ && !*end_ && (*end_).error().code != errc::cancelled
      && (*end_).error().code != errc::exec_timeout) {
    x.reply.finish(unexpected((*end_).error()));
    return;
  }
  terminal_update update;
  uint64_t lost = 0;
  update.output = take_output(lost);
  // What fell out of the ring was output too: the count tells that there was more.
  if (lost > 0)
    update.original_token_count
      = workspace::tokens_in(static_cast<size_t>(lost) + update.output.size());
  if (x.max_tokens) {
    auto cut
      = workspace::truncate_tokens(workspace::utf8_with_replacement(update.output), x.max_tokens);
    update.output = std::move(cut.text);
    if (lost == 0)
      update.original_token_count = cut.original_token_count;
  }
  update.wall = steady_clock::now() - x.begun;
  if (end_)
    update.exit_code = *end_ ? (*end_)->exit_code : -9;
  x.reply.finish(std::move(update));
}

bool terminal_state::try_answer(const reader& x, bool now) {
  auto piece
    = ring_.read_from(x.request.cursor.value_or(0), static_cast<size_t>(x.request.max_bytes));
  bool last = end_ && piece.next == ring_.end();
  if (piece.bytes.empty() && !last && !now)
    return false;
  terminal_bytes bytes;
  bytes.cursor = piece.next - piece.bytes.size();
  bytes.data.assign(piece.bytes.begin(), piece.bytes.end());
  bytes.ended = last;
  if (last)
    bytes.exit_code = *end_ ? (*end_)->exit_code : -9;
  x.reply.finish(std::move(bytes));
  return true;
}

} // namespace troupe::actors
