#include "actors/sinks/event_payload.hpp"

#include "actors/sinks/path_redaction.hpp"
#include "messages/event_json.hpp"
#include "workspace/unicode_text.hpp"

namespace troupe::actors {

namespace {

/// At most `max_chars` characters, with an ellipsis if there are more.
std::string cut_text(std::string_view bytes, uint32_t max_chars) {
  auto text = workspace::utf8_with_replacement(bytes.substr(0, bytes_for(max_chars)));
  size_t chars = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    bool starts_character = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (starts_character && ++chars > max_chars) {
      text.resize(i);
      return text += "…";
    }
  }
  return text;
}

void remove_length(event& x) {
  auto data = parse_json(x.data);
  if (data && data->is_object() && data->erase("bytes") > 0)
    x.data = dump_json(*data);
}

} // namespace

size_t bytes_for(uint32_t max_chars) {
  return (size_t{max_chars} + 1) * 4;
}

event_payload make_payload(const event& x, const event_policy& policy) {
  event_payload out{x, {}, {}};
  out.what.output.reset();
  if (!*policy.include_write_len)
    remove_length(out.what);
  if (*policy.redact_paths)
    redact_paths(out.what);
  if (*policy.include_exec_output && x.output) {
    out.stdout_text = cut_text(x.output->stdout_data, *policy.max_stdout_chars);
    out.stderr_text = cut_text(x.output->stderr_data, *policy.max_stderr_chars);
  }
  return out;
}

std::string event_line(const event_payload& x) {
  nlohmann::json sorted = event_to_json(x.what);
  if (x.stdout_text)
    sorted["stdout"] = *x.stdout_text;
  if (x.stderr_text)
    sorted["stderr"] = *x.stderr_text;
  return sorted.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + '\n';
}

} // namespace troupe::actors
