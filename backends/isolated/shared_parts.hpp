#pragma once

#include "backends/egress/service.hpp"
#include "backends/isolated/options.hpp"
#include "backends/isolated/root_template.hpp"
#include "messages/error.hpp"

#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace troupe::backends::isolated {

class warm_pool;

/// What all isolated sandboxes of a process share.
struct shared_parts {
  shared_parts(isolated_options opts, std::string instance_name)
    : options(std::move(opts)), instance(std::move(instance_name)),
      templates(options.dir, options.root, options.may_adopt) {}

  /// (blocks) The filter, made once.
  result<std::string> filter();

  bool waived(const std::string& name) const;

  /// Whether a sandbox has a range of user ids of its own.
  bool gives_ranges() const;

  /// Why no workspace can lie on layers on this machine, as far as is known; empty: one can.
  std::string why_no_layers() const;
  void no_layers(const std::string& why);

  /// Carries what sandboxes with an allow list send; made when first asked for.
  egress::service& egress();

  const isolated_options options;
  const std::string instance;
  root_templates templates;
  /// Set by whoever made both; null: every sandbox is made when it is asked for.
  warm_pool* warm = nullptr;

private:
  mutable std::mutex mutex_;
  std::string filter_;                      ///< guarded
  std::string why_no_layers_;               ///< guarded
  std::unique_ptr<egress::service> egress_; ///< guarded
};

} // namespace troupe::backends::isolated
