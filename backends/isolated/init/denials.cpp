#include "denials.hpp"
#include "channel.hpp"
#include "kernel.hpp"
#include "state.hpp"
#include "sys.hpp"

namespace troupe::backends::isolated::init {

using sys::arg;
using sys::call;

namespace {

constexpr uint32_t max_call = 512;
uint64_t denied[max_call + 1]; ///< the last: of all numbers that are none

} // namespace

void refuse_call() {
  seccomp_notif asked{};
  if (call(__NR_ioctl, me.denials, static_cast<long>(SECCOMP_IOCTL_NOTIF_RECV), arg(&asked)) < 0)
    return; // whoever asked was killed meanwhile
  seccomp_notif_resp answer{};
  answer.id = asked.id;
  answer.error = -EPERM;
  call(__NR_ioctl, me.denials, static_cast<long>(SECCOMP_IOCTL_NOTIF_SEND), arg(&answer));
  auto number = static_cast<uint32_t>(asked.data.nr);
  auto& count = denied[number < max_call ? number : max_call];
  ++count;
  if (me.control < 0 || (count & (count - 1)) != 0)
    return;
  denied_message m{
    {message_type::denied, 0, 0}, asked.data.nr, static_cast<int32_t>(asked.pid), count};
  post(&m, sizeof m);
}

} // namespace troupe::backends::isolated::init
