#include "backends/isolated/warm_pool.hpp"

#include "messages/ids.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

namespace troupe::backends::isolated {

namespace {

/// After somebody took one: what he does with it comes first.
constexpr std::chrono::milliseconds courtesy{50};
constexpr std::chrono::milliseconds first_pause{1000};
constexpr std::chrono::milliseconds longest_pause{60'000};

bool is_alive(const unique_fd& pidfd) {
  pollfd p{pidfd.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) == 0;
}

} // namespace

warm_pool::warm_pool(cgroup_tree& cgroups, shared_parts& parts)
  : cgroups_(cgroups), parts_(parts), dir_(parts.options.dir + "/warm"),
    thread_([this] { fill(); }) {}

warm_pool::~warm_pool() {
  {
    std::lock_guard guard{mutex_};
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  for (auto& [root, all] : ready_)
    for (auto& x : all)
      discard(std::move(x));
}

// -- taking --------------------------------------------------------------------------------------

/// What is fixed when a sandbox is made must be what the session asks for; what groups hold can be
/// set later.
bool warm_pool::fits(const sandbox_config& config) const {
  const auto& limits = config.limits;
  const auto& ours = parts_.options.max_limits;
  return parts_.options.warm.contains(config.inside_root) && config.network == network_mode::none
         && config.users.empty() && config.groups.empty() && !limits.disk_bytes
         && !limits.disk_inodes && limits.open_files == ours.open_files
         && config.workspace_root == config.private_dir + "/workspace";
}

std::optional<warm_pool::warm> warm_pool::pop(const std::string& root) {
  std::lock_guard guard{mutex_};
  last_take_ = clock::now();
  auto& all = ready_[root];
  if (all.empty())
    return std::nullopt;
  auto x = std::move(all.front());
  all.pop_front();
  wake_.notify_all();
  return x;
}

bool warm_pool::move_in(const warm& x, const sandbox_config& config) const {
  if (!workspace::open_or_make_directory(config.private_dir, 0700))
    return false;
  // First whose the ids are, for a range is free once its owner is gone.
  auto give = [&](const std::string& owner) { return parts_.move_ids(x.box.uid_base, owner); };
  if (!give(config.private_dir))
    return false;
  if (::rename(x.dir.c_str(), config.private_dir.c_str()) == 0)
    return true;
  give(x.dir);
  return false;
}

std::optional<made_sandbox> warm_pool::take(const sandbox_config& config) {
  std::error_code missing;
  if (!fits(config)
      || (std::filesystem::exists(config.private_dir, missing)
          && !std::filesystem::is_empty(config.private_dir, missing)))
    return std::nullopt;
  while (auto x = pop(config.inside_root)) {
    auto unified = x->box.group ? x->box.group->directory()->get() : -1;
    // The group counts and refuses; then no user has a limit of his own.
    rlimit none{RLIM_INFINITY, RLIM_INFINITY};
    if (is_alive(x->box.init.pidfd) && x->box.limits.set(config.limits, unified)
        && (!config.limits.pids || ::prlimit(x->box.init.pid, RLIMIT_NPROC, &none, nullptr) == 0)
        && move_in(*x, config))
      return std::move(x->box);
    discard(std::move(*x));
  }
  return std::nullopt;
}

std::vector<warm_count> warm_pool::counts() const {
  std::lock_guard guard{mutex_};
  std::vector<warm_count> out;
  for (const auto& [root, size] : parts_.options.warm) {
    auto i = ready_.find(root);
    out.push_back({root, i == ready_.end() ? 0 : i->second.size(), size});
  }
  return out;
}

// -- making --------------------------------------------------------------------------------------

sandbox_config warm_pool::config_for(const std::string& root, const std::string& dir) const {
  sandbox_config out;
  out.session_id = std::filesystem::path{dir}.filename().string();
  out.private_dir = dir;
  out.workspace_root = dir + "/workspace";
  out.inside_root = root;
  out.limits = parts_.options.max_limits;
  return out;
}

result<void> warm_pool::make(const std::string& root, warm& out) const {
  out.dir = dir_ + "/warm-" + random_hex(12);
  auto config = config_for(root, out.dir);
  accounts who{config, parts_.gives_ranges()};
  sandbox_maker maker{cgroups_, parts_, config, who};
  if (auto ok = workspace::open_or_make_directory(out.dir, 0700); !ok)
    return unexpected{std::move(ok.error())};
  auto undo = [&](error why, uint32_t ids) {
    (void) workspace::remove_tree_at(out.dir);
    parts_.release_ids(ids);
    return unexpected{std::move(why)};
  };
  auto ids = maker.take_ids();
  if (!ids)
    return undo(std::move(ids.error()), 0);
  auto made = maker.make(*ids, nullptr, true);
  if (!made)
    return undo(std::move(made.error()), *ids);
  out.box = std::move(*made);
  return {};
}

void warm_pool::discard(warm x) const {
  x.box.end();
  (void) workspace::remove_tree_at(x.dir);
  parts_.release_ids(x.box.uid_base);
}

void warm_pool::sweep() const {
  std::error_code missing;
  for (const auto& old : std::filesystem::directory_iterator{dir_, missing}) {
    auto path = old.path().string();
    remove_groups(cgroups_, parts_, life_name(path));
    if (unique_fd dir{::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)}; dir)
      if (auto left = adopt_init(dir.get()); left && *left) {
        made_sandbox x;
        x.init = std::move(**left);
        x.end();
      }
    // Only then its ids are free: nobody has a file or a process of them.
    auto config = config_for("/", path);
    auto ids = sandbox_maker{cgroups_, parts_, config, accounts{config, true}}.take_ids();
    if (auto gone = workspace::remove_tree_at(path); gone && ids)
      parts_.release_ids(*ids);
  }
}

std::optional<std::string> warm_pool::next_root(std::unique_lock<std::mutex>& lock) {
  while (!stopping_) {
    std::string lacking;
    bool urgent = false;
    for (const auto& [root, size] : parts_.options.warm) {
      auto have = ready_[root].size();
      if (have < size && lacking.empty())
        lacking = root;
      urgent |= have < size / 2;
    }
    auto due = std::max(not_before_, urgent ? clock::time_point{} : last_take_ + courtesy);
    if (lacking.empty())
      wake_.wait(lock);
    else if (clock::now() >= due)
      return lacking;
    else
      wake_.wait_until(lock, due);
  }
  return std::nullopt;
}

void warm_pool::fill() {
  sweep();
  auto pause = first_pause;
  std::unique_lock lock{mutex_};
  while (auto root = next_root(lock)) {
    lock.unlock();
    warm x;
    auto made = make(*root, x);
    lock.lock();
    if (made) {
      ready_[*root].push_back(std::move(x));
      pause = first_pause;
      continue;
    }
    // Whoever starts a session now gets the same error for an answer.
    std::fprintf(stderr, "troupe: no sandbox could be made in advance: %s\n",
                 made.error().message.c_str());
    not_before_ = clock::now() + pause;
    pause = std::min(pause * 2, longest_pause);
  }
}

} // namespace troupe::backends::isolated
