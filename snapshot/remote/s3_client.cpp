#include "snapshot/remote/s3_client.hpp"

#include "messages/json.hpp"
#include "messages/unique_fd.hpp"
#include "snapshot/digest.hpp"

#include <curl/curl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

namespace troupe::snapshot {

namespace {

constexpr size_t max_answer = 4 * 1024 * 1024; ///< a page of a listing is far less
constexpr uint64_t max_parts = 10'000;         ///< of S3
constexpr long connect_seconds = 10;
constexpr auto longest_pause = std::chrono::milliseconds{20'000};

error failure(const std::string& key, std::string_view reason, bool retryable) {
  auto x = make_error(errc::snapshot_persist_error, op::snapshot_persist,
                      "the object store did not do what it was asked for")
             .with("key", key)
             .with("reason", reason);
  x.retryable = retryable;
  return x;
}

std::string percent_encoded(std::string_view text, bool keep_slash) {
  static constexpr char digits[] = "0123456789ABCDEF";
  std::string out;
  for (unsigned char c : text)
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-'
        || c == '_' || c == '.' || c == '~' || (keep_slash && c == '/')) {
      out += static_cast<char>(c);
    } else {
      out += '%';
      out += digits[c >> 4];
      out += digits[c & 15];
    }
  return out;
}

/// What stands between the first `<name>` and `</name>` from `at` on, which moves behind it.
std::optional<std::string_view> element(std::string_view xml, std::string_view name, size_t& at) {
  auto open = '<' + std::string{name} + '>';
  auto close = "</" + std::string{name} + '>';
  auto from = xml.find(open, at);
  auto to = from == xml.npos ? from : xml.find(close, from);
  if (to == xml.npos)
    return std::nullopt;
  at = to + close.size();
  return xml.substr(from + open.size(), to - from - open.size());
}

std::string element_text(std::string_view xml, std::string_view name) {
  size_t at = 0;
  auto raw = element(xml, name, at);
  std::string out;
  static constexpr std::pair<std::string_view, char> entities[]
    = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
  for (size_t i = 0; raw && i < raw->size();) {
    bool found = false;
    for (const auto& [name_of, value] : entities)
      if (raw->substr(i).starts_with(name_of)) {
        out += value;
        i += name_of.size();
        found = true;
        break;
      }
    if (!found)
      out += (*raw)[i++];
  }
  return out;
}

/// "2026-01-02T03:04:05.000Z"; 0: something else.
int64_t parse_time(const std::string& text) {
  std::tm t{};
  if (!::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &t))
    return 0;
  return static_cast<int64_t>(::timegm(&t)) * 1000;
}

std::string hex_of(std::string_view bytes) {
  sha256 hash;
  hash.update(bytes);
  return to_hex(hash.finish());
}

bool worth_another_try(long status) {
  return status == 408 || status == 429 || status >= 500;
}

} // namespace

struct s3_client::request {
  const char* method = "GET";
  std::string key;
  /// Percent-encoded and in the order of names, as the signature wants it.
  std::string query = {};
  std::string_view bytes = {};
  std::optional<s3_range> file = {};
  std::string sha256 = {}; ///< of the body; empty: of `bytes`
  const s3_sink* sink = nullptr;
  size_t limit = max_answer;
};

struct s3_client::answer {
  long status = 0;
  std::string body;
  std::string etag;
  uint64_t size = 0;
  int64_t modified_ms = 0;
};

struct s3_client::credentials {
  std::string access_key;
  std::string secret_key;
  std::string session_token;
};

/// Connections that are kept between requests.
class s3_client::handles {
public:
  ~handles() {
    for (auto* x : idle_)
      ::curl_easy_cleanup(x);
  }

  CURL* take() {
    std::lock_guard lock{mutex_};
    if (idle_.empty())
      return ::curl_easy_init();
    auto* x = idle_.back();
    idle_.pop_back();
    ::curl_easy_reset(x); // keeps the connection
    return x;
  }

  void give(CURL* x) {
    std::lock_guard lock{mutex_};
    idle_.push_back(x);
  }

private:
  std::mutex mutex_;
  std::vector<CURL*> idle_;
};

