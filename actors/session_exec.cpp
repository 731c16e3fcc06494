#include "actors/session.hpp"

#include <algorithm>

// The commands of a session: admission, environment, events; the running itself is the backend's.

namespace troupe::actors {

namespace {

/// More than any kernel takes; a clear error instead of E2BIG.
constexpr size_t command_limit = 2 * 1024 * 1024;

std::string shell_text(const exec_request& x) {
  switch (x.shell) {
    case shell_mode::on: return "true";
    case shell_mode::off: return "false";
    case shell_mode::prefix: break;
  }
  std::string list = "[";
  for (const auto& part : x.shell_prefix) {
    if (list.size() > 1)
      list += ',';
    list += json_quote(part);
  }
  return list += ']';
}

/// The `data` of an exec event: `contract: events, data per operation`.
std::string event_data(const exec_request& x, const exec_result* outcome) {
  std::string data = "{\"command\":[";
  for (size_t i = 0; i < x.command.size(); ++i) {
    if (i > 0)
      data += ',';
    data += json_quote(x.command[i]);
  }
  data += "],\"timeout_s\":";
  if (x.timeout)
    data += std::to_string(std::chrono::duration<double>(*x.timeout).count());
  else
    data += "null";
  data += ",\"shell\":" + shell_text(x);
  data += ",\"user\":" + (x.user ? json_quote(*x.user) : "null");
  if (outcome) {
    auto code = std::to_string(outcome->exit_code);
    data += ",\"exit_code\":" + code + ",\"process.exit.code\":" + code;
    if (outcome->stdout_truncated || outcome->stderr_truncated)
      data += ",\"truncated\":true"; // its limit of output was met
  }
  return data += '}';
}

} // namespace

result<void> session_impl::check_command(const exec_request& x) {
  size_t size = 0;
  for (const auto& part : x.command)
    size += part.size();
  for (const auto& part : x.shell_prefix)
    size += part.size();
  for (const auto& [name, value] : x.env)
    size += name.size() + value.size();
  if (x.command.empty())
    return unexpected(make_error(errc::invalid_request, op::exec, "command is empty"));
  if (size > command_limit)
    return unexpected(make_error(errc::invalid_request, op::exec,
                                 "command and environment are too long for the kernel")
                        .with("bytes", static_cast<int64_t>(size))
                        .with("limit", static_cast<int64_t>(command_limit)));
  return {};
}

std::optional<error> session_impl::admit() const {
  if (!open_ && record_.live.status == session_status::stopped)
    return make_error(errc::conflict, op::request, "the session is shut down; start it first");
  if (in_flight_ < shared_.config.requests_per_session)
    return std::nullopt;
  return make_error(errc::overloaded, op::request, "the session has too many requests in flight")
    .with("limit", static_cast<int64_t>(shared_.config.requests_per_session));
}

std::vector<std::pair<std::string, std::string>> session_impl::environment() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& x : record_.spec.state.manifest.environment)
    out.emplace_back(x.name, x.value);
  return out;
}

co<result<exec_result>> session_impl::exec(exec_call call, std::optional<exec_sink_actor> sink) {
  if (auto refused = admit())
    co_return unexpected(std::move(*refused));
  auto valid = check_command(call.request);
  if (!valid)
    co_return unexpected(std::move(valid.error()));
  const auto& limits = record_.spec.state.limits;
  if (!call.request.timeout && limits.exec_timeout_ms)
    call.request.timeout = std::chrono::milliseconds{*limits.exec_timeout_ms};
  if (call.request.output_limit == 0)
    call.request.output_limit = limits.output_bytes.value_or(0);
  ++in_flight_;
  record_.live.last_used_at_ms = now_ms();
  auto event = co_await begin(op::exec, event_data(call.request, nullptr));
  result<exec_result> done;
  result<void> opened;
  if (event)
    opened = co_await ensure_open();
  if (!event) {
    done = unexpected(std::move(event.error()));
  } else if (std::find(cancelled_.begin(), cancelled_.end(), call.call_id) != cancelled_.end()) {
    done = unexpected(make_error(errc::cancelled, op::exec, "the command was cancelled"));
  } else if (opened) {
    sandbox_exec command;
    command.call_id = call.call_id;
    command.request = call.request;
    command.environment = environment();
    if (sink)
      done = co_await ask<exec_result>(self_, backend_, std::move(command), *sink);
    else
      done = co_await ask<exec_result>(self_, backend_, std::move(command));
  } else {
    done = unexpected(std::move(opened.error()));
  }
  --in_flight_;
  if (!event)
    co_return done;
  co_return co_await end_exec(std::move(*event), call.request, std::move(done));
}

co<result<exec_result>> session_impl::exec_attached(sandbox_exec command) {
  auto valid = check_command(command.request);
  if (!valid)
    co_return unexpected(std::move(valid.error()));
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto request = command.request;
  auto event = co_await begin(op::exec, event_data(request, nullptr));
  if (!event)
    co_return unexpected(std::move(event.error()));
  command.environment = environment();
  auto done = co_await ask<exec_result>(self_, backend_, std::move(command));
  co_return co_await end_exec(std::move(*event), request, std::move(done));
}

co<result<exec_result>> session_impl::end_exec(span event, const exec_request& request,
                                               result<exec_result> done) {
  if (!done)
    co_return co_await end(std::move(event), std::move(done));
  bool ok = done->exit_code == 0;
  auto data = event_data(request, &*done);
  auto output
    = shared_.sinks ? shared_.sinks->capture(done->stdout_data, done->stderr_data) : nullptr;
  co_return co_await end(std::move(event), std::move(done), ok, std::move(data), output);
}

} // namespace troupe::actors
