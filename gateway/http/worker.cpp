#include "gateway/http/worker.hpp"

#include "gateway/http/connection.hpp"

#include <algorithm>

namespace troupe::gateway {

namespace {

std::chrono::milliseconds tick_of(const server_options& x) {
  auto shortest = std::min({x.header_timeout, x.idle_timeout, x.body_timeout, x.write_timeout});
  return std::clamp(shortest / 4, std::chrono::milliseconds{10}, std::chrono::milliseconds{1000});
}

} // namespace

worker::worker(std::shared_ptr<server_core> core) : core_(std::move(core)) {}

void worker::run() {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "http");
    context_.run();
  });
}

void worker::end() {
  post([this] {
    begin_stop();
    close_all(busy_);
    tick_.cancel();
    work_.reset();
  });
  thread_.join();
  {
    std::lock_guard guard{mutex_};
    ended_ = true;
  }
  context_.restart();
  context_.poll(); // what was posted after the thread had ended; it holds connections and so us
}

void worker::adopt(unique_fd socket) {
  if (stopping_ || (core_->connections >= core_->options.max_connections && !evict()))
    return;
  auto c = std::make_shared<connection>(shared_from_this(), std::move(socket));
  ++core_->connections;
  c->start(waiting_.insert(waiting_.end(), c));
  arm_tick();
}

bool worker::evict() {
  if (waiting_.empty())
    return false;
  std::shared_ptr(waiting_.front())->close();
  return true;
}

void worker::begin_stop() {
  stopping_ = true;
  close_all(waiting_);
  for (const auto& c : connection_list(busy_))
    c->begin_stop();
}

void worker::remove(connection_list& list, connection_list::iterator x) {
  list.erase(x);
  if (--core_->connections == 0) {
    std::lock_guard guard{core_->mutex};
    core_->none_left.notify_all();
  }
}

std::string_view worker::date() {
  auto now = ::time(nullptr);
  if (now != date_time_) {
    tm utc{};
    ::gmtime_r(&now, &utc);
    std::strftime(date_, sizeof date_, "%a, %d %b %Y %H:%M:%S GMT", &utc);
    date_time_ = now;
  }
  return date_;
}

void worker::arm_tick() {
  if (ticking_)
    return;
  ticking_ = true;
  tick_.expires_after(tick_of(core_->options));
  tick_.async_wait([this](auto ec) {
    ticking_ = false;
    if (!ec)
      on_tick();
  });
}

void worker::on_tick() {
  auto now = steady_clock::now();
  connection_list expired; // closing one runs callbacks, which may close others
  for (const auto* list : {&waiting_, &busy_})
    std::copy_if(list->begin(), list->end(), std::back_inserter(expired),
                 [&](const auto& c) { return c->expired(now); });
  for (const auto& c : expired)
    c->give_up();
  if (!waiting_.empty() || !busy_.empty())
    arm_tick();
}

void worker::close_all(const connection_list& list) {
  for (const auto& c : connection_list(list))
    c->close();
}

} // namespace troupe::gateway