s3_client::s3_client(const s3_options& options, std::stop_token stop)
  : options_(options), stop_(std::move(stop)),
    give_up_(std::chrono::steady_clock::now() + options.deadline),
    credentials_(std::make_unique<credentials>()), handles_(std::make_unique<handles>()) {
  static std::once_flag once;
  std::call_once(once, [] { ::curl_global_init(CURL_GLOBAL_DEFAULT); });
}

s3_client::~s3_client() = default;

result<std::unique_ptr<s3_client>> s3_client::make(const s3_options& options,
                                                   std::stop_token stop) {
  std::unique_ptr<s3_client> x{new s3_client{options, std::move(stop)}};
  if (auto ok = x->read_credentials(); !ok)
    return unexpected(std::move(ok.error()));
  return x;
}

result<void> s3_client::read_credentials() {
  auto from_env = [](const std::string& name) {
    const char* value = name.empty() ? nullptr : ::getenv(name.c_str()); // NOLINT
    return std::string{value ? value : ""};
  };
  auto& to = *credentials_;
  if (options_.credentials_file.empty()) {
    to.access_key = from_env(options_.access_key_env);
    to.secret_key = from_env(options_.secret_key_env);
    to.session_token = from_env(options_.session_token_env);
  } else {
    unique_fd fd{::open(options_.credentials_file.c_str(), O_RDONLY | O_CLOEXEC)};
    char text[64 * 1024];
    auto n = fd ? ::read(fd.get(), text, sizeof text) : -1;
    auto value = parse_json(std::string_view{text, static_cast<size_t>(std::max<ssize_t>(n, 0))});
    if (value && value->is_object()) {
      to.access_key = value->value("access_key", "");
      to.secret_key = value->value("secret_key", "");
      to.session_token = value->value("session_token", "");
    }
  }
  if (to.access_key.empty() || to.secret_key.empty())
    return unexpected(make_error(errc::sandbox_config_invalid, op::snapshot_persist,
                                 "there are no credentials for the object store"));
  return {};
}

std::string s3_client::url(const request& x) const {
  auto path = options_.bucket;
  if (!x.key.empty()) {
    path += '/';
    if (!options_.prefix.empty())
      path += options_.prefix + '/';
    path += x.key;
  }
  auto out = options_.endpoint + '/' + percent_encoded(path, true);
  return x.query.empty() ? out : out + '?' + x.query;
}

// -- one request ----------------------------------------------------------------------------------

