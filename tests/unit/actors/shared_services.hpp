#pragma once

#include "actors/services.hpp"

namespace troupe::tests {

/// Real pools and a real runtime, for actors that need the references.
struct shared_services {
  backends::runtime runtime{backends::runtime::options{
    .instance = "unit-test", .cgroups = true, .isolated = {}, .adoptable = {}}};
  backends::thread_pool io{{.name = "test-io", .threads = 1, .capacity = 64, .nice = 0}};
  backends::thread_pool cpu{{.name = "test-cpu", .threads = 1, .capacity = 64, .nice = 0}};
  std::unique_ptr<snapshot::repository> repository = snapshot::make_repository(1);
  actors::services value{{}, runtime, io, cpu, *repository, {}, {}};
};

} // namespace troupe::tests
