#include "gateway/native/api.hpp"
#include "gateway/native/object_reader.hpp"
#include "workspace/path_policy.hpp"

#include <charconv>
#include <cstdio>

namespace troupe::gateway {

namespace {

constexpr int32_t chunk_size = 256 * 1024;

constexpr uint64_t no_limit = ~uint64_t{0};

constexpr uint64_t patch_body_limit = 32 * 1024 * 1024;

/// What a session has open, sent piece by piece as the client takes it.
class file_stream : public body_source {
public:
  file_stream(bridge& asker, session_actor session, uint64_t handle, uint64_t offset,
              uint64_t length)
    : bridge_(asker), session_(std::move(session)), handle_(handle), offset_(offset),
      left_(length) {}
  ~file_stream() override {
    anon_tell(session_, file_close{handle_});
  }

  void next(next_done done) override {
    if (left_ == 0) {
      done(std::nullopt);
      return;
    }
    auto size = static_cast<int32_t>(std::min<uint64_t>(left_, chunk_size));
    file_read_chunk request{handle_, offset_, size};
    offset_ += static_cast<uint64_t>(size);
    left_ -= static_cast<uint64_t>(size);
    bridge_.ask<file_chunk>(
      session_,
      [done = std::move(done), size](result<file_chunk> x) {
        if (!x)
          done(unexpected(std::move(x.error())));
        else if (x->data.size() != static_cast<size_t>(size))
          // The length is announced already; a file that shrank cannot be sent whole.
          done(unexpected(make_error(errc::workspace_archive_read_error, op::read,
                                     "the file changed while it was read")));
        else
          done(std::move(x->data));
      },
      request);
  }

private:
  bridge& bridge_;
  session_actor session_;
  uint64_t handle_;
  uint64_t offset_;
  uint64_t left_;
};

std::string etag_of(const file_opened& x) {
  char text[80];
  std::snprintf(text, sizeof text, "\"%llx-%llx-%llx\"", static_cast<unsigned long long>(x.inode),
                static_cast<unsigned long long>(x.size),
                static_cast<unsigned long long>(x.mtime_ns));
  return text;
}

struct byte_range {
  uint64_t first = 0;
  uint64_t length = 0;
};

/// One range of `bytes=a-b`, `bytes=a-` or `bytes=-n`. nullopt: none asked for (or several, which
/// may be ignored). An empty range cannot be satisfied.
std::optional<byte_range> parse_range(std::string_view header, uint64_t size) {
  constexpr std::string_view unit = "bytes=";
  if (header.substr(0, unit.size()) != unit)
    return std::nullopt;
  header.remove_prefix(unit.size());
  auto dash = header.find('-');
  if (dash == std::string_view::npos || header.find(',') != std::string_view::npos)
    return std::nullopt;
  auto number = [](std::string_view text, uint64_t& out) {
    auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (fault == std::errc::result_out_of_range)
      out = no_limit;
    return fault != std::errc::invalid_argument && end == text.data() + text.size();
  };
  auto from = header.substr(0, dash);
  auto to = header.substr(dash + 1);
  uint64_t a = 0;
  uint64_t b = 0;
  if (from.empty()) {
    if (!number(to, b))
      return std::nullopt;
    auto length = std::min(b, size);
    return byte_range{size - length, length};
  }
  if (!number(from, a) || (!to.empty() && (!number(to, b) || b < a)))
    return std::nullopt;
  if (a >= size)
    return byte_range{};
  auto last = to.empty() ? size - 1 : std::min(b, size - 1);
  return byte_range{a, last - a + 1};
}

/// Whether the client has the file that has this tag already (RFC 9110, 13.1.2).
bool is_known(const header_list& headers, const std::string& etag) {
  auto known = headers.get("If-None-Match");
  // Tags of ours have no comma and no space.
  for (std::string_view list = known.value_or(""); !list.empty();) {
    auto one = list.substr(0, list.find(','));
    list.remove_prefix(std::min(one.size() + 1, list.size()));
    one.remove_prefix(std::min(one.find_first_not_of(" \t"), one.size()));
    one = one.substr(0, one.find_last_not_of(" \t") + 1);
    if (one.starts_with("W/"))
      one.remove_prefix(2);
    if (one == "*" || one == etag)
      return true;
  }
  return false;
}

/// The answer without the bytes of the file; `body`: which of them it has. Conditions and ranges
/// as in RFC 9110, 13 and 14.
response file_response(const file_opened& x, const request_head& head, byte_range& body) {
  auto etag = etag_of(x);
  auto total = "/" + std::to_string(x.size);
  auto range = head.headers.get("Range");
  auto only_if = head.headers.get("If-Range");
  std::optional<byte_range> wanted;
  if (range && head.method == "GET" && (!only_if || *only_if == etag))
    wanted = parse_range(*range, x.size);
  body = {};
  response out;
  if (is_known(head.headers, etag)) {
    out.status = 304;
  } else if (wanted && wanted->length == 0) {
    out = error_response(
      make_error(errc::invalid_request, op::read, "the range lies behind the end of the file")
        .with("size", static_cast<int64_t>(x.size)),
      head.request_id);
    out.status = 416;
    out.headers.add("Content-Range", "bytes *" + total);
  } else {
    out.headers.add("Content-Type", "application/octet-stream");
    body = wanted.value_or(byte_range{0, x.size});
    if (wanted) {
      out.status = 206;
      out.headers.add("Content-Range", "bytes " + std::to_string(body.first) + "-"
                                         + std::to_string(body.first + body.length - 1) + total);
    }
  }
  out.headers.add("Accept-Ranges", "bytes");
  out.headers.add("ETag", etag);
  return out;
}

std::optional<std::string> user_of(const call& c) {
  auto user = c.head().query.get("user");
  return user ? std::optional{std::string{*user}} : std::nullopt;
}

result<std::string> path_of(const call& c) {
  auto path = c.head().query.get("path");
  if (!path)
    return unexpected(
      make_error(errc::invalid_request, op::request, "the query parameter `path` is missing")
        .with("field", "path"));
  return std::string{*path};
}

result<std::optional<uint32_t>> mode_of(const call& c) {
  auto text = c.query("mode");
  if (text.empty())
    return std::optional<uint32_t>{};
  uint32_t mode = 0;
  auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), mode, 8);
  if (fault != std::errc{} || end != text.data() + text.size() || mode > 0777)
    return unexpected(
      make_error(errc::invalid_request, op::write, "`mode` must be octal permission bits, 0 to 777")
        .with("field", "mode"));
  return std::optional{mode};
}

