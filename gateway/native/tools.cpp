#include "gateway/native/api.hpp"
#include "gateway/native/object_reader.hpp"
#include "messages/ids.hpp"
#include "workspace/base64.hpp"
#include "workspace/path_policy.hpp"
#include "workspace/unicode_text.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <numeric>

// The tools of an agent: their arguments, and the text that a model reads of the outcome, byte for
// byte as the contract has it. A run's working directory and user come as query parameters.

namespace troupe::gateway {

namespace {

constexpr uint64_t tool_body_limit = 32 * 1024 * 1024;

/// The largest picture that a model is shown.
constexpr uint64_t image_limit = 10 * 1024 * 1024;
constexpr int32_t image_chunk = 1024 * 1024;

constexpr int64_t default_yield_ms = 10'000;
constexpr int64_t longest_yield_ms = 24 * 3600 * 1000;

void answer_text(const call& c, std::string text) {
  response x;
  x.headers.add("Content-Type", "text/plain; charset=utf-8");
  x.body = std::move(text);
  c.http->respond(std::move(x));
}

std::string update_text(const terminal_update& x) {
  std::array<char, 64> wall;
  std::snprintf(wall.data(), wall.size(), "Wall time: %.4f seconds\n",
                std::chrono::duration<double>(x.wall).count());
  auto text = "Chunk ID: " + random_hex(3) + "\n" + wall.data();
  if (x.exit_code)
    text += "Process exited with code " + std::to_string(*x.exit_code) + "\n";
  if (x.process_id)
    text += "Process running with session ID " + std::to_string(*x.process_id) + "\n";
  if (x.original_token_count)
    text += "Original token count: " + std::to_string(*x.original_token_count) + "\n";
  return text + "Output:\n" + workspace::utf8_with_replacement(x.output);
}

/// How long a model would wait; the terminal cuts it to what it allows.
std::optional<int64_t> yield_of(object_reader& in) {
  auto asked = in.integer("yield_time_ms", 0, INT64_MAX);
  return asked ? std::optional{std::min(*asked, longest_yield_ms)} : std::nullopt;
}

/// These may be left out, but null is none of their values.
void refuse_null(object_reader& in, std::initializer_list<const char*> keys) {
  for (const auto* key : keys)
    if (in.has(key) && in.any(key) == nullptr)
      in.fail(key, "left out or a value, not null");
}

/// A failure that a model is told of like the end of a process.
terminal_update failure(std::string text) {
  terminal_update x;
  x.output = std::move(text);
  x.exit_code = 1;
  return x;
}

std::optional<std::string> query_user(const call& c) {
  auto user = c.query("user");
  return user.empty() ? std::nullopt : std::optional{user};
}

// -- pictures
// -------------------------------------------------------------------------------------------

std::string lower(std::string_view text) {
  std::string out{text};
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool looks_like_svg(std::string_view data) {
  constexpr size_t looked_at = 2048;
  auto head = lower(data.substr(0, looked_at));
  auto start = head.find_first_not_of(" \t\r\n\v\f");
  if (start == std::string::npos)
    return false;
  auto text = std::string_view{head}.substr(start);
  return text.starts_with("<svg")
         || (text.starts_with("<?xml") && text.find("<svg") != std::string_view::npos);
}

/// By content; only a vector picture may be known by its name.
std::optional<std::string> image_type(std::string_view data, const std::string& path) {
  using namespace std::string_view_literals;
  if (data.starts_with("\x89PNG\r\n\x1A\n"sv))
    return "image/png";
  if (data.starts_with("\xFF\xD8\xFF"sv))
    return "image/jpeg";
  if (data.starts_with("GIF87a"sv) || data.starts_with("GIF89a"sv))
    return "image/gif";
  if (data.starts_with("RIFF"sv) && data.size() >= 12 && data.substr(8, 4) == "WEBP"sv)
    return "image/webp";
  if (data.starts_with("BM"sv))
    return "image/bmp";
  if (data.starts_with("II*\0"sv) || data.starts_with("MM\0*"sv))
    return "image/tiff";
  auto name = lower(path);
  if (looks_like_svg(data) || name.ends_with(".svg") || name.ends_with(".svgz"))
    return "image/svg+xml";
  return std::nullopt;
}

/// Reads a picture piece by piece and answers with it.
class image_reader : public std::enable_shared_from_this<image_reader> {
public:
  image_reader(bridge& asker, call c, session_actor session, std::string shown)
    : bridge_(asker), call_(std::move(c)), session_(std::move(session)), shown_(std::move(shown)) {}
  ~image_reader() {
    if (handle_ != 0)
      anon_tell(session_, file_close{handle_});
  }

  void open(const std::string& path, std::optional<std::string> user) {
    file_open_read request{path, std::move(user), image_chunk};
    bridge_.ask<file_opened>(
      session_,
      [self = shared_from_this()](result<file_opened> x) {
        if (!x) {
          self->fail(x.error());
          return;
        }
        self->handle_ = x->handle;
        self->size_ = x->size;
        if (x->size > image_limit)
          self->say("image path `" + self->shown_
                    + "` exceeded the allowed size of 10MB; "
                      "resize or compress the image and try again");
        else
          self->take(std::move(x->data));
      },
      std::move(request));
  }

private:
  void take(std::vector<char> piece) {
    data_.append(piece.data(), piece.size());
    if (data_.size() >= size_ || piece.empty()) {
      finish();
      return;
    }
    file_read_chunk request{handle_, data_.size(), image_chunk};
    bridge_.ask<file_chunk>(
      session_,
      [self = shared_from_this()](result<file_chunk> x) {
        if (x)
          self->take(std::move(x->data));
        else
          self->fail(x.error());
      },
      request);
  }

  void finish() {
    auto type = image_type(data_, shown_);
    if (!type) {
      say("image path `" + shown_ + "` is not a supported image file");
      return;
    }
    call_.answer(200,
                 {{"type", "image"},
                  {"image_url", "data:" + *type + ";base64," + workspace::base64_encode(data_)}});
  }

  void fail(const error& why) {
    if (why.code == errc::workspace_read_not_found)
      say("image path `" + shown_ + "` was not found");
    else if (why.code == errc::workspace_archive_read_error
             || why.code == errc::invalid_manifest_path)
      say("unable to read image at `" + shown_ + "`: " + std::string{class_name(why.code)});
    else
      call_.fail(why);
  }

  void say(std::string text) {
    call_.answer(200, {{"type", "text"}, {"text", workspace::utf8_with_replacement(text)}});
  }

  bridge& bridge_;
  call call_;
  session_actor session_;
  std::string shown_;
  uint64_t handle_ = 0;
  uint64_t size_ = 0;
  std::string data_;
};

} // namespace

void api::tool(call c) {
  static constexpr std::pair<const char*, void (api::*)(call, const json&)> tools[] = {
    {"exec_command", &api::exec_command},
    {"write_stdin", &api::write_stdin},
    {"apply_patch", &api::patch_tool},
    {"view_image", &api::view_image},
  };
  for (const auto& tool : tools) {
    if (c.param("name") != tool.first)
      continue;
    if (auto cwd = c.query("cwd"); !cwd.empty())
      if (auto ok = workspace::run_folder(cwd); !ok) {
        c.fail(ok.error());
        return;
      }
    with_body(
      std::move(c),
      [this, run = tool.second](call c2, const json& body) { (this->*run)(std::move(c2), body); },
      tool_body_limit);
    return;
  }
  c.fail(make_error(errc::not_found, op::request, "no such tool").with("tool", c.param("name")));
}

void api::exec_command(call c, const json& arguments) {
  object_reader in{arguments};
  auto command = in.text("cmd").value_or("");
  if (command.empty())
    in.fail("cmd", "text of at least one character");
  auto workdir = in.text("workdir").value_or("");
  auto shell = in.text("shell");
  bool login = in.boolean("login").value_or(true);
  start_terminal request;
  request.tty = in.boolean("tty").value_or(false);
  request.yield_ms = yield_of(in).value_or(default_yield_ms);
  request.max_output_tokens = in.integer("max_output_tokens", 1, INT64_MAX);
  request.rows = request.cols = 0;
  refuse_null(in, {"login", "tty", "yield_time_ms"});
  if (auto ok = in.finish(); !ok) {
    c.fail(ok.error());
    return;
  }
  if (shell) {
    request.request.shell = shell_mode::prefix;
    request.request.shell_prefix = {*shell, login ? "-lc" : "-c"};
  } else if (!login) {
    request.request.shell = shell_mode::prefix;
    request.request.shell_prefix = {"sh", "-c"};
  }
  request.request.user = query_user(c);
  auto run = [this](const call& c2, start_terminal what) {
    ask_session<terminal_update>(c2, std::move(what), [](const call& c3, const terminal_update& x) {
      answer_text(c3, update_text(x));
    });
  };
  bool blank = workspace::trim(workdir).empty();
  if (blank && c.query("cwd").empty()) {
    request.request.command = {command};
    run(c, std::move(request));
    return;
  }
  normalize_path query{workspace::anchored_path(c.query("cwd"), blank ? "." : workdir), false};
  ask_session<normalized_path>(std::move(c), std::move(query),
                               [run, request, command](const call& c2, const normalized_path& x) {
                                 auto what = request;
                                 what.request.command = {"cd " + workspace::shell_quote(x.absolute)
                                                         + " && " + command};
                                 run(c2, std::move(what));
                               });
}

void api::write_stdin(call c, const json& arguments) {
  object_reader in{arguments};
  write_terminal request;
  auto id = in.integer("session_id", INT64_MIN, INT64_MAX);
  if (!id)
    in.fail("session_id", "an integer");
  request.process_id = static_cast<int32_t>(id.value_or(0));
  request.chars = in.text("chars").value_or("");
  request.yield_ms = yield_of(in);
  request.max_output_tokens = in.integer("max_output_tokens", 1, INT64_MAX);
  refuse_null(in, {"chars", "yield_time_ms"});
  if (auto ok = in.finish(); !ok) {
    c.fail(ok.error());
    return;
  }
  if (request.process_id != *id) { // no terminal has such a number
    answer_text(
      c, update_text(failure("write_stdin failed: PTY session not found: " + std::to_string(*id))));
    return;
  }
  with_session(std::move(c), [this, request](call c2, session_actor session) {
    bridge_.ask<terminal_update>(
      session,
      [c2, typed = !request.chars.empty()](result<terminal_update> x) {
        if (x)
          answer_text(c2, update_text(*x));
        else if (x.error().code == errc::pty_session_not_found)
          answer_text(c2, update_text(failure("write_stdin failed: " + x.error().message)));
        else if (typed && x.error().code == errc::conflict)
          answer_text(c2, update_text(failure("stdin is not available for this process. Start it "
                                              "with `tty=true` in `exec_command` to type into "
                                              "it.")));
        else
          c2.fail(x.error());
      },
      request);
  });
}

void api::patch_tool(call c, const json& arguments) {
  object_reader in{arguments};
  patch_workspace request;
  auto text = in.text("patch");
  if (!text)
    in.fail("patch", "text");
  if (auto ok = in.finish(); !ok) {
    c.fail(ok.error());
    return;
  }
  request.text = std::move(*text);
  request.partial = true; // the contract: after bad paths nothing was done, after a bad diff some
  request.cwd = c.query("cwd");
  request.user = query_user(c);
  ask_session<patch_answer>(std::move(c), std::move(request),
                            [](const call& c2, const patch_answer& x) { answer_text(c2, x.text); });
}

void api::view_image(call c, const json& arguments) {
  object_reader in{arguments};
  auto path = in.text("path").value_or("");
  if (path.empty())
    in.fail("path", "text of at least one character");
  if (auto ok = in.finish(); !ok) {
    c.fail(ok.error());
    return;
  }
  normalize_path query{workspace::anchored_path(c.query("cwd"), path), false};
  with_session(std::move(c), [this, query, path](call c2, session_actor session) {
    bridge_.ask<normalized_path>(
      session,
      [this, c2, session, path](result<normalized_path> x) {
        if (!x) {
          c2.fail(x.error());
          return;
        }
        auto cwd = path.starts_with('/') ? std::string{} : c2.query("cwd");
        auto shown = x->relative ? workspace::shown_path(cwd, *x->relative) : x->absolute;
        std::make_shared<image_reader>(bridge_, c2, session, std::move(shown))
          ->open(x->absolute, query_user(c2));
      },
      query);
  });
}

} // namespace troupe::gateway
