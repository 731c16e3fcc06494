#pragma once

#include "messages/error.hpp"

#include <sys/stat.h>
#include <time.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace troupe::snapshot {

/// Walks a tree as `workspace::walk` does, on a thread of its own and some items ahead of who takes
/// them: most of the time goes by in the kernel, while the other compares.
class walk_ahead {
public:
  /// Some items in their order.
  class batch {
  public:
    size_t size() const {
      return items_.size();
    }
    std::string_view path(size_t i) const {
      return {text_.data() + items_[i].path, items_[i].size};
    }
    const char* name(size_t i) const {
      return text_.data() + items_[i].name;
    }
    const struct stat& info(size_t i) const {
      return items_[i].info;
    }
    /// The time as the file system takes it, before the first of them was looked at.
    const timespec& begun() const {
      return begun_;
    }

  private:
    friend class walk_ahead;
    struct item {
      size_t path; ///< where it begins in the text
      size_t size;
      size_t name;
      struct stat info;
    };

    timespec begun_{};
    std::string text_; ///< paths, each with a NUL after it
    std::vector<item> items_;
  };

  /// `root_fd` must stay open. `skip`, asked on that thread, leaves out a path with all below it.
  walk_ahead(int root_fd, std::function<bool(std::string_view)> skip);
  ~walk_ahead();
  walk_ahead(const walk_ahead&) = delete;
  walk_ahead& operator=(const walk_ahead&) = delete;

  /// The next ones, until the next call; null at the end.
  result<const batch*> next();

private:
  static constexpr size_t slots = 4;
  static constexpr size_t batch_items = 256;
  static constexpr size_t batch_bytes = 256 * 1024;

  void run();
  /// A batch to fill; null: nobody wants one any more.
  batch* start();
  void give();

  int root_fd_;
  std::function<bool(std::string_view)> skip_;
  std::mutex mutex_;
  std::condition_variable changed_;
  batch ring_[slots];
  size_t given_ = 0;
  size_t taken_ = 0; ///< batches that are free again
  bool holding_ = false;
  bool ended_ = false;
  bool stop_ = false;
  std::optional<error> failure_;
  std::thread thread_;
};

} // namespace troupe::snapshot
