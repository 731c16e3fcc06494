#include "snapshot/index_fold.hpp"

#include <utility>

namespace troupe::snapshot {

index_fold::index_fold(std::vector<std::unique_ptr<index_decoder>> layers, bool whiteouts)
  : whiteouts_(whiteouts) {
  for (auto& x : layers)
    layers_.emplace_back().input = std::move(x);
}

result<void> index_fold::advance(stream& x) {
  auto more = x.input->next(x.entry);
  if (!more)
    return unexpected(std::move(more.error()));
  x.ended = !*more;
  return {};
}

/// What is no directory hides all below it, from the moment its place is reached.
void index_fold::pass(stream& x, const std::string& path, entry_type type) {
  // A subtree within one that is hidden already adds nothing.
  if (type == entry_type::directory || (x.hiding && lies_below(path, x.hides)))
    return;
  x.hides = path;
  x.hiding = true;
}

bool index_fold::is_hidden(size_t layer) const {
  const auto& path = layers_[layer].entry.path;
  for (auto i = layer + 1; i < layers_.size(); ++i)
    if (layers_[i].hiding && lies_below(path, layers_[i].hides))
      return true;
  return false;
}

size_t index_fold::first() {
  const auto none = layers_.size();
  auto before = [&](size_t a, size_t b) {
    return b == none || compare_paths(layers_[a].entry.path, layers_[b].entry.path) < 0;
  };
  // Most of the time one layer has many paths before the next one of any other.
  if (leads_ && !layers_[leading_].ended && before(leading_, rival_))
    return leading_;
  size_t best = none;
  rival_ = none;
  for (auto i = none; i-- > 0;) {
    if (layers_[i].ended)
      continue;
    if (before(i, best)) {
      rival_ = best;
      best = i;
    } else if (before(i, rival_)) {
      rival_ = i;
    }
  }
  leading_ = best;
  leads_ = best != none && before(best, rival_);
  return best;
}

result<bool> index_fold::next(index_entry& x) {
  if (!std::exchange(started_, true))
    for (auto& each : layers_)
      if (auto ok = advance(each); !ok)
        return unexpected(std::move(ok.error()));
  for (;;) {
    auto best = first();
    if (best == layers_.size())
      return false;
    auto type = layers_[best].entry.type;
    bool lives = (whiteouts_ || type != entry_type::whiteout) && !is_hidden(best);
    std::swap(x, layers_[best].entry);
    pass(layers_[best], x.path, type);
    if (auto ok = advance(layers_[best]); !ok)
      return unexpected(std::move(ok.error()));
    for (size_t i = 0; i < best && !leads_; ++i) {
      auto& older = layers_[i];
      if (older.ended || older.entry.path != x.path)
        continue;
      pass(older, x.path, older.entry.type);
      if (auto ok = advance(older); !ok)
        return unexpected(std::move(ok.error()));
    }
    if (lives) {
      x.layer = static_cast<uint32_t>(best);
      return true;
    }
  }
}

} // namespace troupe::snapshot
