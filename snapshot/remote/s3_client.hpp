#pragma once

#include "messages/error.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::snapshot {

/// Where objects are and how hard to try. Credentials are not in here but where they can be read
/// from, each time anew, so that they may change while the process runs.
struct s3_options {
  std::string endpoint; ///< "https://host[:port]"; the bucket is the first segment of the path
  std::string region = "us-east-1";
  std::string bucket;
  std::string prefix; ///< of every key; empty: none
  /// Names of environment variables.
  std::string access_key_env;
  std::string secret_key_env;
  std::string session_token_env;
  /// Instead: a JSON file with `access_key`, `secret_key` and perhaps `session_token`.
  std::string credentials_file;
  uint32_t parallel = 4; ///< requests at once of one job
  uint64_t part_bytes = 16 * 1024 * 1024;
  uint32_t attempts = 6;                   ///< of one request
  std::chrono::milliseconds backoff{200};  ///< before the second attempt; doubled for each further
  std::chrono::milliseconds stall{30'000}; ///< without a byte, an attempt has failed
  std::chrono::milliseconds deadline{6 * 3'600'000}; ///< of one job
};

/// One object in a listing.
struct s3_object {
  std::string key; ///< without the prefix of the options
  uint64_t size = 0;
  int64_t modified_ms = 0; ///< since the epoch
};

/// A part of a file, to be sent.
struct s3_range {
  int fd = -1;
  uint64_t offset = 0;
  uint64_t size = 0;
};

/// Takes the bytes of an object as they come. Called anew from the first byte after `restart`.
struct s3_sink {
  std::function<result<void>()> restart;
  std::function<result<void>(std::string_view)> take;
};

/// Speaks S3 for one job, blocking; may be used by several threads. Requests are signed by libcurl
/// (AWS Signature Version 4) and tried again after 429, 5xx and failures of the connection, later
/// each time and not all at the same moment.
///
/// Errors have `reason`, `key` and, of an answer, `status`; `retryable` says whether it may work
/// later. Never a credential.
class s3_client {
public:
  static result<std::unique_ptr<s3_client>> make(const s3_options& options, std::stop_token stop);
  ~s3_client();

  const s3_options& options() const {
    return options_;
  }

  /// Nullopt: there is no such object.
  result<std::optional<s3_object>> head(const std::string& key);
  /// All of a small object; nullopt: there is none.
  result<std::optional<std::string>> get(const std::string& key, size_t limit);
  /// Streams an object; false: there is none. No failure of `sink` is tried again.
  result<bool> get(const std::string& key, const s3_sink& sink);

  result<void> put(const std::string& key, std::string_view bytes);
  /// A file, `sha256` being its digest in hexadecimal; in parts if it is large.
  result<void> put(const std::string& key, int fd, uint64_t size, const std::string& sha256);

  result<void> remove(const std::string& key);

  /// Every object whose key begins so.
  result<void> list(const std::string& prefix, const std::function<void(s3_object)>& found);

  /// Runs `work(0)` to `work(n - 1)`, some at once; the first failure ends it.
  result<void> each(size_t n, const std::function<result<void>(size_t)>& work) const;

private:
  struct request;
  struct answer;
  struct credentials;
  class handles;

  s3_client(const s3_options& options, std::stop_token stop);
  result<void> read_credentials();
  result<answer> send(const request& x);
  std::optional<error> attempt(const request& x, answer& out, bool& again);
  bool pause(uint32_t attempt) const;
  std::string url(const request& x) const;
  result<void> put_in_parts(const std::string& key, int fd, uint64_t size);

  s3_options options_;
  std::stop_token stop_;
  std::chrono::steady_clock::time_point give_up_;
  std::unique_ptr<credentials> credentials_;
  std::unique_ptr<handles> handles_;
};

} // namespace troupe::snapshot
