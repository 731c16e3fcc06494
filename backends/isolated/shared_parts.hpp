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

  /// Whether a sandbox has a range of user ids: its own, or one that it shares.
  bool gives_ranges() const;

  /// Whether other sandboxes have the range that begins with `first`, too.
  bool is_shared(uint32_t first) const;

  /// (blocks) The first of the ids that the private directory `owner` has, or gets now; 0: those of
  /// this server.
  result<uint32_t> take_ids(const std::string& owner) const;

  /// (blocks) Makes them another directory's. False: they stay as they were.
  bool move_ids(uint32_t first, const std::string& owner) const;

  /// (blocks) Gives them back. The files of their owner must be gone.
  void release_ids(uint32_t first) const;

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
  uint32_t first_range() const;

  mutable std::mutex mutex_;
  std::string filter_;                      ///< guarded
  std::string why_no_layers_;               ///< guarded
  std::unique_ptr<egress::service> egress_; ///< guarded
};

} // namespace troupe::backends::isolated
