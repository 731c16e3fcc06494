#include "cli/run.hpp"

#include "actors/node_host.hpp"
#include "backends/granted_ids.hpp"
#include "cli/config.hpp"
#include "messages/event_json.hpp"
#include "messages/ids.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/session_limits_json.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <thread>

namespace troupe::cli {

namespace {

using namespace actors;

constexpr int own_failure = 125;

int fail(const error& x) {
  std::fprintf(stderr, "troupe: %s: %s\n", std::string{to_string(x.code)}.c_str(),
               x.message.c_str());
  if (x.context != "{}")
    std::fprintf(stderr, "troupe: %s\n", x.context.c_str());
  return own_failure;
}

/// A folder for this life, gone with it.
class scratch_folder {
public:
  scratch_folder() {
    const char* base = std::getenv("TMPDIR"); // NOLINT(concurrency-mt-unsafe): before any thread
    path_ = std::string{base && *base ? base : "/tmp"} + "/troupe-run-XXXXXX";
    if (!::mkdtemp(path_.data()))
      path_.clear();
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;
  ~scratch_folder() {
    if (!path_.empty() && !keep)
      (void) workspace::remove_tree_at(path_);
  }
  const std::string& path() const {
    return path_;
  }
  bool keep = false;

private:
  std::string path_;
};

result<json> read_json_file(const std::string& path) {
  auto text = read_text_file(path);
  if (!text)
    return unexpected(std::move(text.error()));
  auto value = parse_json(*text);
  if (!value)
    return unexpected(std::move(value.error().with("file", path)));
  return value;
}

result<session_spec> make_spec(const run_options& options) {
  session_spec spec;
  spec.start = false;
  if (!options.resume.empty()) {
    auto value = read_json_file(options.resume);
    if (!value)
      return unexpected(std::move(value.error()));
    auto state = workspace::parse_state(*value);
    if (!state)
      return unexpected(std::move(state.error()));
    spec.state = std::move(*state);
    spec.id = spec.state.session_id;
    spec.resumed = true;
  } else {
    auto value = read_json_file(options.manifest);
    if (!value)
      return unexpected(std::move(value.error()));
    auto manifest = workspace::parse_manifest(*value);
    if (!manifest)
      return unexpected(std::move(manifest.error()));
    spec.state.manifest = std::move(*manifest);
    spec.id = make_uuid();
  }
  if (!options.backend.empty()) {
    auto kind = backend_from_string(options.backend);
    if (!kind)
      return unexpected(make_error(errc::backend_unavailable, op::create,
                                   "unknown backend `" + options.backend + "`"));
    if (*kind != backend_kind::isolated && spec.state.type == backend_kind::isolated) {
      auto held
        = workspace::parse_session_limits(workspace::dump_session_limits(spec.state.limits), *kind);
      if (!held || spec.state.network != network_mode::none)
        return unexpected(make_error(errc::sandbox_config_invalid, op::resume,
                                     "the state has limits or a network that only the backend "
                                     "`isolated` can hold")
                            .with("backend", options.backend));
    }
    spec.state.type = *kind;
  }
  if (!options.snapshot_dir.empty()) {
    spec.state.snapshot.kind = snapshot_kind::local;
    if (spec.state.snapshot.id.empty())
      spec.state.snapshot.id = spec.id;
    spec.state.snapshot.base_path = std::filesystem::absolute(options.snapshot_dir);
  }
  if (!options.save.empty() && spec.state.snapshot.kind == snapshot_kind::noop)
    return unexpected(make_error(errc::invalid_request, op::create,
                                 "--save needs --snapshot-dir: a state without a snapshot brings "
                                 "nothing back"));
  return spec;
}

/// Shows how far long work has come, on a terminal only.
class progress_line {
public:
  explicit progress_line(node_host& host) : host_(host), shown_(::isatty(STDERR_FILENO) == 1) {
    if (shown_)
      thread_ = std::thread{[this] { follow(); }};
  }
  progress_line(const progress_line&) = delete;
  progress_line& operator=(const progress_line&) = delete;
  ~progress_line() {
    done_ = true;
    if (thread_.joinable())
      thread_.join();
  }

private:
  void follow() {
    poll_events query;
    query.tenant = "default";
    query.wait_ms = 100;
    bool dirty = false;
    while (!done_) {
      auto page = host_.ask<event_page>(host_.shared().directory.events(), query);
      if (!page)
        break;
      query.after_id = page->next_after;
      for (const auto& x : page->items)
        if (x.phase == event_phase::progress) {
          std::fprintf(stderr, "\r\033[K%s %s", std::string{to_string(x.operation)}.c_str(),
                       x.data.c_str());
          dirty = true;
        } else if (dirty) {
          std::fprintf(stderr, "\r\033[K");
          dirty = false;
        }
    }
    if (dirty)
      std::fprintf(stderr, "\r\033[K");
  }

