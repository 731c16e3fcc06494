#include "actors/manifest_supervisor.hpp"

#include "actors/mount_job.hpp"
#include "backends/ownership.hpp"
#include "messages/ids.hpp"
#include "workspace/materialize.hpp"
#include "workspace/tree.hpp"

#include <algorithm>

namespace troupe::actors {

namespace {

/// Small files in one job: enough to hide the actor, few enough to spread over the pool.
constexpr size_t batch_files = 1024;
constexpr size_t batch_bytes = 4 << 20;

/// A job is tried this often when its error is retryable or its actor died.
constexpr int max_tries = 3;

/// Whether an entry is nothing but inline files and directories, so that it can go into a batch.
bool is_inline(const troupe::entry& x) {
  if (x.is_mount())
    return false;
  if (x.kind == entry_kind::file)
    return true;
  return x.kind == entry_kind::dir
         && std::all_of(x.children.begin(), x.children.end(),
                        [](const named_entry& child) { return is_inline(child.entry); });
}

size_t content_size(const troupe::entry& x) {
  size_t size = x.content.size();
  for (const auto& child : x.children)
    size += content_size(child.entry);
  return size;
}

/// Makes an inline subtree: the directory first, then what is in it, in the manifest's order.
result<void> write_inline(int root_fd, const workspace::planned_entry& x, std::stop_token stop) {
  if (x.entry->kind == entry_kind::file)
    return workspace::write_inline_files(root_fd, {{x.destination, x.entry}}, stop);
  if (auto ok = workspace::make_entry_directory(root_fd, x.destination, *x.entry); !ok)
    return ok;
  std::vector<workspace::inline_file> files;
  auto flush = [&]() -> result<void> {
    auto ok = workspace::write_inline_files(root_fd, files, stop);
    files.clear();
    return ok;
  };
  for (const auto& step : workspace::plan_children(*x.entry, x.destination))
    for (const auto& child : step) {
      if (child.entry->kind == entry_kind::file) {
        files.push_back({child.destination, child.entry});
        continue;
      }
      if (auto ok = flush(); !ok)
        return ok;
      if (auto ok = write_inline(root_fd, child, stop); !ok)
        return ok;
    }
  return flush();
}

/// Where an isolated session's repository is fetched: neither the server nor the session may be the
/// one that a hostile repository is unpacked by, and the session may have no network. This one
/// reaches the repository's host, if the operator lets it, and nothing else.
backends::sandbox_config fetch_sandbox(const application& work, const troupe::entry& x,
                                       const std::string& folder) {
  backends::sandbox_config out;
  out.session_id = work.session_id;
  out.private_dir = folder;
  out.workspace_root = folder + "/workspace";
  out.network = network_mode::allow;
  auto bare = x.host.find(':') == std::string::npos || x.host.back() == ']';
  out.network_allow = {bare ? x.host + ":443" : x.host};
  return out;
}

error git_error(const troupe::entry& x, const result<exec_result>& failed) {
  if (!failed && failed.error().code == errc::exec_transport_error)
    return make_error(errc::git_missing_in_image, op::materialize,
                      "git is required in the container image to materialize git_repo artifacts")
      .with("repo", x.repo)
      .with("ref", x.ref);
  if (!failed && failed.error().code != errc::exec_timeout)
    return failed.error();
  auto url = workspace::git_url(x);
  auto e = make_error(errc::git_clone_error, op::materialize,
                      "git clone failed for " + url + "@" + x.ref)
             .with("url", url)
             .with("ref", x.ref)
             .with("stderr", failed ? failed->stderr_data : failed.error().message)
             .with("repo", x.repo);
  e.with_json("subpath", x.subpath ? json_quote(*x.subpath) : "null");
  return e;
}

} // namespace

manifest_supervisor_state::manifest_supervisor_state(self_ptr<handle_type> self, services& shared,
                                                     application work)
  : self_(self), shared_(shared), stop_(std::make_shared<std::stop_source>()) {
  if (!work.spawn_entry)
    work.spawn_entry
      = [this, tenant = work.tenant, backend = work.backend, environment = work.environment] {
          return self_->spawn<state_actor<entry_state>>(std::ref(shared_), tenant, backend,
                                                        environment);
        };
  work_ = std::make_shared<const application>(std::move(work));
}

manifest_supervisor_state::~manifest_supervisor_state() {
  stop_->request_stop();
}

manifest_supervisor_state::handle_type::behavior_type manifest_supervisor_state::make_behavior() {
  return {
    [this](const run_application&) -> caf::result<materialized_files> {
      reply_.emplace(self_);
      auto answer = *reply_;
      auto& top = *groups_.emplace_back(std::make_unique<group>());
      top.steps = workspace::plan_manifest(*work_->manifest, work_->only_ephemeral);
      start_step(top);
      pump();
      return answer;
    },
  };
}

void manifest_supervisor_state::start_step(group& g) {
  if (g.next_step == g.steps.size()) {
    if (g.parent)
      job_done(*g.parent);
    else
      finish();
    return;
  }
  auto& step = g.steps[g.next_step++];
  // Held while the step is laid out, so that it cannot end before it has begun.
  ++g.running;
  std::vector<workspace::planned_entry> batch;
  size_t bytes = 0;
  for (auto& x : step) {
    if (!is_inline(*x.entry)) {
      add_job(g, x);
      continue;
    }
    bytes += content_size(*x.entry);
    batch.push_back(x);
    if (batch.size() == batch_files || bytes >= batch_bytes) {
      add_inline(g, std::move(batch));
      batch.clear();
      bytes = 0;
    }
  }
  if (!batch.empty())
    add_inline(g, std::move(batch));
  job_done(g);
}

void manifest_supervisor_state::job_done(group& g) {
  if (--g.running == 0 && !failure_)
    start_step(g);
}

void manifest_supervisor_state::add_inline(group& g, std::vector<workspace::planned_entry> batch) {
  auto job = std::make_shared<entry_job>();
  job->name = batch.front().destination;
  total_ += static_cast<uint32_t>(batch.size());
  auto count = static_cast<uint32_t>(batch.size());
  auto work = work_;
  auto stop = stop_->get_token();
  job->run = [work, stop, batch = std::move(batch)]() -> result<std::vector<materialized_file>> {
    backends::acting_as_if identity{work->identity};
    // Runs of plain files share their parent's descriptor.
    std::vector<workspace::inline_file> files;
    auto flush = [&]() -> result<void> {
      auto ok = workspace::write_inline_files(work->root->get(), files, stop);
      files.clear();
      return ok;
    };
    for (const auto& x : batch) {
      if (x.entry->kind == entry_kind::file) {
        files.push_back({x.destination, x.entry});
        continue;
      }
      if (auto ok = flush(); !ok)
        return unexpected(std::move(ok.error()));
      if (auto ok = write_inline(work->root->get(), x, stop); !ok)
        return unexpected(std::move(ok.error()));
    }
    if (auto ok = flush(); !ok)
      return unexpected(std::move(ok.error()));
    return std::vector<materialized_file>{};
  };
  ++g.running;
  waiting_.push_back({std::move(job), &g, nullptr, {}, next_order_++, 0, count});
}

void manifest_supervisor_state::add_job(group& g, const workspace::planned_entry& x) {
  auto job = std::make_shared<entry_job>();
  job->name = x.destination;
  if (x.entry->is_mount()) {
    plan_mount(*job, work_, x.entry->mount[0]);
    ++total_;
    ++g.running;
    waiting_.push_back({std::move(job), &g, nullptr, {}, next_order_++, 0, 1});
    return;
  }
  auto work = work_;
  auto stop = stop_->get_token();
  std::vector<path_grant> grants;
  if (shared_.config.grants_widen_sources)
    grants = work_->manifest->extra_path_grants;
  const troupe::entry* children_of = nullptr;
  switch (x.entry->kind) {
    case entry_kind::file:
    case entry_kind::dir:
      children_of = x.entry;
      job->run = [work, x]() -> result<std::vector<materialized_file>> {
        backends::acting_as_if identity{work->identity};
        if (auto ok = workspace::make_entry_directory(work->root->get(), x.destination, *x.entry);
            !ok)
          return unexpected(std::move(ok.error()));
        return std::vector<materialized_file>{};
      };
      break;
    case entry_kind::local_file:
      job->run
        = [work, stop, x, grants,
           policy = shared_.config.local_sources]() -> result<std::vector<materialized_file>> {
        auto file = workspace::copy_local_file(policy, work->root->get(), work->root_path,
                                               x.destination, *x.entry, grants, stop);
        if (!file)
          return unexpected(std::move(file.error()));
        return std::vector{std::move(*file)};
      };
      break;
    case entry_kind::local_dir:
      job->run = [work, stop, x, grants, policy = shared_.config.local_sources] {
        return workspace::copy_local_dir(policy, work->root->get(), work->root_path, x.destination,
                                         *x.entry, grants, work->limits.local_dir_files, stop, {});
      };
      break;
    case entry_kind::git_repo: {
      auto subpath = workspace::check_git_subpath(*x.entry);
      if (!subpath) {
        job->run = [problem = subpath.error()]() -> result<std::vector<materialized_file>> {
          return unexpected(problem);
        };
        break;
      }
      auto folder = work->private_dir + "/git-" + random_hex(8);
      auto tmp = folder;
      if (work->isolated) {
        job->own_sandbox = fetch_sandbox(*work, *x.entry, folder);
        tmp = job->own_sandbox->workspace_root + "/tree";
        job->attempts = workspace::git_attempts(*x.entry, job->own_sandbox->inside_root + "/tree");
      } else {
        job->attempts = workspace::git_attempts(*x.entry, tmp);
      }
      // git must never wait for someone to type a password.
      job->environment = {{"GIT_TERMINAL_PROMPT", "0"}};
      job->command_error
        = [x](const auto&, const auto& failed) { return git_error(*x.entry, failed); };
      job->run = [work, x, tmp, subpath = *subpath]() -> result<std::vector<materialized_file>> {
        if (auto ok = workspace::adopt_git_tree(work->root->get(), x.destination, tmp, subpath);
            !ok)
          return unexpected(std::move(ok.error()));
        if (auto ok = workspace::apply_metadata(work->root->get(), x.destination, *x.entry); !ok)
          return unexpected(std::move(ok.error()));
        return std::vector<materialized_file>{};
      };
      // What cannot be removed now goes with the session's private directory.
      job->cleanup = [folder] { (void) workspace::remove_tree_at(folder); };
      break;
    }
  }
  ++total_;
  ++g.running;
  waiting_.push_back({std::move(job), &g, children_of, x.destination, next_order_++, 0, 1});
}

void manifest_supervisor_state::pump() {
  auto limit = work_->limits.manifest_entries;
  while (!waiting_.empty() && !failure_ && (!limit || running_ < static_cast<size_t>(*limit))) {
    auto job = std::move(waiting_.front());
    waiting_.pop_front();
    run(std::move(job));
  }
}

void manifest_supervisor_state::run(pending_job job) {
  ++running_;
  ++job.tries;
  auto actor = work_->spawn_entry();
  auto shared_job = std::make_shared<pending_job>(std::move(job));
  // An actor that dies answers through its promise's guard or, if it died before it took the
  // request, through CAF: so one path sees every end.
  ask_then<materialized_files>(
    self_, actor,
    [this, shared_job](result<materialized_files> x) {
      --running_;
      if (x)
        succeeded(*shared_job, std::move(*x));
      else
        failed(std::move(*shared_job), std::move(x.error()));
      if (failure_ && running_ == 0)
        finish();
      else
        pump();
    },
    shared_job->job);
}

void manifest_supervisor_state::succeeded(const pending_job& job, materialized_files files) {
  if (failure_)
    return;
  done_ += job.entries;
  if (work_->report)
    work_->report({done_, total_});
  if (!files.items.empty())
    files_[job.order] = std::move(files.items);
  if (!job.children_of) {
    job_done(*job.owner);
    return;
  }
  auto& nested = *groups_.emplace_back(std::make_unique<group>());
  nested.parent = job.owner;
  nested.steps = workspace::plan_children(*job.children_of, job.destination);
  start_step(nested);
}

void manifest_supervisor_state::failed(pending_job job, error reason) {
  if (failure_)
    return;
  bool retryable = reason.retryable.value_or(false);
  if (retryable && job.tries < max_tries) {
    waiting_.push_front(std::move(job));
    return;
  }
  failure_ = std::move(reason);
  stop_->request_stop();
  waiting_.clear();
}

void manifest_supervisor_state::finish() {
  if (finished_)
    return;
  finished_ = true;
  if (failure_) {
    reply_->finish(unexpected(std::move(*failure_)));
  } else {
    materialized_files all;
    for (auto& [order, files] : files_)
      std::move(files.begin(), files.end(), std::back_inserter(all.items));
    reply_->finish(std::move(all));
  }
  self_->quit();
}

} // namespace troupe::actors
