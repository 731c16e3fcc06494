#include "backends/isolated/life.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace troupe::backends::isolated {

ending::ending(runner_services s, life x) : services_(s), what_(std::move(x)) {}

bool ending::begin(std::function<void()> done, bool lost) {
  bool first;
  {
    std::lock_guard guard{mutex_};
    if (over_)
      services_.events.post(std::move(done));
    else
      waiting_.push_back(std::move(done));
    first = !std::exchange(begun_, true);
  }
  if (!first)
    return false;
  if (what_.proxy)
    what_.proxy->stop();
  // Those of a lost one have got their error, and whoever comes late gets the same.
  commands_gone_ = lost;
  if (!lost)
    what_.runner->stop([self = shared_from_this()] {
      self->commands_gone_ = true;
      self->proceed();
    });
  // After `stop` has marked them as cancelled, or they would look like commands that were lost.
  if (what_.refusals)
    what_.refusals->finish();
  services_.events.post([self = shared_from_this()] {
    self->await_init();
    ::syscall(SYS_pidfd_send_signal, self->what_.init->get(), SIGKILL, nullptr, 0);
  });
  return true;
}

void ending::init_died(const std::function<void(sandbox_notice)>& told) {
  if (begun_already())
    return;
  auto tell = [self = shared_from_this(), told] {
    if (told)
      told(self->obituary());
  };
  begin(tell, true);
}

bool ending::begun_already() {
  std::lock_guard guard{mutex_};
  return begun_;
}

void ending::await_init() {
  watch_
    = services_.events.watch(what_.init->get(), EPOLLIN, [self = shared_from_this()](uint32_t) {
        self->services_.events.unwatch(self->watch_);
        siginfo_t info{};
        if (::waitid(P_PIDFD, static_cast<id_t>(self->what_.init->get()), &info, WEXITED | WNOHANG)
              == 0
            && info.si_code == CLD_KILLED)
          self->signal_ = info.si_status;
        self->init_gone_ = true;
        self->proceed();
      });
}

void ending::proceed() {
  if (!init_gone_ || !commands_gone_)
    return;
  out_of_memory_ = what_.limit_hits->now().memory > 0;
  what_.limit_hits->stop();
  if (what_.refusals)
    what_.refusals->stop();
  what_.limits->remove();
  if (what_.group)
    destroy(services_.events, what_.group, [self = shared_from_this()] { self->finish(); });
  else
    finish();
}

void ending::finish() {
  what_.runner->close_leftover_pipes();
  what_ = {};
  std::vector<std::function<void()>> all;
  {
    std::lock_guard guard{mutex_};
    over_ = true;
    all.swap(waiting_);
  }
  for (auto& done : all)
    done();
}

sandbox_notice ending::obituary() const {
  auto how = signal_ > 0 ? "its init was killed by signal " + std::to_string(signal_)
                         : std::string{"its init ended"};
  if (out_of_memory_)
    how += "; the sandbox had run out of memory";
  sandbox_notice out;
  out.lost = true;
  out.data = "{\"what\":\"lost\",\"signal\":" + (signal_ > 0 ? std::to_string(signal_) : "null")
             + ",\"out_of_memory\":" + (out_of_memory_ ? "true" : "false") + "}";
  out.failure = make_error(errc::backend_lost, op::sandbox, "the sandbox is lost: " + how);
  return out;
}

} // namespace troupe::backends::isolated