/// Streams a request body into a file or archive that a session has open, then commits it.
class upload : public std::enable_shared_from_this<upload> {
public:
  upload(bridge& asker, call c, session_actor session, uint64_t handle,
         std::function<void(std::shared_ptr<upload>)> commit)
    : bridge_(asker), call_(std::move(c)), session_(std::move(session)), handle_(handle),
      commit_(std::move(commit)) {}

  void pump() {
    auto body = call_.http->body();
    body.read(chunk_size, [self = shared_from_this()](result<std::vector<char>> piece) {
      if (!piece) {
        self->abandon(piece.error());
      } else if (piece->empty()) {
        self->commit_(self);
      } else {
        file_write_chunk request{self->handle_, std::move(*piece)};
        self->bridge_.ask<void>(
          self->session_,
          [self](const result<void>& written) {
            if (!written)
              self->abandon(written.error());
            else
              self->call_.http->post([self] { self->pump(); });
          },
          std::move(request));
      }
    });
  }

  template <class Message>
  void finish(Message message) {
    bridge_.ask<void>(
      session_,
      [self = shared_from_this()](const result<void>& x) {
        if (x)
          self->call_.answer_empty();
        else
          self->call_.fail(x.error());
      },
      std::move(message));
  }

  uint64_t handle() const {
    return handle_;
  }

private:
  void abandon(const error& why) {
    anon_tell(session_, file_close{handle_});
    call_.fail(why);
  }

