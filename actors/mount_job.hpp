#pragma once

#include "actors/manifest_supervisor.hpp"

namespace troupe::actors {

/// The job that attaches a mount of the application's manifest, by commands in the sandbox; what is
/// attached there already goes first. Fails as a job, if the mount cannot be planned.
void plan_mount(entry_job& job, const std::shared_ptr<const application>& work,
                const mount_entry& x);

} // namespace troupe::actors
