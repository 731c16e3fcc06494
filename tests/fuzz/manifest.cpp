#include "messages/json.hpp"
#include "tests/fuzz/support.hpp"
#include "workspace/manifest_json.hpp"
#include "workspace/manifest_plan.hpp"
#include "workspace/mount_security.hpp"
#include "workspace/mount_targets.hpp"

using namespace troupe;
using namespace troupe::workspace;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto value = parse_json(fuzz::as_text(data, size));
  if (!value)
    return 0;
  auto parsed = parse_manifest(*value);
  if (!parsed)
    return 0;
  auto written = dump_manifest(*parsed);
  auto again = parse_manifest(written);
  fuzz::require(again && dump_json(dump_manifest(*again)) == dump_json(written),
                "a manifest that was read can be written and read again");
  (void) manifest_digest(*parsed);
  (void) describe(*parsed, std::nullopt);
  (void) mount_targets(*parsed);
  if (check_manifest(*parsed, true)) {
    (void) plan_manifest(*parsed, false);
    (void) plan_manifest(*parsed, true);
    (void) ephemeral_paths(*parsed);
    (void) check_mounts(*parsed, backend_kind::unix_local);
  }
  return 0;
}
