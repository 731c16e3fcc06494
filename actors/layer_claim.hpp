#pragma once

#include "backends/backend.hpp"

#include <memory>
#include <utility>

namespace troupe::actors {

/// Held layers on their way to a sandbox: if it never gets them, because somebody ended meanwhile,
/// they are released.
class layer_claim {
public:
  layer_claim(std::shared_ptr<backends::layer_source> source, backends::held_layers held)
    : source_(std::move(source)), held_(std::move(held)) {}
  layer_claim(const layer_claim&) = delete;
  layer_claim& operator=(const layer_claim&) = delete;
  ~layer_claim() {
    if (source_)
      source_->release(held_);
  }

  /// They are the caller's from now on.
  backends::held_layers take() {
    source_.reset();
    return held_;
  }

private:
  std::shared_ptr<backends::layer_source> source_;
  backends::held_layers held_;
};

} // namespace troupe::actors
