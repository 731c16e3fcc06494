#pragma once

#include "actors/sinks/sink_set.hpp"
#include "messages/json.hpp"
#include "tests/unit/workspace/test_folder.hpp"

#include <boost/test/unit_test.hpp>

#include <deque>
#include <sstream>
#include <string>
#include <vector>

namespace troupe::test {

using namespace troupe::actors;

inline event make_event(op operation, event_phase phase, uint64_t seq = 1,
                        std::string data = "{}") {
  event x;
  x.event_id = "5184b7ec-5952-4969-a894-2501f54bf199";
  x.ts_us = 1'795'374'122'394'557;
  x.session_id = "df3a6506-1343-46e5-a1bf-95f72fe36fa4";
  x.tenant = "default";
  x.seq = seq;
  x.operation = operation;
  x.phase = phase;
  x.span_id = "sandbox_op_8355c77ac7f94e3998b2369b2d6bef07";
  x.data = std::move(data);
  return x;
}

inline event_ptr share(event x) {
  return std::make_shared<const event>(std::move(x));
}

/// The finish of an exec that printed something.
inline event exec_event(std::string out, std::string err) {
  auto x = make_event(op::exec, event_phase::finish);
  x.output = std::make_shared<const event_output>(event_output{std::move(out), std::move(err)});
  return x;
}

inline std::vector<nlohmann::json> lines_of(const std::string& path) {
  std::vector<nlohmann::json> all;
  std::istringstream in{read_file(path)};
  for (std::string line; std::getline(in, line);)
    all.push_back(nlohmann::json::parse(line));
  return all;
}

inline std::vector<uint64_t> seqs_of(const std::string& path) {
  std::vector<uint64_t> all;
  for (const auto& line : lines_of(path))
    all.push_back(line.at("seq").get<uint64_t>());
  return all;
}

/// Jobs that run when the test says so, on its own thread.
struct manual_executor {
  std::deque<std::function<void()>> jobs;
  bool full = false;

  sink_executor executor() {
    return [this](std::function<void()> job) {
      if (!full)
        jobs.push_back(std::move(job));
      return !full;
    };
  }
  void run_one() {
    auto job = std::move(jobs.front());
    jobs.pop_front();
    job();
  }
  void run_all() {
    while (!jobs.empty())
      run_one();
  }
};

/// What a set logs.
struct log_book {
  std::vector<std::string> lines;
  std::function<void(const error&)> writer() {
    return [this](const error& x) { lines.push_back(x.message); };
  }
};

/// A sink that calls `f` with every event.
inline sink_config calling(event_callback f) {
  sink_config config;
  config.kind = callback_options{std::move(f)};
  return config;
}

inline result<void> broken(const event_payload&) {
  return unexpected(make_error(errc::internal, op::request, "no"));
}

/// A context without policies of the node.
inline sink_context plain_context() {
  return {{}, [](const error&) {}};
}

} // namespace troupe::test

BOOST_TEST_DONT_PRINT_LOG_VALUE(std::vector<uint64_t>)
BOOST_TEST_DONT_PRINT_LOG_VALUE(std::vector<std::string>)
