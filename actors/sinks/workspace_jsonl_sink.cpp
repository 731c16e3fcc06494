#include "actors/sinks/workspace_jsonl_sink.hpp"

#include "actors/sinks/event_payload.hpp"

#include <algorithm>

namespace troupe::actors {

namespace {

constexpr size_t session_limit = 256 * 1024;
constexpr size_t total_limit = 8 * 1024 * 1024;

bool is_flush_point(const event& x) {
  bool starts = x.phase == event_phase::start;
  return x.operation == op::stop || (starts && x.operation == op::persist_workspace)
         || (starts && x.operation == op::shutdown);
}

void replace_all(std::string& text, std::string_view what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
}

} // namespace

workspace_jsonl_sink::workspace_jsonl_sink(sink_settings settings, workspace_jsonl_options options,
                                           workspace_append append)
  : event_sink(settings), options_(std::move(options)), append_(std::move(append)) {}

std::string workspace_jsonl_sink::path_of(const workspace_jsonl_options& options,
                                          const std::string& session_id) {
  auto path = options.path;
  auto hex = session_id;
  std::erase(hex, '-');
  replace_all(path, "{session_id}", session_id);
  replace_all(path, "{session_id_hex}", hex);
  return path;
}

result<void> workspace_jsonl_sink::take(const event& x, const sink_context& context) {
  auto mine = pending_of(x.session_id);
  auto line = event_line(make_payload(x, policy_for(x, context)));
  bytes_ += line.size();
  mine->lines += line;
  if (++mine->events >= options_.flush_every || is_flush_point(x)) {
    auto written = append_(x.session_id, path_of(options_, x.session_id), mine->lines);
    if (written && *written) {
      drop(mine);
      return {};
    }
    if (!written) {
      (void) keep_bounds(mine);
      return unexpected(std::move(written.error()));
    }
  }
  return keep_bounds(mine);
}

workspace_jsonl_sink::pending_ref workspace_jsonl_sink::pending_of(const std::string& session_id) {
  auto [i, made] = by_session_.try_emplace(session_id);
  if (made)
    i->second = pending_.insert(pending_.end(), pending{session_id, {}, 0});
  return i->second;
}

void workspace_jsonl_sink::drop(pending_ref x) {
  bytes_ -= x->lines.size();
  by_session_.erase(x->session_id);
  pending_.erase(x);
}

result<void> workspace_jsonl_sink::keep_bounds(pending_ref newest) {
  bool lost = newest->lines.size() > session_limit;
  if (lost)
    drop(newest);
  for (; bytes_ > total_limit; lost = true)
    drop(pending_.begin());
  if (lost)
    return unexpected(
      make_error(errc::overloaded, op::write, "lines that could not be written yet were dropped"));
  return {};
}

} // namespace troupe::actors
