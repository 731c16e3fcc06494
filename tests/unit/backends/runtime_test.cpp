#include "backends/runtime.hpp"

#include "support.hpp"

#include <sys/resource.h>

using namespace troupe;
using namespace troupe::backends;

namespace {

runtime::options options() {
  runtime::options out;
  out.instance = test::unique_instance();
  return out;
}

} // namespace

BOOST_AUTO_TEST_CASE(backends_of_other_builds_are_refused_by_name) {
  runtime host{options()};
  for (auto kind : {backend_kind::isolated, backend_kind::docker}) {
    auto box = host.make_sandbox(kind, {});
    BOOST_REQUIRE(!box);
    BOOST_TEST(to_string(box.error().code) == "backend_unavailable");
    BOOST_TEST(box.error().message.find(to_string(kind)) != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(the_process_may_open_as_many_files_as_the_machine_lets_it) {
  runtime host{options()};
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  BOOST_TEST(files.rlim_cur == files.rlim_max);
}

BOOST_AUTO_TEST_CASE(a_runtime_goes_down_with_commands_still_running) {
  test::temporary_directory dir;
  pid_t pid = 0;
  {
    runtime host{options()};
    sandbox_config config;
    config.session_id = "s";
    config.private_dir = dir.path + "/s";
    config.workspace_root = dir.path + "/s/w";
    auto box = std::move(host.make_sandbox(backend_kind::unix_local, config).value());
    BOOST_REQUIRE(box->open());
    exec_request request;
    request.command = {"echo $$; exec sleep 1000"};
    auto spec = box->prepare(request, {}).value();
    spec.streamed = true;
    test::transcript said;
    command_handlers handlers;
    handlers.on_output = said.handler();
    box->exec(std::move(spec), std::move(handlers));
    BOOST_REQUIRE(test::eventually([&] { return !test::pids_in(said.text()).empty(); }));
    pid = test::pids_in(said.text()).front();
  }
  BOOST_TEST(test::eventually([&] { return !test::is_alive(pid); }));
}
