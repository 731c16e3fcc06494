#pragma once

#include "support.hpp"

#include "backends/isolated/isolated.hpp"
#include "workspace/tree.hpp"

#include <sched.h>
#include <sys/mount.h>

#include <algorithm>

namespace troupe::backends::test {

/// Before any thread: whatever goes wrong with mounts stays in here.
struct private_mounts {
  private_mounts() {
    if (::geteuid() == 0 && ::unshare(CLONE_NEWNS) == 0)
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  }
};

inline boost::test_tools::assertion_result is_root(boost::unit_test::test_unit_id) {
  boost::test_tools::assertion_result out{::geteuid() == 0};
  out.message() << "not root";
  return out;
}

struct attack_fixture : sandbox_fixture {
  attack_fixture()
    : sandbox_fixture(true, {}, backend_kind::isolated, [](runtime::options& o, sandbox_config& c) {
        o.isolated.tmp_bytes = 8 << 20;
        o.isolated.tmp_inodes = 1000;
        o.isolated.default_open_files = 256;
        c.limits.memory_bytes = int64_t{128} << 20;
        c.limits.pids = 64;
      }) {
    box->observe([this](sandbox_notice x) {
      std::lock_guard guard{notices_mutex};
      notices.push_back(std::move(x));
    });
  }

  /// Every attack is followed by this: the sandbox still does what it is told.
  ~attack_fixture() {
    BOOST_TEST(run_script("echo alive").stdout_data == "alive\n");
  }

  command_exit python(const std::string& text) {
    auto request = plain({"/usr/bin/python3", "-c",
                          "import ctypes,os,socket,sys\n"
                          "libc=ctypes.CDLL(None,use_errno=True)\n"
                            + text});
    auto x = run(request);
    BOOST_REQUIRE_MESSAGE(x, (x ? "" : x.error().message));
    return *x;
  }

  /// Whether an event with this in its data was told of.
  bool told(const std::string& part) {
    return eventually([&] {
      std::lock_guard guard{notices_mutex};
      return std::any_of(notices.begin(), notices.end(), [&](const sandbox_notice& x) {
        return x.data.find(part) != std::string::npos;
      });
    });
  }

  std::mutex notices_mutex;
  std::vector<sandbox_notice> notices; ///< guarded
};

} // namespace troupe::backends::test
