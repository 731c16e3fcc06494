#include "actors/backend.hpp"

namespace troupe::actors {

namespace {

std::string join(const std::vector<std::string>& parts) {
  std::string out;
  for (const auto& part : parts) {
    if (!out.empty())
      out += ' ';
    out += part;
  }
  return out;
}

/// The end of a command as the contract tells it: an exit code is a result, a timeout is an error
/// that carries the output so far.
result<exec_result> outcome_of(backends::command_exit x, const std::vector<std::string>& argv,
                               std::optional<std::chrono::nanoseconds> timeout) {
  if (x.timed_out)
    return unexpected(make_error(errc::exec_timeout, op::exec, "command timed out")
                        .with("command", argv)
                        .with("command_str", join(argv))
                        .with("timeout_s", timeout.value_or(std::chrono::nanoseconds{0}))
                        .with("stdout", x.stdout_data)
                        .with("stderr", x.stderr_data));
  if (x.cancelled)
    return unexpected(make_error(errc::cancelled, op::exec, "the command was cancelled")
                        .with("command", argv)
                        .with("command_str", join(argv)));
  return exec_result{x.exit_code,        std::move(x.stdout_data), std::move(x.stderr_data),
                     x.stdout_truncated, x.stderr_truncated,       x.wall};
}

} // namespace

backend_state::backend_state(self_ptr<handle_type> self, services& shared, std::string session_id,
                             std::string tenant, std::shared_ptr<backends::sandbox> sandbox)
  : self_(self), shared_(shared), session_id_(std::move(session_id)), tenant_(std::move(tenant)),
    sandbox_(std::move(sandbox)) {}

backend_state::handle_type::behavior_type backend_state::make_behavior() {
  sandbox_->observe([this, inbox = actor_inbox{self_}](backends::sandbox_notice x) {
    auto notice = std::make_shared<backends::sandbox_notice>(std::move(x));
    inbox.post([this, notice] { on_notice(std::move(*notice)); });
  });
  return {
    [this](const open_sandbox&) {
      return respond(self_, scope_, ready_after(&backends::sandbox::open));
    },
    [this](const reopen_root&) {
      return respond(self_, scope_, ready_after(&backends::sandbox::reopen_root));
    },
    [this](rebase_sandbox& x) {
      auto step = [claim = std::move(x.claim)](backends::sandbox& box) {
        return box.rebase(claim->take());
      };
      return respond(self_, scope_, ready_after(std::move(step)));
    },
    [this](const why_no_layers&) -> caf::result<std::string> { return sandbox_->why_no_layers(); },
    [this](const freeze_sandbox&) { return respond(self_, scope_, freeze()); },
    [this](const close_sandbox&) { return respond(self_, scope_, close()); },
    [this](const remove_sandbox&) { return respond(self_, scope_, remove()); },
    [this](const get_usage&) -> caf::result<session_usage> { return sandbox_->usage(); },
    [this](sandbox_exec& x) { return exec(x, exec_sink_actor{}); },
    [this](sandbox_exec& x, exec_sink_actor& sink) { return exec(x, std::move(sink)); },
    [this](sandbox_terminal& x, exec_sink_actor& sink) {
      return open_terminal(x, std::move(sink));
    },
    [this](terminal_input& x) { return type(x); },
    [this](const terminal_size& x) -> caf::result<void> {
      if (auto i = commands_.find(x.call_id); i != commands_.end())
        sandbox_->resize_terminal(i->second.id, static_cast<uint16_t>(x.rows),
                                  static_cast<uint16_t>(x.cols));
      return caf::unit;
    },
    [this](connect_port& x) -> caf::result<void> {
      sandbox_->connect(x.port, std::move(x.done));
      return caf::unit;
    },
    [this](const exec_cancel& x) -> caf::result<void> {
      if (auto i = commands_.find(x.call_id); i != commands_.end())
        sandbox_->cancel(i->second.id);
      return caf::unit;
    },
    [this](const exec_grant& x) -> caf::result<void> {
      if (auto i = commands_.find(x.call_id); i != commands_.end())
        sandbox_->grant(i->second.id, x.bytes);
      return caf::unit;
    },
    [](action& work) { work(); },
  };
}

void backend_state::on_notice(backends::sandbox_notice x) {
  auto lost = x.lost;
  if (auto session = shared_.directory.find(session_id_).session)
    tell(self_, session, std::move(x));
  if (lost)
    self_->quit(caf::exit_reason::unhandled_exception);
}

co<result<sandbox_ready>>
backend_state::ready_after(std::function<result<void>(backends::sandbox&)> step) {
  auto turn = co_await steps_.acquire();
  auto sandbox = sandbox_;
  auto work = [sandbox, step] { return step(*sandbox); };
  auto opened = co_await offload<void>(self_, shared_.io, tenant_, work);
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto identity
    = [sandbox](const std::optional<std::string>& user) { return sandbox->file_identity(user); };
  auto file_system = [sandbox] { return sandbox->file_system(); };
  sandbox_ready ready{sandbox_->root(), sandbox_->layers(), sandbox_->walls(), identity,
                      file_system};
  co_return ready;
}

co<result<frozen_sandbox>> backend_state::freeze() {
  auto sandbox = sandbox_;
  auto work = [sandbox]() -> result<frozen_sandbox> { return sandbox->freeze(); };
  co_return co_await offload<frozen_sandbox>(self_, shared_.io, tenant_, work);
}

co<result<void>> backend_state::close() {
  struct awaiter {
    backend_state* state;
    bool await_ready() const noexcept {
      return false;
    }
    void await_suspend(std::coroutine_handle<> h) {
      actor_inbox inbox{state->self_};
      state->sandbox_->shutdown([inbox, h] { inbox.post([h] { h.resume(); }); });
    }
    void await_resume() const noexcept {}
  };
  co_await awaiter{this};
  co_return result<void>{};
}

co<result<void>> backend_state::remove() {
  // A step that a session asked for and did not live to see is none the less done first.
  auto turn = co_await steps_.acquire();
  auto closed = co_await close();
  if (!closed)
    co_return closed;
  auto sandbox = sandbox_;
  auto work = [sandbox] { return sandbox->remove(); };
  co_return co_await offload<void>(self_, shared_.io, tenant_, work);
}

caf::result<exec_result> backend_state::exec(sandbox_exec& x, exec_sink_actor sink) {
  reply_to<exec_result> reply{self_};
  auto spec = sandbox_->prepare(x.request, x.environment);
  if (!spec) {
    reply.finish(unexpected(std::move(spec.error())));
    return reply;
  }
  spec->stdin_fd = x.stdin_fd;
  spec->stdout_fd = x.stdout_fd;
  spec->stderr_fd = x.stderr_fd;
  spec->stdin_data = std::move(x.request.stdin_data);
  spec->timeout = x.request.timeout;
  spec->streamed = static_cast<bool>(sink);
  spec->output_limit
    = x.request.output_limit > 0 ? x.request.output_limit : shared_.config.default_output_bytes;
  auto& command = add(x.call_id, reply, std::move(sink), *spec);
  backends::command_handlers handlers{exit_handler(x.call_id), nullptr};
  if (spec->streamed)
    handlers.on_output = output_handler(x.call_id);
  command.id = sandbox_->exec(std::move(*spec), std::move(handlers));
  return reply;
}

caf::result<exec_result> backend_state::open_terminal(sandbox_terminal& x, exec_sink_actor sink) {
  reply_to<exec_result> reply{self_};
  auto spec = sandbox_->prepare(x.request, x.environment);
  if (!spec) {
    reply.finish(unexpected(std::move(spec.error())));
    return reply;
  }
  spec->timeout = x.request.timeout;
  auto& command = add(x.call_id, reply, std::move(sink), *spec);
  backends::terminal_options options{x.tty, static_cast<uint16_t>(x.rows),
                                     static_cast<uint16_t>(x.cols)};
  backends::terminal_handlers handlers{
    exit_handler(x.call_id), [deliver = output_handler(x.call_id)](std::vector<char> data) {
      deliver(stream_id::out, std::move(data));
    }};
  command.id = sandbox_->open_terminal(std::move(*spec), options, std::move(handlers));
  return reply;
}

caf::result<void> backend_state::type(terminal_input& x) {
  reply_to<void> reply{self_};
  auto i = commands_.find(x.call_id);
  if (i == commands_.end()) { // input for a process that has ended goes nowhere
    reply.finish({});
    return reply;
  }
  auto id = next_input_++;
  inputs_.emplace(id, reply);
  actor_inbox inbox{self_};
  sandbox_->write_terminal(i->second.id, {x.data.begin(), x.data.end()},
                           [this, inbox, id](const result<void>& typed) {
                             inbox.post([this, id, typed] {
                               if (auto node = inputs_.extract(id))
                                 node.mapped().finish(typed);
                             });
                           });
  return reply;
}

backend_state::running_command& backend_state::add(uint64_t call_id, reply_to<exec_result> reply,
                                                   exec_sink_actor sink,
                                                   const backends::command_spec& spec) {
  shared_.metrics.commands_started.fetch_add(1, std::memory_order_relaxed);
  return commands_
    .insert_or_assign(call_id,
                      running_command{std::move(reply), std::move(sink), spec.argv, spec.timeout})
    .first->second;
}

std::function<void(result<backends::command_exit>)> backend_state::exit_handler(uint64_t call_id) {
  return [this, inbox = actor_inbox{self_}, call_id](result<backends::command_exit> outcome) {
    auto shared_outcome = std::make_shared<result<backends::command_exit>>(std::move(outcome));
    inbox.post([this, call_id, shared_outcome] { finished(call_id, std::move(*shared_outcome)); });
  };
}

std::function<void(stream_id, std::vector<char>)> backend_state::output_handler(uint64_t call_id) {
  return [this, inbox = actor_inbox{self_}, call_id](stream_id stream, std::vector<char> data) {
    auto piece = std::make_shared<std::vector<char>>(std::move(data));
    inbox.post([this, call_id, stream, piece] { deliver(call_id, stream, std::move(*piece)); });
  };
}

void backend_state::deliver(uint64_t call_id, stream_id stream, std::vector<char> data) {
  if (auto i = commands_.find(call_id); i != commands_.end())
    tell(self_, i->second.sink, exec_output{call_id, stream, ++i->second.seq, std::move(data)});
}

void backend_state::finished(uint64_t call_id, result<backends::command_exit> outcome) {
  auto node = commands_.extract(call_id);
  if (!node)
    return;
  auto& command = node.mapped();
  auto converted = outcome ? outcome_of(std::move(*outcome), command.argv, command.timeout)
                           : result<exec_result>{unexpected(std::move(outcome.error()))};
  if (!converted)
    shared_.metrics.commands_failed.fetch_add(1, std::memory_order_relaxed);
  command.reply.finish(std::move(converted));
}

} // namespace troupe::actors
