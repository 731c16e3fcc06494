#include "cli/metrics.hpp"

#include "messages/json.hpp"

namespace troupe::cli {

namespace {

void head(std::string& out, const std::string& name, const char* type, const char* help) {
  out += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

void counter(std::string& out, const std::string& name, const char* help, uint64_t value) {
  head(out, name, "counter", help);
  out += name + " " + std::to_string(value) + "\n";
}

void gauge(std::string& out, const std::string& name, const char* help, uint64_t value) {
  head(out, name, "gauge", help);
  out += name + " " + std::to_string(value) + "\n";
}

/// One line per sink, by its place in the configuration.
void sinks(std::string& out, const std::vector<actors::sink_stats>& all) {
  auto family = [&](const std::string& name, const char* type, const char* help, auto member) {
    head(out, name, type, help);
    for (size_t i = 0; i < all.size(); ++i)
      out += name + "{sink=\"" + std::to_string(i) + "\",type=\"" + std::string{all[i].type}
             + "\"} " + std::to_string(all[i].*member) + "\n";
  };
  using stats = actors::sink_stats;
  family("troupe_sink_delivered_total", "counter", "Events a sink took.", &stats::delivered);
  family("troupe_sink_failed_total", "counter", "Events a sink failed on.", &stats::failed);
  family("troupe_sink_dropped_total", "counter", "Events a sink's full queue had no room for.",
         &stats::dropped);
  family("troupe_sink_queued", "gauge", "Events waiting for a sink.", &stats::queued);
}

/// By the place of the workspace inside.
void warm_sandboxes(std::string& out, const std::vector<backends::warm_count>& all) {
  auto family = [&](const std::string& name, const char* help, auto member) {
    head(out, name, "gauge", help);
    for (const auto& x : all)
      out += name + "{root=" + dump_json(x.root) + "} " + std::to_string(x.*member) + "\n";
  };
  family("troupe_warm_sandboxes_ready", "Sandboxes made in advance.", &backends::warm_count::ready);
  family("troupe_warm_sandboxes_wanted", "Sandboxes the warm pool is to hold.",
         &backends::warm_count::wanted);
}

} // namespace

std::string render_metrics(actors::services& shared, const http_metrics& http) {
  const auto& m = shared.metrics;
  std::string out;
  counter(out, "troupe_sessions_created_total", "Sessions made.", m.sessions_created);
  counter(out, "troupe_sessions_removed_total", "Sessions deleted.", m.sessions_removed);
  counter(out, "troupe_session_restarts_total", "Sessions started again after a crash.",
          m.session_restarts);
  counter(out, "troupe_commands_started_total", "Commands started.", m.commands_started);
  counter(out, "troupe_commands_failed_total",
          "Commands that could not run, timed out or were cancelled.", m.commands_failed);
  counter(out, "troupe_snapshots_persisted_total", "Snapshots written.", m.snapshots_persisted);
  counter(out, "troupe_snapshots_restored_total", "Snapshots restored.", m.snapshots_restored);
  counter(out, "troupe_events_published_total", "Events published.", m.events_published);
  counter(out, "troupe_events_dropped_total", "Events that did not reach the journal.",
          m.events_dropped);
  if (shared.sinks)
    sinks(out, shared.sinks->stats());
  if (auto warm = shared.runtime.warm_sandboxes(); !warm.empty())
    warm_sandboxes(out, warm);
  gauge(out, "troupe_io_jobs_queued", "Jobs waiting for the I/O pool.", shared.io.queued());
  gauge(out, "troupe_cpu_jobs_queued", "Jobs waiting for the CPU pool.", shared.cpu.queued());
  head(out, "troupe_http_requests_total", "counter", "HTTP requests by class of status.");
  for (int i = 1; i <= 5; ++i)
    out += "troupe_http_requests_total{class=\"" + std::to_string(i) + "xx\"} "
           + std::to_string(http.by_class[i].load()) + "\n";
  counter(out, "troupe_http_request_microseconds_total", "Time spent on HTTP requests.",
          http.total_us);
  return out;
}

} // namespace troupe::cli
