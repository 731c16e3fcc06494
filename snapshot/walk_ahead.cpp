#include "snapshot/walk_ahead.hpp"

#include "snapshot/capture.hpp"
#include "workspace/tree.hpp"

#include <utility>

namespace troupe::snapshot {

walk_ahead::walk_ahead(int root_fd, std::function<bool(std::string_view)> skip)
  : root_fd_(root_fd), skip_(std::move(skip)), thread_([this] { run(); }) {}

walk_ahead::~walk_ahead() {
  {
    std::lock_guard lock{mutex_};
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

result<const walk_ahead::batch*> walk_ahead::next() {
  std::unique_lock lock{mutex_};
  if (std::exchange(holding_, false)) {
    ++taken_;
    changed_.notify_all();
  }
  changed_.wait(lock, [&] { return given_ > taken_ || ended_; });
  if (given_ > taken_) {
    holding_ = true;
    return &ring_[taken_ % slots];
  }
  if (failure_)
    return unexpected(*failure_);
  return nullptr;
}

walk_ahead::batch* walk_ahead::start() {
  std::unique_lock lock{mutex_};
  changed_.wait(lock, [&] { return given_ - taken_ < slots || stop_; });
  if (stop_)
    return nullptr;
  auto& x = ring_[given_ % slots]; // this thread's until it is given
  x.begun_ = file_clock();
  x.text_.clear();
  x.items_.clear();
  return &x;
}

void walk_ahead::give() {
  {
    std::lock_guard lock{mutex_};
    ++given_;
  }
  changed_.notify_all();
}

void walk_ahead::run() {
  using workspace::walk_next;
  auto* to = start();
  auto walked = workspace::walk(root_fd_, [&](const workspace::tree_item& item) {
    if (!to)
      return walk_next::stop;
    if (skip_(item.path))
      return walk_next::skip;
    auto at = to->text_.size();
    auto name = at + item.path.size() - std::string_view{item.name}.size();
    to->text_.append(item.path) += '\0';
    to->items_.push_back({at, item.path.size(), name, *item.info});
    if (to->items_.size() < batch_items && to->text_.size() < batch_bytes)
      return walk_next::enter;
    give();
    to = start();
    return to ? walk_next::enter : walk_next::stop;
  });
  if (to && !to->items_.empty())
    give();
  std::lock_guard lock{mutex_};
  if (!walked)
    failure_ = std::move(walked.error());
  ended_ = true;
  changed_.notify_all();
}

} // namespace troupe::snapshot
