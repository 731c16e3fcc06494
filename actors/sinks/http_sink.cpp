#include "actors/sinks/http_sink.hpp"

#include "actors/sinks/append.hpp"
#include "actors/sinks/event_payload.hpp"

#include <curl/curl.h>

#include <string_view>
#include <strings.h>

namespace troupe::actors {

namespace {

size_t discard(const char*, size_t size, size_t count, void*) {
  return size * count;
}

bool sane_header(const std::string& name, const std::string& value) {
  return !name.empty() && name.find_first_of(std::string_view{": \t\r\n\0", 6}) == std::string::npos
         && value.find_first_of(std::string_view{"\r\n\0", 3}) == std::string::npos;
}

bool is_http_url(const std::string& text) {
  std::unique_ptr<CURLU, decltype(&::curl_url_cleanup)> url{::curl_url(), &::curl_url_cleanup};
  return (text.starts_with("http://") || text.starts_with("https://"))
         && ::curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) == CURLUE_OK;
}

/// Any of the endpoint's text could be a secret, so errors do not show it.
error refused(const char* what) {
  return make_error(errc::sandbox_config_invalid, op::start, what);
}

} // namespace

/// A connection that is kept from one event to the next.
struct http_sink::client {
  CURL* handle = nullptr;
  curl_slist* headers = nullptr;

  client() {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): a static's initialisation happens once
    [[maybe_unused]] static auto ready = ::curl_global_init(CURL_GLOBAL_DEFAULT);
    handle = ::curl_easy_init();
  }
  client(const client&) = delete;
  client& operator=(const client&) = delete;
  ~client() {
    ::curl_easy_cleanup(handle);
    ::curl_slist_free_all(headers);
  }

  void add_header(const std::string& line) {
    headers = ::curl_slist_append(headers, line.c_str());
  }

  result<void> post(const std::string& body, op operation) const {
    ::curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
    ::curl_easy_setopt(handle, CURLOPT_POSTFIELDS, body.data());
    auto code = ::curl_easy_perform(handle);
    if (code != CURLE_OK) {
      auto kind = code == CURLE_OPERATION_TIMEDOUT ? errc::timeout : errc::internal;
      return unexpected(make_error(kind, operation, ::curl_easy_strerror(code)));
    }
    long status = 0;
    ::curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299)
      return unexpected(
        make_error(errc::internal, operation, "HTTP status " + std::to_string(status))
          .with("status", static_cast<int64_t>(status)));
    return {};
  }
};

result<std::unique_ptr<event_sink>> http_sink::make(sink_settings settings, http_options options) {
  if (!is_http_url(options.endpoint))
    return unexpected(refused("an event sink's endpoint must be an http or https URL"));
  auto ready = std::make_unique<client>();
  if (!ready->handle)
    return unexpected(refused("libcurl cannot be used"));
  bool has_type = false;
  for (const auto& [name, value] : options.headers) {
    if (!sane_header(name, value))
      return unexpected(refused("an event sink's header is malformed"));
    has_type |= ::strcasecmp(name.c_str(), "content-type") == 0;
    ready->add_header(value.empty() ? name + ";" : name + ": " + value);
  }
  if (!has_type)
    ready->add_header("content-type: application/json");
  ready->add_header("Expect:"); // else a large event waits a second for the server's "continue"
  auto* handle = ready->handle;
  ::curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  ::curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  ::curl_easy_setopt(handle, CURLOPT_HTTPHEADER, ready->headers);
  ::curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, static_cast<long>(options.timeout.count()));
  ::curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &discard);
  ::curl_easy_setopt(handle, CURLOPT_POST, 1L);
  ::curl_easy_setopt(handle, CURLOPT_URL, options.endpoint.c_str());
  return std::unique_ptr<event_sink>{
    new http_sink{settings, std::move(options.spool_path), std::move(ready)}};
}

http_sink::http_sink(sink_settings settings, std::string spool_path, std::unique_ptr<client> ready)
  : event_sink(settings), spool_path_(std::move(spool_path)), client_(std::move(ready)) {}

http_sink::~http_sink() = default;

result<void> http_sink::take(const event& x, const sink_context& context) {
  auto line = event_line(make_payload(x, policy_for(x, context)));
  auto body = line.substr(0, line.size() - 1);
  auto posted = client_->post(body, x.operation);
  if (posted || spool_path_.empty())
    return posted;
  if (auto spooled = append_to_file(spool_path_, line); !spooled)
    posted.error().message += "; the spool failed too: " + spooled.error().message;
  return posted;
}

} // namespace troupe::actors
