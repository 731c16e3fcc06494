#include "backends/runner_sandbox.hpp"

namespace troupe::backends {

command_id runner_sandbox::exec(command_spec spec, command_handlers handlers) {
  if (auto x = runner())
    return x->start(std::move(spec), std::move(handlers));
  return refuse(std::move(handlers.on_exit));
}

command_id runner_sandbox::open_terminal(command_spec spec, terminal_options options,
                                         terminal_handlers handlers) {
  if (auto x = runner())
    return x->open_terminal(std::move(spec), options, std::move(handlers));
  return refuse(std::move(handlers.on_exit));
}

void runner_sandbox::write_terminal(command_id id, std::string bytes,
                                    std::function<void(result<void>)> done) {
  if (auto x = runner())
    x->write_terminal(id, std::move(bytes), std::move(done));
  else
    services_.events.post([done = std::move(done)] { done({}); });
}

void runner_sandbox::resize_terminal(command_id id, uint16_t rows, uint16_t cols) {
  if (auto x = runner())
    x->resize_terminal(id, rows, cols);
}

void runner_sandbox::grant(command_id id, int64_t bytes) {
  if (auto x = runner())
    x->grant(id, bytes);
}

void runner_sandbox::cancel(command_id id) {
  if (auto x = runner())
    x->cancel(id);
}

command_id runner_sandbox::refuse(std::function<void(result<command_exit>)> on_exit) {
  services_.events.post([on_exit = std::move(on_exit)] {
    if (on_exit)
      on_exit(unexpected{make_error(errc::conflict, op::exec, "the sandbox is not open")});
  });
  return 0;
}

} // namespace troupe::backends
