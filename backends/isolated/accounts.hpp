#pragma once

#include "backends/backend.hpp"
#include "backends/isolated/launch.hpp"
#include "backends/user_ids.hpp"
#include "messages/error.hpp"

#include <map>
#include <optional>
#include <string>

namespace troupe::backends::isolated {

/// Who there is in a sandbox: root, its own user, and the manifest's.
class accounts {
public:
  /// `mapped`: it has ids of its own. With a single id there is but one user, whatever it is
  /// called.
  accounts(const sandbox_config& config, bool mapped);

  /// Ids inside; nobody named: the sandbox's user.
  result<user_ids> ids_of(const std::optional<std::string>& user) const;

  /// (blocks) The manifest's users and groups, over the template's files.
  result<void> write(const sandbox_config& config, launch_plan& out) const;

private:
  std::map<std::string, user_ids> by_name_;
};

} // namespace troupe::backends::isolated
