#include "actors/session.hpp"

#include "actors/terminal.hpp"
#include "backends/terminal_rules.hpp"
#include "messages/ids.hpp"

#include <algorithm>

// The interactive processes of a session: their ids, how many there may be, and when one is done
// with. What each of them printed is its own actor's.

namespace troupe::actors {

namespace {

using std::chrono::milliseconds;

/// Ended processes that readers may still fetch the last output of.
constexpr size_t kept_ended = 16;

constexpr int32_t largest_side = 65'535;

error no_such_terminal(int32_t id) {
  return make_error(errc::pty_session_not_found, op::exec,
                    "PTY session not found: " + std::to_string(id))
    .with("session_id", static_cast<int64_t>(id));
}

result<void> check_size(int32_t rows, int32_t cols) {
  if (rows < 1 || cols < 1 || rows > largest_side || cols > largest_side)
    return unexpected(make_error(errc::invalid_request, op::exec,
                                 "`rows` and `cols` must be integers from 1 to 65535"));
  return {};
}

} // namespace

session_impl::terminal_entry* session_impl::find_terminal(int32_t id) {
  auto i = terminals_.find(id);
  return i != terminals_.end() && !i->second.done ? &i->second : nullptr;
}

co<result<terminal_update>> session_impl::open_terminal(start_terminal x) {
  if (auto refused = admit())
    co_return unexpected(std::move(*refused));
  auto valid = check_command(x.request);
  if (valid && (x.rows != 0 || x.cols != 0)) // else the system's default
    valid = check_size(x.rows, x.cols);
  if (!valid)
    co_return unexpected(std::move(valid.error()));
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));

  sandbox_terminal command;
  command.call_id = std::stoull(random_hex(8), nullptr, 16);
  command.request = std::move(x.request);
  command.environment = environment();
  if (x.tty)
    command.request.env.emplace("TERM", "xterm-256color");
  command.tty = x.tty;
  command.rows = x.rows;
  command.cols = x.cols;
  auto victim = terminal_to_drop();
  auto id = backends::choose_terminal_id(command.call_id,
                                         [this](int32_t y) { return terminals_.contains(y); });
  command.on_end = [this, inbox = actor_inbox{self_}, id] {
    inbox.post([this, id] {
      if (auto i = terminals_.find(id); i != terminals_.end())
        i->second.info.running = false;
    });
  };
  terminal_entry entry;
  entry.info = {id, command.request.command, x.tty, true, now_ms()};
  entry.last_used = std::chrono::steady_clock::now();
  entry.actor = self_->spawn<state_actor<terminal_state>>(std::ref(shared_), backend_, command);
  terminals_.emplace(id, entry);
  if (victim)
    drop_terminal(*victim);

  auto yield = x.yield_ms ? milliseconds{*x.yield_ms} : backends::default_start_yield;
  collect_terminal wait{"", backends::clamp_yield(yield, false).count(), x.max_output_tokens};
  co_return co_await collect(id, std::move(wait));
}

co<result<terminal_update>> session_impl::write_to_terminal(write_terminal x) {
  if (auto refused = admit())
    co_return unexpected(std::move(*refused));
  auto* entry = find_terminal(x.process_id);
  if (!entry)
    co_return unexpected(no_such_terminal(x.process_id));
  if (!x.chars.empty() && !entry->info.tty)
    co_return unexpected(
      make_error(errc::conflict, op::exec, "stdin is not available for this process"));
  auto yield = x.yield_ms ? milliseconds{*x.yield_ms} : backends::default_write_yield;
  auto wait_ms = backends::clamp_yield(yield, x.chars.empty()).count();
  collect_terminal wait{std::move(x.chars), wait_ms, x.max_output_tokens};
  co_return co_await collect(x.process_id, std::move(wait));
}