  node_host& host_;
  bool shown_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

/// SIGINT and SIGTERM cancel the command; the session is still stopped properly.
class signal_watch {
public:
  signal_watch(local_session_actor session, uint64_t call_id)
    : thread_{[this, session, call_id] {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGUSR2); // our own: the command has ended
        for (;;) {
          int signal = 0;
          sigwait(&set, &signal);
          if (signal == SIGUSR2)
            return;
          caught = signal;
          anon_tell(session, exec_cancel{call_id});
        }
      }} {}
  signal_watch(const signal_watch&) = delete;
  signal_watch& operator=(const signal_watch&) = delete;
  ~signal_watch() {
    ::pthread_kill(thread_.native_handle(), SIGUSR2);
    thread_.join();
  }
  std::atomic<int> caught{0};

private:
  std::thread thread_;
};

shared_fd duplicate(int fd) {
  return std::make_shared<const unique_fd>(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

/// Runs the command on this process's own streams; its exit code, as a shell would give it.
result<int> run_command(node_host& host, const local_session_actor& session,
                        const std::vector<std::string>& command) {
  attached_exec request;
  request.exec.call_id = 1;
  request.exec.request.command = command;
  request.exec.request.shell = shell_mode::off;
  request.exec.stdin_fd = duplicate(STDIN_FILENO);
  request.exec.stdout_fd = duplicate(STDOUT_FILENO);
  request.exec.stderr_fd = duplicate(STDERR_FILENO);
  signal_watch signals{session, request.exec.call_id};
  auto ended = host.ask<exec_result>(session, std::move(request));
  if (signals.caught != 0)
    return 128 + signals.caught;
  if (!ended)
    return unexpected(std::move(ended.error()));
  return ended->exit_code >= 0 ? ended->exit_code : 128 - ended->exit_code;
}

} // namespace

int run(const run_options& options) {
  auto spec = make_spec(options);
  if (!spec)
    return fail(spec.error());
  scratch_folder folder;
  if (folder.path().empty())
    return fail(make_error(errc::internal, op::create, "cannot make a temporary folder"));
  node_config config;
  config.state_dir = folder.path();
  config.shards = 1;
  // As the reference: local sources are relative to where the command was given.
  config.local_sources.base_dir = std::filesystem::current_path();
  config.grants_widen_sources = true;
  if (!options.events.empty()) {
    sink_config file;
    file.kind = jsonl_options{options.events};
    file.mode = sink_mode::async;
    config.event_sinks.push_back(std::move(file));
  }
  // Without them the sandbox has a single user, which its walls say.
  if (spec->state.type == backend_kind::isolated && ::geteuid() != 0)
    (void) backends::enter_granted_ids(config.state_dir);
  auto started = node_host::start(config, [] { ::_exit(own_failure); });
  if (!started)
    return fail(started.error());
  auto& host = **started;
  auto supervisor = host.supervisor_of(spec->id);
  const auto id = spec->id;
  const bool persists = spec->state.snapshot.kind != snapshot_kind::noop;

  if (spec->state.type == backend_kind::unix_local)
    std::fprintf(stderr, "troupe: backend unix_local: no isolation, the command runs as you\n");
  auto made = spec->resumed ? host.ask<session_view>(supervisor, resume_session{std::move(*spec)})
                            : host.ask<session_view>(supervisor, create_session{std::move(*spec)});
  if (!made)
    return fail(made.error());
  auto session = host.ask<local_session_actor>(supervisor, lookup_local{id});
  if (!session)
    return fail(session.error());

  int code = own_failure;
  {
    progress_line progress{host};
    if (auto up = host.ask<session_view>(*session, start_session{}); !up)
      return fail(up.error());
  }
  auto ended = run_command(host, *session, options.command);
  code = ended ? *ended : fail(ended.error());

  if (persists) {
    progress_line progress{host};
    auto stopped = host.ask<session_view>(*session, stop_session{});
    if (!stopped) {
      // The work is not in a snapshot: it must not be thrown away.
      folder.keep = true;
      std::fprintf(stderr, "troupe: the workspace is kept in %s\n",
                   made->record.spec.state.manifest.root.c_str());
      return fail(stopped.error());
    }
    for (const auto& warning : stopped->record.live.warnings)
      std::fprintf(stderr, "troupe: %s\n", warning.c_str());
    if (!options.save.empty()) {
      auto text = workspace::dump_state(stopped->record.spec.state).dump(2) + "\n";
      if (auto saved = write_text_file(options.save, text); !saved)
        return fail(saved.error());
    }
  }
  if (auto down = host.ask<session_view>(*session, shutdown_session{}); !down)
    return fail(down.error());
  if (options.keep) {
    folder.keep = true;
    std::fprintf(stderr, "troupe: the workspace is kept in %s\n",
                 made->record.spec.state.manifest.root.c_str());
  } else if (auto gone = host.ask<void>(supervisor, remove_session{id, "default", true}); !gone) {
    return fail(gone.error());
  }
  return code;
}

} // namespace troupe::cli
