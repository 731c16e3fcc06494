#include "actors/sinks/event_policy.hpp"

namespace troupe::actors {

event_policy overlay(event_policy base, const event_policy& over) {
  auto set = [](auto& field, const auto& value) {
    if (value)
      field = value;
  };
  set(base.include_exec_output, over.include_exec_output);
  set(base.max_stdout_chars, over.max_stdout_chars);
  set(base.max_stderr_chars, over.max_stderr_chars);
  set(base.include_write_len, over.include_write_len);
  set(base.redact_paths, over.redact_paths);
  return base;
}

event_policy event_policies::effective(op operation, const event_policy& own) const {
  auto policy = overlay({false, 8000, 8000, true, false}, all);
  if (auto i = by_op.find(operation); i != by_op.end())
    policy = overlay(policy, i->second);
  return overlay(policy, own);
}

} // namespace troupe::actors