co<result<terminal_update>> session_impl::collect(int32_t id, collect_terminal wait) {
  ++in_flight_;
  record_.live.last_used_at_ms = now_ms();
  auto actor = terminals_.at(id).actor;
  auto update = co_await ask<terminal_update>(self_, actor, std::move(wait));
  --in_flight_;
  record_.live.last_used_at_ms = now_ms();
  auto* entry = find_terminal(id);
  if (!update) {
    drop_terminal(id);
  } else if (update->exit_code) {
    if (entry)
      retire_terminal(id);
  } else {
    update->process_id = id;
    if (entry)
      entry->last_used = std::chrono::steady_clock::now();
  }
  co_return update;
}

co<result<void>> session_impl::end_terminals(std::optional<int32_t> only) {
  if (only && !find_terminal(*only))
    co_return unexpected(no_such_terminal(*only));
  std::vector<int32_t> ids;
  for (const auto& [id, entry] : terminals_)
    if (!entry.done && (!only || id == *only))
      ids.push_back(id);
  for (auto id : ids) {
    auto* entry = find_terminal(id);
    if (!entry)
      continue;
    auto actor = entry->actor;
    auto ended = co_await ask<void>(self_, actor, end_terminal{});
    (void) ended; // one whose actor died has lost its process with it
    if (find_terminal(id))
      retire_terminal(id);
  }
  co_return result<void>{};
}

caf::result<terminal_list> session_impl::list_of_terminals() const {
  terminal_list list;
  for (const auto& [id, entry] : terminals_)
    if (!entry.done)
      list.items.push_back(entry.info);
  return list;
}

caf::result<void> session_impl::resize(const resize_terminal& x) {
  auto* entry = find_terminal(x.process_id);
  if (!entry)
    return to_caf(no_such_terminal(x.process_id));
  if (auto valid = check_size(x.rows, x.cols); !valid)
    return to_caf(std::move(valid.error()));
  if (!entry->info.tty)
    return to_caf(make_error(errc::conflict, op::exec, "this process has no terminal"));
  tell(self_, entry->actor, x);
  return caf::unit;
}

caf::result<void> session_impl::type(type_terminal& x) {
  auto* entry = find_terminal(x.process_id);
  if (!entry)
    return to_caf(no_such_terminal(x.process_id));
  record_.live.last_used_at_ms = now_ms();
  entry->last_used = std::chrono::steady_clock::now();
  reply_to<void> reply{self_};
  ask_then<void>(
    self_, entry->actor, [reply](const result<void>& typed) { reply.finish(typed); }, std::move(x));
  return reply;
}

caf::result<terminal_bytes> session_impl::read_output(read_terminal& x) {
  // Also of one that has ended: a reader must not miss its last words.
  auto i = terminals_.find(x.process_id);
  if (i == terminals_.end())
    return to_caf(no_such_terminal(x.process_id));
  reply_to<terminal_bytes> reply{self_};
  ask_then<terminal_bytes>(
    self_, i->second.actor,
    [reply](result<terminal_bytes> bytes) { reply.finish(std::move(bytes)); }, std::move(x));
  return reply;
}

std::optional<int32_t> session_impl::terminal_to_drop() const {
  std::vector<int32_t> ids;
  std::vector<backends::terminal_use> uses;
  for (const auto& [id, entry] : terminals_) {
    if (entry.done)
      continue;
    ids.push_back(id);
    uses.push_back({entry.last_used, !entry.info.running});
  }
  if (ids.size() < backends::max_terminals)
    return std::nullopt;
  auto victim = backends::choose_victim(uses);
  return victim ? std::optional{ids[*victim]} : std::nullopt;
}

void session_impl::retire_terminal(int32_t id) {
  terminals_.at(id).done = true;
  ended_terminals_.push_back(id);
  if (ended_terminals_.size() <= kept_ended)
    return;
  auto oldest = ended_terminals_.front();
  ended_terminals_.pop_front();
  drop_terminal(oldest);
}

void session_impl::drop_terminal(int32_t id) {
  auto node = terminals_.extract(id);
  if (!node)
    return;
  std::erase(ended_terminals_, id);
  self_->send_exit(node.mapped().actor, caf::exit_reason::kill);
}

} // namespace troupe::actors
