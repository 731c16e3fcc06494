#include "actors/session.hpp"

#include "backends/ownership.hpp"
#include "snapshot/extract.hpp"
#include "workspace/apply_patch.hpp"

#include <algorithm>

// What changes many files of a session at once, patches and archives, and its ports.

namespace troupe::actors {

namespace {

result<std::vector<workspace::patch_operation>> operations_of(const patch_workspace& x) {
  if (x.operations.empty())
    return workspace::parse_patch(x.text);
  auto value = parse_json(x.operations);
  if (!value)
    return unexpected(std::move(value.error()));
  return workspace::read_patch_operations(*value);
}

} // namespace

co<result<patch_answer>> session_impl::patch(patch_workspace x) {
  if (auto refused = admit())
    co_return unexpected(std::move(*refused));
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto who = identity_(x.user);
  if (!who) {
    who.error().operation = op::apply_patch;
    co_return unexpected(std::move(who.error()));
  }
  ++in_flight_;
  server_write change{*this};
  record_.live.last_used_at_ms = now_ms();
  auto request = std::make_shared<patch_workspace>(std::move(x));
  auto parse = [request] { return operations_of(*request); };
  auto operations = co_await offload<std::vector<workspace::patch_operation>>(
    self_, shared_.io, record_.spec.tenant, parse);
  if (!operations) {
    --in_flight_;
    co_return unexpected(std::move(operations.error()));
  }
  std::vector<span> spans;
  auto begun = co_await begin_patch(*operations, *request, spans);
  auto work = [request, operations = std::move(*operations), root = root_, policy = policy_,
               who = *who]() -> result<patch_answer> {
    backends::acting_as_if identity{who};
    workspace::patch_options options;
    options.cwd = request->cwd;
    options.all_or_nothing = !request->partial;
    // The reference's session works through operations; only its tool looks at all paths first.
    bool is_session_call = !request->operations.empty();
    options.paths_first = !is_session_call || !request->partial;
    auto done = workspace::apply_patch(root->get(), policy, operations, options);
    if (!done)
      return unexpected(std::move(done.error()));
    patch_answer answer;
    answer.text = is_session_call ? "Done!" : std::move(done->text);
    for (auto& file : done->files)
      answer.files.push_back(
        {std::move(file.path), std::string{to_string(file.change)}, std::move(file.moved_to)});
    return answer;
  };
  result<patch_answer> done;
  if (begun)
    done = co_await offload<patch_answer>(self_, shared_.io, record_.spec.tenant, work);
  else
    done = unexpected(std::move(begun.error()));
  --in_flight_;
  for (auto& each : spans) {
    result<void> outcome;
    if (!done)
      outcome = unexpected(done.error());
    auto told = co_await end(std::move(each), std::move(outcome));
    if (done && !told)
      done = unexpected(std::move(told.error()));
  }
  co_return done;
}

co<result<void>>
session_impl::begin_patch(const std::vector<workspace::patch_operation>& operations,
                          const patch_workspace& request, std::vector<span>& spans) {
  for (const auto& x : operations) {
    const auto data = file_data(workspace::anchored_path(request.cwd, x.path), request.user, {});
    std::vector<op> told;
    if (x.kind == workspace::patch_kind::update_file)
      told.push_back(op::read);
    if (x.kind != workspace::patch_kind::delete_file)
      told.push_back(op::write);
    for (auto what : told) {
      auto event = co_await begin(what, data);
      if (!event)
        co_return unexpected(std::move(event.error()));
      spans.push_back(std::move(*event));
    }
  }
  co_return result<void>{};
}

co<result<file_handle>> session_impl::extract_open(extract_archive x) {
  auto scheme = snapshot::archive_scheme_of(x.path, x.scheme);
  if (!scheme)
    co_return unexpected(std::move(scheme.error()));
  auto path = policy_.resolve_local(x.path, true);
  if (!path)
    co_return unexpected(std::move(path.error()));
  extract_target target{std::move(*path), *scheme};
  co_return co_await import_open(std::move(target));
}

co<result<void>> session_impl::extract_commit(commit_extract x) {
  auto archive = use<importing>(x.handle);
  if (!archive)
    co_return unexpected(std::move(archive.error()));
  if (!archive->file->target)
    co_return unexpected(make_error(errc::conflict, op::write, "this upload is a workspace"));
  handles_.erase(x.handle);
  auto opened = co_await ensure_open();
  if (!opened)
    co_return unexpected(std::move(opened.error()));
  auto who = identity_(std::nullopt);
  if (!who)
    co_return unexpected(std::move(who.error()));
  const auto& target = archive->file->target->path;
  auto event = co_await begin(op::write, file_data(target.absolute, {}, archive->file->size));
  if (!event)
    co_return unexpected(std::move(event.error()));
  ++in_flight_;
  server_write change{*this};
  auto work = [file = archive->file, root = root_, limits = record_.spec.archives, who = *who,
               top = file_system_, stop = stop_.get_token()]() -> result<void> {
    const auto& path = file->target->path;
    auto grant = open_grant(path, top, who);
    if (!grant)
      return unexpected(std::move(grant.error()));
    backends::acting_as_if identity{who};
    snapshot::extract_request request;
    request.archive_fd = file->fd.get();
    request.root_fd = *grant ? grant->get() : root->get();
    request.path = path.relative;
    request.shown = path.absolute;
    request.scheme = file->target->scheme;
    request.limits = limits;
    return snapshot::extract(request, stop);
  };
  auto done = co_await offload<void>(self_, shared_.cpu, record_.spec.tenant, work);
  --in_flight_;
  record_.live.last_used_at_ms = now_ms();
  co_return co_await end(std::move(*event), std::move(done));
}

co<result<port_endpoint>> session_impl::endpoint_of(resolve_port x) {
  auto port = std::to_string(x.port);
  auto event = co_await begin(op::resolve_exposed_port, "{\"port\":" + port + "}");
  if (!event)
    co_return unexpected(std::move(event.error()));
  const auto& exposed = record_.spec.state.exposed_ports;
  result<port_endpoint> found = port_endpoint{"127.0.0.1", x.port, false, ""};
  std::string data;
  if (std::find(exposed.begin(), exposed.end(), x.port) == exposed.end()) {
    auto e = make_error(errc::exposed_port_unavailable, op::resolve_exposed_port,
                        "port " + port + " is not configured for host exposure")
               .with("port", static_cast<int64_t>(x.port))
               .with_json("exposed_ports", dump_json(json(exposed)))
               .with("reason", "not_configured");
    e.retryable = false;
    found = unexpected(std::move(e));
  } else {
    data = "{\"server.address\":\"127.0.0.1\",\"server.port\":" + port + "}";
  }
  co_return co_await end(std::move(*event), std::move(found), true, std::move(data));
}

} // namespace troupe::actors