  bridge& bridge_;
  call call_;
  session_actor session_;
  uint64_t handle_;
  std::function<void(std::shared_ptr<upload>)> commit_;
};

json entry_to_json(const file_entry& x) {
  std::string permissions = x.kind == file_kind::directory ? "d" : "-";
  for (int shift = 6; shift >= 0; shift -= 3) {
    auto bits = x.mode >> shift;
    permissions += (bits & 4) != 0 ? 'r' : '-';
    permissions += (bits & 2) != 0 ? 'w' : '-';
    permissions += (bits & 1) != 0 ? 'x' : '-';
  }
  return {{"path", to_utf8(x.path)},
          {"permissions", permissions},
          {"owner", x.owner},
          {"group", x.group},
          {"size", x.size},
          {"kind", to_string(x.kind)},
          {"mtime", rfc3339_ms(x.mtime_ns / 1'000'000)},
          {"link_target", x.link_target ? json(to_utf8(*x.link_target)) : json(nullptr)}};
}

} // namespace

void api::get_file(call c) {
  auto path = path_of(c);
  if (!path) {
    c.fail(path.error());
    return;
  }
  file_open_read request;
  request.path = *path;
  request.user = user_of(c);
  with_session(std::move(c), [this, request](call c2, session_actor session) {
    bridge_.ask<file_opened>(
      session,
      [this, c2, session](result<file_opened> x) {
        if (!x) {
          c2.fail(x.error());
          return;
        }
        byte_range range;
        auto answer = file_response(*x, c2.head(), range);
        if (range.first + range.length <= x->data.size()) {
          // All of it came with the first piece.
          if (range.length > 0)
            answer.body.assign(x->data.data() + range.first, range.length);
          if (x->handle != 0)
            anon_tell(session, file_close{x->handle});
        } else {
          answer.stream
            = std::make_unique<file_stream>(bridge_, session, x->handle, range.first, range.length);
          answer.stream_length = range.length;
        }
        c2.http->respond(std::move(answer));
      },
      request);
  });
}

void api::put_file(call c) {
  auto path = path_of(c);
  auto mode = mode_of(c);
  if (!path || !mode) {
    c.fail(path ? mode.error() : path.error());
    return;
  }
  file_open_write request{*path, user_of(c), c.http->head().content_length};
  c.http->set_body_limit(no_limit);
  with_session(std::move(c), [this, request, mode = *mode](call c2, session_actor session) {
    bridge_.ask<file_handle>(
      session,
      [this, c2, session, mode](result<file_handle> x) {
        if (!x) {
          c2.fail(x.error());
          return;
        }
        auto job = std::make_shared<upload>(bridge_, c2, session, x->handle,
                                            [mode](const std::shared_ptr<upload>& self) {
                                              self->finish(file_commit{self->handle(), mode});
                                            });
        c2.http->post([job] { job->pump(); });
      },
      request);
  });
}

void api::delete_file(call c) {
  auto path = path_of(c);
  auto recursive = c.query("recursive");
  if (!path) {
    c.fail(path.error());
    return;
  }
  if (!recursive.empty() && recursive != "true" && recursive != "false") {
    c.fail(make_error(errc::invalid_request, op::write, "`recursive` must be true or false")
             .with("field", "recursive"));
    return;
  }
  remove_file request{*path, recursive == "true", user_of(c)};
  ask_session<void>(std::move(c), std::move(request), [](const call& c2) { c2.answer_empty(); });
}

void api::ls(call c) {
  auto path = path_of(c);
  if (!path) {
    c.fail(path.error());
    return;
  }
  list_files request{*path, user_of(c)};
  ask_session<file_list>(std::move(c), std::move(request),
                         [](const call& c2, const file_list& found) {
                           json items = json::array();
                           for (const auto& x : found.items)
                             items.push_back(entry_to_json(x));
                           c2.answer(200, {{"items", std::move(items)}});
                         });
}

