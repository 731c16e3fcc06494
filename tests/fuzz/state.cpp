#include "messages/json.hpp"
#include "tests/fuzz/support.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/mount_security.hpp"
#include "workspace/mount_targets.hpp"

using namespace troupe;
using namespace troupe::workspace;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto value = parse_json(fuzz::as_text(data, size));
  if (!value)
    return 0;
  auto parsed = parse_state(*value);
  if (!parsed)
    return 0;
  auto written = dump_state(*parsed);
  auto again = parse_state(written);
  // Of a docker state not all is kept that reading it needs.
  fuzz::require(parsed->type == backend_kind::docker
                  || (again && dump_json(dump_state(*again)) == dump_json(written)),
                "a state that was read can be written and read again");
  auto mounts = again.and_then([](const session_state& x) { return mount_targets(x.manifest); });
  for (const auto& target : mounts.value_or(std::vector<mount_target>{}))
    fuzz::require(mount_authority(*target.mount).empty(), "no access to storage is written");
  for (const auto& grant : written["manifest"]["extra_path_grants"])
    fuzz::require(!grant.contains("host_path"), "no host path is written");
  return 0;
}
