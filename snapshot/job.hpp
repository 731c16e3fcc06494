#pragma once

#include "messages/error.hpp"
#include "snapshot/repository.hpp"

#include <chrono>
#include <cstdint>
#include <stop_token>

namespace troupe::snapshot {

/// How far one job has come, and whether it should go on. Asked once per chunk and per file.
class job {
public:
  job(op operation, std::stop_token stop, const progress& report);

  /// `cancelled` once the stop was requested; else reports now and then.
  result<void> step();

  /// Reports the final figures.
  void done();

  op operation() const {
    return operation_;
  }

  uint64_t files = 0;
  uint64_t bytes = 0;

private:
  op operation_;
  std::stop_token stop_;
  const progress& report_;
  std::chrono::steady_clock::time_point next_report_;
};

} // namespace troupe::snapshot