namespace {

/// What curl's functions work on.
struct exchange {
  CURL* curl = nullptr;
  std::stop_token stop;
  std::chrono::steady_clock::time_point give_up;
  std::optional<s3_range> file;
  std::string_view bytes;
  uint64_t sent = 0;
  const s3_sink* sink = nullptr;
  size_t limit = 0;
  std::string body;
  std::string etag;
  std::string modified;
  std::optional<error> fault; ///< of the sink
};

size_t on_body(char* data, size_t, size_t size, void* user) {
  auto& x = *static_cast<exchange*>(user);
  long status = 0;
  ::curl_easy_getinfo(x.curl, CURLINFO_RESPONSE_CODE, &status);
  std::string_view piece{data, size};
  if (x.sink && status == 200) {
    auto taken = x.sink->take(piece);
    if (taken)
      return size;
    x.fault = std::move(taken.error());
    return 0;
  }
  if (x.body.size() + size > x.limit)
    return 0;
  x.body += piece;
  return size;
}

size_t on_send(char* to, size_t one, size_t n, void* user) {
  auto& x = *static_cast<exchange*>(user);
  auto size = one * n;
  if (!x.file) {
    size = std::min<size_t>(size, x.bytes.size() - x.sent);
    std::memcpy(to, x.bytes.data() + x.sent, size);
    x.sent += size;
    return size;
  }
  size = std::min<uint64_t>(size, x.file->size - x.sent);
  auto got = ::pread(x.file->fd, to, size, static_cast<off_t>(x.file->offset + x.sent));
  if (got < 0 || (got == 0 && size > 0))
    return CURL_READFUNC_ABORT;
  x.sent += static_cast<uint64_t>(got);
  return static_cast<size_t>(got);
}

int on_seek(void* user, curl_off_t offset, int origin) {
  if (origin != SEEK_SET)
    return CURL_SEEKFUNC_CANTSEEK;
  static_cast<exchange*>(user)->sent = static_cast<uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

size_t on_header(char* data, size_t one, size_t n, void* user) {
  auto& x = *static_cast<exchange*>(user);
  std::string_view line{data, one * n};
  auto take = [&](std::string_view name, std::string& to) {
    if (line.size() <= name.size() || ::strncasecmp(line.data(), name.data(), name.size()) != 0)
      return;
    auto value = line.substr(name.size());
    auto from = value.find_first_not_of(" \t");
    auto last = value.find_last_not_of(" \t\r\n");
    to = from == value.npos || last < from ? "" : std::string{value.substr(from, last - from + 1)};
  };
  take("etag:", x.etag);
  take("last-modified:", x.modified);
  return one * n;
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto& x = *static_cast<exchange*>(user);
  return x.stop.stop_requested() || std::chrono::steady_clock::now() > x.give_up ? 1 : 0;
}

} // namespace

std::optional<error> s3_client::attempt(const request& x, answer& out, bool& again) {
  again = false;
  auto* curl = handles_->take();
  if (!curl)
    return failure(x.key, "no memory for a request", true);
  exchange io{curl, stop_, give_up_, x.file, x.bytes, 0, x.sink, x.limit, {}, {}, {}, {}};
  char text[CURL_ERROR_SIZE] = {};
  std::string_view method{x.method};
  auto set = [&](auto option, auto value) { ::curl_easy_setopt(curl, option, value); };
  auto target = url(x);
  auto provider = "aws:amz:" + options_.region + ":s3";
  set(CURLOPT_URL, target.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_ERRORBUFFER, text);
  set(CURLOPT_PATH_AS_IS, 1L); // what is signed is what is asked for
  set(CURLOPT_AWS_SIGV4, provider.c_str());
  set(CURLOPT_USERNAME, credentials_->access_key.c_str());
  set(CURLOPT_PASSWORD, credentials_->secret_key.c_str());
  set(CURLOPT_CONNECTTIMEOUT, connect_seconds);
  // "Expect:" among the headers would take that wait away, but curl 7.88 signs it and sends none.
  set(CURLOPT_EXPECT_100_TIMEOUT_MS, 1L);
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME,
      static_cast<long>(std::max<int64_t>(1, options_.stall.count() / 1000)));
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &on_progress);
  set(CURLOPT_XFERINFODATA, &io);
  set(CURLOPT_WRITEFUNCTION, &on_body);
  set(CURLOPT_WRITEDATA, &io);
  set(CURLOPT_HEADERFUNCTION, &on_header);
  set(CURLOPT_HEADERDATA, &io);
  if (method == "HEAD") {
    set(CURLOPT_NOBODY, 1L);
  } else if (method == "PUT" || method == "POST") {
    set(CURLOPT_UPLOAD, 1L);
    set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(x.file ? x.file->size : x.bytes.size()));
    set(CURLOPT_READFUNCTION, &on_send);
    set(CURLOPT_READDATA, &io);
    set(CURLOPT_SEEKFUNCTION, &on_seek);
    set(CURLOPT_SEEKDATA, &io);
  }
  if (method != "HEAD" && method != "GET")
    set(CURLOPT_CUSTOMREQUEST, x.method);
  auto digest = "x-amz-content-sha256: " + (x.sha256.empty() ? hex_of(x.bytes) : x.sha256);
  auto* headers = ::curl_slist_append(nullptr, digest.c_str());
  if (!credentials_->session_token.empty())
    headers = ::curl_slist_append(headers,
                                  ("x-amz-security-token: " + credentials_->session_token).c_str());
  set(CURLOPT_HTTPHEADER, headers);
  auto code = CURLE_OK;
  if (x.sink)
    if (auto ok = x.sink->restart(); !ok)
      io.fault = std::move(ok.error());
  if (!io.fault)
    code = ::curl_easy_perform(curl);
  ::curl_slist_free_all(headers);
  curl_off_t length = 0;
  ::curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &out.status);
  ::curl_easy_getinfo(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  set(CURLOPT_ERRORBUFFER, nullptr);
  handles_->give(curl);
  if (io.fault)
    return std::move(io.fault);
  if (stop_.stop_requested())
    return make_error(errc::cancelled, op::snapshot_persist, "the transfer was cancelled");
  if (std::chrono::steady_clock::now() > give_up_)
    return failure(x.key, "the transfer took too long", true);
  if (code != CURLE_OK) {
    again = code != CURLE_URL_MALFORMAT && code != CURLE_UNSUPPORTED_PROTOCOL
            && code != CURLE_PEER_FAILED_VERIFICATION;
    return failure(x.key, text[0] ? text : ::curl_easy_strerror(code), again);
  }
  out.body = std::move(io.body);
  out.etag = std::move(io.etag);
  out.size = static_cast<uint64_t>(std::max<curl_off_t>(length, 0));
  if (!io.modified.empty())
    out.modified_ms = static_cast<int64_t>(::curl_getdate(io.modified.c_str(), nullptr)) * 1000;
  if (out.status < 400 || out.status == 404)
    return std::nullopt;
  again = worth_another_try(out.status);
  auto reason = element_text(out.body, "Code");
  return failure(x.key, reason.empty() ? "the store refused" : reason, again)
    .with("status", static_cast<int64_t>(out.status));
}

