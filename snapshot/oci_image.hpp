#pragma once

#include "messages/error.hpp"

#include <string>

namespace troupe::snapshot {

/// (blocks) The root file system in `root`: the directory itself or, if that is an OCI image layout
/// (it has a file `oci-layout`), where the image for this machine is unpacked below `cache`, once.
///
/// Nothing of an image is trusted: the digests of manifest and layers and the `diff_ids` of
/// what layers decode to are checked (a layer that differs is `layer` of the error), what is
/// unpacked stays below, devices and set-id bits are left out, all files are this process's own.
/// `sandbox_config_invalid`, with `path`, for an image that is damaged or has no such form.
result<std::string> root_of_image(const std::string& root, const std::string& cache);

} // namespace troupe::snapshot
