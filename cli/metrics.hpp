#pragma once

#include "actors/services.hpp"

#include <atomic>
#include <cstdint>
#include <string>

namespace troupe::cli {

/// Counts of finished HTTP requests by the first digit of their status.
struct http_metrics {
  std::atomic<uint64_t> by_class[6] = {};
  std::atomic<uint64_t> total_us{0};
};

/// Everything this process counts, as Prometheus text.
std::string render_metrics(actors::services& shared, const http_metrics& http);

} // namespace troupe::cli