/// Sleeps before the next attempt; false: there is none.
bool s3_client::pause(uint32_t attempt) const {
  if (attempt >= options_.attempts)
    return false;
  auto most = std::min<std::chrono::milliseconds>(
    longest_pause, options_.backoff * (int64_t{1} << std::min(attempt - 1, 16u)));
  // Half of it by chance: those who failed together do not come back together.
  thread_local std::minstd_rand dice{std::random_device{}()};
  auto half = most.count() / 2;
  auto wait
    = std::chrono::milliseconds{half + std::uniform_int_distribution<int64_t>{0, half}(dice)};
  if (std::chrono::steady_clock::now() + wait > give_up_)
    return false;
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock{mutex};
  never.wait_for(lock, stop_, wait, [] { return false; });
  return !stop_.stop_requested();
}

result<s3_client::answer> s3_client::send(const request& x) {
  for (uint32_t tried = 1;; ++tried) {
    answer out;
    bool again = false;
    auto fault = attempt(x, out, again);
    if (!fault)
      return out;
    if (!again || !pause(tried))
      return unexpected(std::move(fault->with("attempts", static_cast<int64_t>(tried))));
  }
}

// -- what is asked for ----------------------------------------------------------------------------

result<std::optional<s3_object>> s3_client::head(const std::string& key) {
  auto found = send({.method = "HEAD", .key = key});
  if (!found)
    return unexpected(std::move(found.error()));
  if (found->status == 404)
    return std::nullopt;
  return s3_object{key, found->size, found->modified_ms};
}

result<std::optional<std::string>> s3_client::get(const std::string& key, size_t limit) {
  auto found = send({.key = key, .limit = limit});
  if (!found)
    return unexpected(std::move(found.error()));
  if (found->status == 404)
    return std::nullopt;
  return std::move(found->body);
}

result<bool> s3_client::get(const std::string& key, const s3_sink& sink) {
  return send({.key = key, .sink = &sink}).map([](const answer& x) { return x.status != 404; });
}

namespace {

result<void> must_be_there(const std::string& key, long status) {
  if (status < 300)
    return {};
  return unexpected(
    failure(key, "there is no such bucket", false).with("status", static_cast<int64_t>(status)));
}

} // namespace

result<void> s3_client::put(const std::string& key, std::string_view bytes) {
  return send({.method = "PUT", .key = key, .bytes = bytes}).and_then([&](const answer& x) {
    return must_be_there(key, x.status);
  });
}

result<void> s3_client::put(const std::string& key, int fd, uint64_t size,
                            const std::string& sha256) {
  if (size > options_.part_bytes)
    return put_in_parts(key, fd, size);
  return send({.method = "PUT", .key = key, .file = s3_range{fd, 0, size}, .sha256 = sha256})
    .and_then([&](const answer& x) { return must_be_there(key, x.status); });
}

namespace {

result<std::string> digest_of(const s3_range& x, const std::string& key) {
  sha256 hash;
  auto buffer = std::make_unique<char[]>(256 * 1024);
  for (uint64_t done = 0; done < x.size;) {
    auto n = ::pread(x.fd, buffer.get(), std::min<uint64_t>(x.size - done, 256 * 1024),
                     static_cast<off_t>(x.offset + done));
    if (n <= 0)
      return unexpected(
        failure(key, n < 0 ? std::strerror(errno) : "blob is cut", false)); // NOLINT
    hash.update(buffer.get(), static_cast<size_t>(n));
    done += static_cast<uint64_t>(n);
  }
  return to_hex(hash.finish());
}

} // namespace

