#include "snapshot/extract.hpp"
#include "snapshot/repository.hpp"
#include "tests/fuzz/support.hpp"

using namespace troupe;

// The first byte says how the rest is unpacked: as a snapshot, over what is there, or beside
// itself.
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::workspace_folder folder;
  if (size == 0)
    return 0;
  archive_limits limits{1 << 20, 1 << 20, 200};
  auto archive = fuzz::file_of(fuzz::as_text(data + 1, size - 1));
  unique_fd root{::open(folder.root().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  ::symlinkat("..", root.get(), "out");
  ::mkdirat(root.get(), "a", 0755);
  if (data[0] % 3 == 2) {
    snapshot::extract_request request;
    request.archive_fd = archive.get();
    request.root_fd = root.get();
    request.path = "in/archive.tar";
    request.shown = request.path;
    request.scheme = snapshot::archive_scheme::tar;
    request.limits = limits;
    (void) snapshot::extract(request, {});
  } else {
    (void) snapshot::hydrate(archive.get(), folder.root(), data[0] % 3 == 0, limits, {});
  }
  folder.finish();
  return 0;
}
