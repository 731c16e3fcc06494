#include "gateway/native/command_json.hpp"

#include "workspace/base64.hpp"
#include "workspace/unicode_text.hpp"

namespace troupe::gateway {

exec_request read_command(object_reader& in) {
  exec_request request;
  if (auto* command = in.any("command"); command && command->is_string())
    request.command = {command->get<std::string>()};
  else
    request.command = in.texts("command").value_or(std::vector<std::string>{});
  if (request.command.empty())
    in.fail("command", "text or a list of texts with at least one");
  if (auto* shell = in.any("shell"); shell && shell->is_array()) {
    request.shell_prefix = in.texts("shell").value_or(std::vector<std::string>{});
    // The contract: an empty list is no shell.
    request.shell = request.shell_prefix.empty() ? shell_mode::off : shell_mode::prefix;
  } else if (shell && !shell->is_boolean()) {
    in.fail("shell", "true, false or a list of texts");
  } else if (!in.boolean("shell").value_or(true)) {
    request.shell = shell_mode::off;
  }
  request.user = in.text("user");
  request.cwd = in.text("cwd");
  request.env = in.text_map("env").value_or(std::map<std::string, std::string>{});
  request.timeout = in.seconds("timeout_s");
  return request;
}

bool read_base64(object_reader& in) {
  auto encoding = in.text("output_encoding").value_or("utf-8");
  if (encoding != "utf-8" && encoding != "base64")
    in.fail("output_encoding", "\"utf-8\" or \"base64\"");
  return encoding == "base64";
}

result<void> finish_command(object_reader& in, const exec_request& request) {
  if (auto ok = in.finish(); !ok)
    return ok;
  for (const auto& [name, value] : request.env)
    if (name.empty() || name.find_first_of(std::string_view{"=\0", 2}) != std::string::npos)
      return unexpected(
        make_error(errc::invalid_request, op::exec, "`env` has a name that no environment can hold")
          .with("field", "env")
          .with("name", name));
  return {};
}

std::string encode_output(const std::string& bytes, bool base64) {
  return base64 ? workspace::base64_encode(bytes) : workspace::utf8_with_replacement(bytes);
}

} // namespace troupe::gateway
