#include "actors/entry.hpp"

#include "actors/backend.hpp"
#include "messages/ids.hpp"

namespace troupe::actors {

namespace {

/// One command of a materialisation; git over a slow network takes minutes, for ever is a fault.
constexpr auto command_timeout = std::chrono::minutes{10};

/// Kept of what a command printed, for its error.
constexpr int64_t command_output_limit = 64 * 1024;

uint64_t random_call_id() {
  return std::stoull(random_hex(8), nullptr, 16);
}

} // namespace

entry_state::entry_state(self_ptr<handle_type> self, services& shared, std::string tenant,
                         backend_actor backend,
                         std::vector<std::pair<std::string, std::string>> environment)
  : self_(self), shared_(shared), tenant_(std::move(tenant)), backend_(std::move(backend)),
    environment_(std::move(environment)) {}

entry_state::~entry_state() {
  if (own_backend_)
    caf::anon_send_exit(own_backend_, caf::exit_reason::kill);
}

entry_state::handle_type::behavior_type entry_state::make_behavior() {
  return {
    [this](entry_job_ptr& job) -> caf::result<materialized_files> {
      reply_to<materialized_files> reply{self_};
      launch<materialized_files>(scope_, work(job), [this, reply](result<materialized_files> x) {
        reply.finish(std::move(x));
        self_->quit();
      });
      return reply;
    },
    [](action& work) { work(); },
  };
}

co<result<materialized_files>> entry_state::work(entry_job_ptr job) {
  result<materialized_files> outcome = materialized_files{};
  if (job->prepare) {
    auto prepared = co_await offload<void>(self_, shared_.io, tenant_, job->prepare);
    if (!prepared)
      outcome = unexpected(std::move(prepared.error()));
  }
  if (outcome && !job->attempts.empty()) {
    auto ran = co_await fetch(job);
    if (!ran)
      outcome = unexpected(std::move(ran.error()));
  }
  if (outcome) {
    auto run = [job] { return job->run(); };
    auto files = co_await offload<std::vector<materialized_file>>(self_, shared_.io, tenant_, run);
    if (files)
      outcome->items = std::move(*files);
    else
      outcome = unexpected(std::move(files.error()));
  }
  if (own_backend_) {
    auto removed = co_await ask<void>(self_, own_backend_, remove_sandbox{});
    (void) removed; // what is left is in the session's folder, and goes with it
    self_->send_exit(own_backend_, caf::exit_reason::kill);
    own_backend_ = backend_actor{};
  }
  if (job->cleanup) {
    auto clean = [job]() -> result<void> {
      job->cleanup();
      return {};
    };
    auto cleaned = co_await offload<void>(self_, shared_.io, tenant_, clean);
    (void) cleaned;
  }
  co_return outcome;
}

co<result<void>> entry_state::fetch(entry_job_ptr job) {
  if (!job->own_sandbox)
    co_return co_await run_commands(job, backend_);
  auto made = shared_.runtime.make_sandbox(backend_kind::isolated, *job->own_sandbox);
  if (!made)
    co_return unexpected(std::move(made.error()));
  std::shared_ptr<backends::sandbox> sandbox{std::move(*made)};
  own_backend_ = self_->spawn<state_actor<backend_state>>(
    std::ref(shared_), job->own_sandbox->session_id, tenant_, std::move(sandbox));
  auto opened = co_await ask<sandbox_ready>(self_, own_backend_, open_sandbox{});
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto ran = co_await run_commands(job, own_backend_);
  auto closed = co_await ask<void>(self_, own_backend_, close_sandbox{});
  if (ran && !closed)
    co_return closed;
  co_return ran;
}

co<result<void>> entry_state::run_commands(entry_job_ptr job, backend_actor where) {
  std::optional<error> first;
  for (const auto& attempt : job->attempts) {
    std::optional<error> failed;
    for (const auto& argv : attempt) {
      sandbox_exec command;
      command.call_id = random_call_id();
      command.request.command = argv;
      command.request.shell = shell_mode::off;
      command.request.timeout = command_timeout;
      command.request.output_limit = command_output_limit;
      command.request.env = job->environment;
      command.environment = environment_;
      auto ended = co_await ask<exec_result>(self_, where, std::move(command));
      if (!ended || ended->exit_code != 0)
        failed = job->command_error(argv, ended);
      if (failed)
        break;
    }
    if (!failed)
      co_return result<void>{};
    if (!first)
      first = std::move(failed);
  }
  co_return unexpected(std::move(*first));
}

} // namespace troupe::actors
