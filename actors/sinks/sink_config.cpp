#include "actors/sinks/sink_config.hpp"

#include "actors/sinks/append.hpp"
#include "actors/sinks/chained_sink.hpp"
#include "actors/sinks/jsonl_sink.hpp"
#include "workspace/path_policy.hpp"

namespace troupe::actors {

namespace {

using made_sink = result<std::unique_ptr<event_sink>>;

struct maker {
  sink_settings settings;
  const workspace_append& append;

  made_sink operator()(const jsonl_options& x) {
    if (auto writable = append_to_file(x.path, ""); !writable)
      return unexpected(std::move(writable.error()));
    return std::make_unique<jsonl_sink>(settings, x.path);
  }

  made_sink operator()(const http_options& x) {
    if (!x.spool_path.empty())
      if (auto writable = append_to_file(x.spool_path, ""); !writable)
        return unexpected(std::move(writable.error()));
    return http_sink::make(settings, x);
  }

  made_sink operator()(const workspace_jsonl_options& x) {
    auto path = workspace::normalize_skip_path(x.path);
    if (!path)
      return unexpected(std::move(path.error()));
    auto options = x;
    options.path = *path;
    return std::make_unique<workspace_jsonl_sink>(settings, std::move(options), append);
  }

  made_sink operator()(const chained_options& x) {
    std::vector<std::unique_ptr<event_sink>> sinks;
    for (const auto& config : x.sinks) {
      auto made = make_sink(config, append);
      if (!made)
        return made;
      sinks.push_back(std::move(*made));
    }
    return std::make_unique<chained_sink>(settings, std::move(sinks));
  }

  made_sink operator()(const callback_options& x) {
    return std::make_unique<callback_sink>(settings, x.callback);
  }
};

} // namespace

made_sink make_sink(const sink_config& config, const workspace_append& append) {
  bool direct = std::holds_alternative<callback_options>(config.kind)
                || std::holds_alternative<chained_options>(config.kind);
  sink_settings settings;
  settings.mode = config.mode.value_or(direct ? sink_mode::sync : sink_mode::best_effort);
  settings.on_error = config.on_error.value_or(direct ? sink_on_error::raise : sink_on_error::log);
  settings.policy = config.policy;
  settings.queue_limit = config.queue_limit;
  return std::visit(maker{settings, append}, config.kind);
}

std::vector<std::string> ephemeral_sink_paths(const std::vector<sink_config>& sinks,
                                              const std::string& session_id) {
  std::vector<std::string> paths;
  for (const auto& config : sinks) {
    if (auto* x = std::get_if<workspace_jsonl_options>(&config.kind); x && x->ephemeral)
      paths.push_back(workspace_jsonl_sink::path_of(*x, session_id));
    if (auto* x = std::get_if<chained_options>(&config.kind)) {
      auto inner = ephemeral_sink_paths(x->sinks, session_id);
      paths.insert(paths.end(), inner.begin(), inner.end());
    }
  }
  return paths;
}

} // namespace troupe::actors