result<void> s3_client::put_in_parts(const std::string& key, int fd, uint64_t size) {
  const auto part = std::max(options_.part_bytes, (size + max_parts - 1) / max_parts);
  auto begun = send({.method = "POST", .key = key, .query = "uploads="});
  if (!begun)
    return unexpected(std::move(begun.error()));
  auto id = percent_encoded(element_text(begun->body, "UploadId"), false);
  if (id.empty())
    return unexpected(failure(key, "the store begins no upload in parts", false));
  std::vector<std::string> etags(static_cast<size_t>((size + part - 1) / part));
  auto sent = each(etags.size(), [&](size_t i) -> result<void> {
    s3_range range{fd, i * part, std::min(part, size - i * part)};
    auto digest = digest_of(range, key);
    if (!digest)
      return unexpected(std::move(digest.error()));
    auto done = send({.method = "PUT",
                      .key = key,
                      .query = "partNumber=" + std::to_string(i + 1) + "&uploadId=" + id,
                      .file = range,
                      .sha256 = *digest});
    if (!done)
      return unexpected(std::move(done.error()));
    etags[i] = std::move(done->etag);
    return must_be_there(key, done->status);
  });
  if (sent) {
    std::string list = "<CompleteMultipartUpload>";
    for (size_t i = 0; i < etags.size(); ++i)
      list += "<Part><PartNumber>" + std::to_string(i + 1) + "</PartNumber><ETag>" + etags[i]
              + "</ETag></Part>";
    list += "</CompleteMultipartUpload>";
    auto done = send({.method = "POST", .key = key, .query = "uploadId=" + id, .bytes = list});
    // This answer may be 200 and an error all the same.
    if (!done)
      sent = unexpected(std::move(done.error()));
    else if (done->body.find("<Error>") != std::string::npos)
      sent = unexpected(failure(key, element_text(done->body, "Code"), true));
    // 404: an attempt whose answer was lost has made it.
    else if (done->status == 404)
      sent = head(key).and_then([&](const auto& x) -> result<void> {
        if (x && x->size == size)
          return {};
        return unexpected(failure(key, "the upload in parts is gone", true));
      });
  }
  if (!sent)
    (void) send({.method = "DELETE", .key = key, .query = "uploadId=" + id});
  return sent;
}

result<void> s3_client::remove(const std::string& key) {
  return send({.method = "DELETE", .key = key}).map([](const auto&) {});
}

result<void> s3_client::list(const std::string& prefix,
                             const std::function<void(s3_object)>& found) {
  const auto all = options_.prefix.empty() ? "" : options_.prefix + '/';
  std::string next;
  for (;;) {
    std::string query;
    if (!next.empty())
      query = "continuation-token=" + percent_encoded(next, false) + '&';
    query += "list-type=2&max-keys=1000&prefix=" + percent_encoded(all + prefix, false);
    auto page = send({.key = "", .query = query});
    if (!page)
      return unexpected(std::move(page.error()));
    if (auto ok = must_be_there(prefix, page->status); !ok)
      return ok;
    size_t at = 0;
    while (auto one = element(page->body, "Contents", at)) {
      auto key = element_text(*one, "Key");
      if (!key.starts_with(all))
        continue;
      found({key.substr(all.size()), std::strtoull(element_text(*one, "Size").c_str(), nullptr, 10),
             parse_time(element_text(*one, "LastModified"))});
    }
    next = element_text(page->body, "NextContinuationToken");
    if (element_text(page->body, "IsTruncated") != "true")
      return {};
    if (next.empty())
      return unexpected(failure(prefix, "a listing does not go on", false));
  }
}

result<void> s3_client::each(size_t n, const std::function<result<void>(size_t)>& work) const {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  result<void> all;
  auto run = [&] {
    for (size_t i; (i = next.fetch_add(1)) < n;)
      if (auto ok = work(i); !ok) {
        next = n;
        std::lock_guard lock{mutex};
        if (all)
          all = std::move(ok);
      }
  };
  {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < std::min<size_t>(n, options_.parallel); ++i)
      others.emplace_back(run);
    run();
  }
  return all;
}

} // namespace troupe::snapshot
