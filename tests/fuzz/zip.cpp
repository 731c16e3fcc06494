#include "snapshot/extract.hpp"
#include "tests/fuzz/support.hpp"

using namespace troupe;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::workspace_folder folder;
  auto archive = fuzz::file_of(fuzz::as_text(data, size));
  unique_fd root{::open(folder.root().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  ::symlinkat("..", root.get(), "out");
  snapshot::extract_request request;
  request.archive_fd = archive.get();
  request.root_fd = root.get();
  request.path = "archive.zip";
  request.shown = request.path;
  request.scheme = snapshot::archive_scheme::zip;
  request.limits = archive_limits{1 << 20, 1 << 20, 200};
  (void) snapshot::extract(request, {});
  folder.finish();
  return 0;
}