void api::mkdir(call c) {
  with_body(std::move(c), [this](call c2, const json& body) {
    object_reader in{body};
    make_directory request;
    if (auto path = in.text("path"))
      request.path = std::move(*path);
    else
      in.fail("path", "text");
    request.parents = in.boolean("parents").value_or(false);
    request.user = in.text("user");
    if (auto ok = in.finish(); !ok) {
      c2.fail(ok.error());
      return;
    }
    ask_session<void>(std::move(c2), std::move(request), [](const call& c3) { c3.answer_empty(); });
  });
}

void api::extract(call c) {
  auto path = path_of(c);
  if (!path) {
    c.fail(path.error());
    return;
  }
  extract_archive request{*path, std::nullopt};
  if (auto scheme = c.query("compression_scheme"); !scheme.empty())
    request.scheme = scheme;
  c.http->set_body_limit(no_limit);
  with_session(std::move(c), [this, request](call c2, session_actor session) {
    bridge_.ask<file_handle>(
      session,
      [this, c2, session](result<file_handle> x) {
        if (!x) {
          c2.fail(x.error());
          return;
        }
        auto job = std::make_shared<upload>(bridge_, c2, session, x->handle,
                                            [](const std::shared_ptr<upload>& self) {
                                              self->finish(commit_extract{self->handle()});
                                            });
        c2.http->post([job] { job->pump(); });
      },
      request);
  });
}

void api::apply_patch(call c) {
  with_body(
    std::move(c),
    [this](call c2, const json& body) {
      object_reader in{body};
      patch_workspace request;
      request.text = in.text("patch").value_or("");
      if (auto* operations = in.any("operations"))
        request.operations = dump_json(*operations);
      if (in.has("patch") == in.has("operations"))
        in.fail("patch", "text, or else `operations` must be given");
      request.user = in.text("user");
      request.cwd = in.text("cwd").value_or("");
      request.partial = in.boolean("partial").value_or(false);
      if (auto ok = in.finish(); !ok) {
        c2.fail(ok.error());
        return;
      }
      if (auto folder = workspace::run_folder(request.cwd); in.has("cwd") && !folder) {
        c2.fail(folder.error());
        return;
      }
      ask_session<patch_answer>(
        std::move(c2), std::move(request), [](const call& c3, const patch_answer& done) {
          json files = json::array();
          for (const auto& x : done.files) {
            json file{{"path", to_utf8(x.path)}, {"change", x.change}};
            if (x.moved_to)
              file["moved_to"] = to_utf8(*x.moved_to);
            files.push_back(std::move(file));
          }
          c3.answer(200, {{"result", done.text}, {"files", std::move(files)}});
        });
    },
    patch_body_limit);
}

void api::get_workspace(call c) {
  with_session(std::move(c), [this](call c2, session_actor session) {
    bridge_.ask<file_opened>(
      session,
      [this, c2, session](result<file_opened> x) {
        if (!x) {
          c2.fail(x.error());
          return;
        }
        response answer;
        answer.headers.add("Content-Type", "application/x-tar");
        answer.stream = std::make_unique<file_stream>(bridge_, session, x->handle, 0, x->size);
        answer.stream_length = x->size;
        c2.http->respond(std::move(answer));
      },
      export_workspace{});
  });
}

void api::put_workspace(call c) {
  c.http->set_body_limit(no_limit);
  with_session(std::move(c), [this](call c2, session_actor session) {
    bridge_.ask<file_handle>(
      session,
      [this, c2, session](result<file_handle> x) {
        if (!x) {
          c2.fail(x.error());
          return;
        }
        auto job = std::make_shared<upload>(
          bridge_, c2, session, x->handle,
          [](const std::shared_ptr<upload>& self) { self->finish(commit_import{self->handle()}); });
        c2.http->post([job] { job->pump(); });
      },
      import_workspace{});
  });
}

} // namespace troupe::gateway
