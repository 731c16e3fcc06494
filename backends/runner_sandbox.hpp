#pragma once

#include "backends/command_runner.hpp"

namespace troupe::backends {

/// A sandbox whose commands are a `command_runner`'s: hands every call on to that of its current
/// life. Without one, commands are refused and the rest has nobody to go to.
class runner_sandbox : public sandbox {
public:
  command_id exec(command_spec spec, command_handlers handlers) override;
  command_id open_terminal(command_spec spec, terminal_options options,
                           terminal_handlers handlers) override;
  void write_terminal(command_id id, std::string bytes,
                      std::function<void(result<void>)> done) override;
  void resize_terminal(command_id id, uint16_t rows, uint16_t cols) override;
  void grant(command_id id, int64_t bytes) override;
  void cancel(command_id id) override;

protected:
  explicit runner_sandbox(runner_services services) : services_(services) {}

  /// Null: not open.
  virtual std::shared_ptr<command_runner> runner() const = 0;

  runner_services services_;

private:
  command_id refuse(std::function<void(result<command_exit>)> on_exit);
};

} // namespace troupe::backends
