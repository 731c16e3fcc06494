#include "support.hpp"

// Kills actors and processes in the middle of work: every other session goes on, the request in
// flight gets a typed error or is done again, nothing is left behind.

using namespace troupe;
using namespace troupe::tests;
using namespace std::chrono_literals;

namespace {

struct fixture : node_fixture {
  local_session_actor session_of(const std::string& id) {
    return host().shared().directory.find(id).session;
  }
  backend_actor backend_of(const std::string& id) {
    return host().shared().directory.find(id).backend;
  }

  template <class Handle>
  void kill(const Handle& x) {
    caf::scoped_actor self{host().system()};
    self->send_exit(x, caf::exit_reason::kill);
    self->wait_for(x);
  }

  /// A command that says it has begun and then runs until someone makes the file `go`.
  struct running_command {
    caf::scoped_actor self;
    std::thread thread;
    result<exec_result> outcome = unexpected(make_error(errc::none, op::exec, "runs"));
  };

  std::unique_ptr<running_command> begin(const std::string& id) {
    auto x = std::unique_ptr<running_command>{
      new running_command{caf::scoped_actor{host().system()}, {}}};
    auto target = session(id);
    x->thread = std::thread{[this, target, raw = x.get()] {
      exec_call call;
      call.call_id = 7777;
      call.request.command = {"echo > begun; until test -e go; do sleep 0.01; done; echo done"};
      raw->outcome = host().ask<exec_result>(target, std::move(call));
    }};
    output(id, "until test -e begun; do :; done");
    return x;
  }
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(restart, fixture)

BOOST_AUTO_TEST_CASE(a_session_that_dies_comes_back_and_its_processes_went_on) {
  auto id = make();
  auto other = make();
  auto command = begin(id);
  output(id, "setsid sh -c 'until test -e end; do sleep 0.01; done; echo survived > proof' "
             ">/dev/null 2>&1 &");
  kill(session_of(id));
  command->thread.join();
  BOOST_REQUIRE(!command->outcome.has_value());
  BOOST_TEST((command->outcome.error().code == errc::interrupted));
  BOOST_TEST(command->outcome.error().retryable.value_or(false));
  BOOST_TEST(output(other, "echo fine") == "fine\n");
  wait_until_running(id);
  BOOST_TEST(view(id)->record.live.restarts == 1u);
  BOOST_TEST(view(id)->record.live.epoch == 2u);
  // The background process of the first life is still there.
  BOOST_TEST(output(id, "touch end; until test -s proof; do :; done; cat proof") == "survived\n");
}

BOOST_AUTO_TEST_CASE(a_backend_that_dies_takes_its_processes_and_the_session_gets_a_new_one) {
  auto id = make();
  auto other = make();
  output(id, "echo kept > f; sleep 6161 > /dev/null 2>&1 &");
  auto command = begin(id);
  kill(backend_of(id));
  command->thread.join();
  BOOST_REQUIRE(!command->outcome.has_value());
  BOOST_TEST(command->outcome.error().retryable.value_or(false));
  BOOST_TEST(output(other, "echo fine") == "fine\n");
  wait_until_running(id);
  BOOST_TEST(output(id, "cat f") == "kept\n");
  for (int i = 0; i < 1000 && processes_with("6161") > 0; ++i)
    std::this_thread::sleep_for(2ms); // the kernel ends them on its own time
  BOOST_TEST(processes_with("6161") == 0);
}

BOOST_AUTO_TEST_CASE(a_session_that_keeps_dying_fails_and_keeps_its_workspace) {
  auto id = make();
  output(id, "echo kept > f");
  auto root = view(id)->record.spec.state.manifest.root;
  for (int i = 0; i < 4; ++i) {
    if (i > 0)
      wait_until_running(id);
    kill(session_of(id));
  }
  result<session_view> seen = view(id);
  for (int i = 0; i < 1000 && (!seen || seen->record.live.status != session_status::failed); ++i) {
    std::this_thread::sleep_for(2ms); // until the supervisor has heard of the death
    seen = view(id);
  }
  BOOST_REQUIRE(seen.has_value());
  BOOST_TEST((seen->record.live.status == session_status::failed));
  BOOST_TEST(seen->record.live.last_error.has_value());
  auto refused = host().ask<session_actor>(host().supervisor_of(id), lookup_session{id, "default"});
  BOOST_REQUIRE(!refused.has_value());
  BOOST_TEST((refused.error().code == errc::session_failed));
  BOOST_TEST(slurp(root + "/f") == "kept\n");
  BOOST_TEST(remove(id).has_value());
  BOOST_TEST(!std::filesystem::exists(root));
}

BOOST_AUTO_TEST_CASE(a_supervisor_that_dies_is_replaced_and_adopts_its_sessions) {
  auto id = make();
  output(id, "echo kept > f");
  kill(host().supervisor_of(id));
  wait_until_running(id);
  BOOST_TEST(output(id, "cat f") == "kept\n");
  BOOST_TEST(view(id)->record.live.restarts == 0u);
  BOOST_TEST(remove(id).has_value());
}

BOOST_AUTO_TEST_CASE(a_registry_that_dies_is_replaced_and_nothing_acknowledged_is_lost) {
  auto id = make();
  kill(host().shared().directory.registry());
  for (int i = 0; i < 1000; ++i) {
    auto next = create(spec());
    if (next)
      break;
    BOOST_TEST(next.error().retryable.value_or(false));
    std::this_thread::sleep_for(2ms); // until the node has made another
  }
  reboot();
  BOOST_TEST(view(id).has_value());
}

BOOST_AUTO_TEST_CASE(a_snapshot_store_that_dies_answers_and_is_replaced) {
  auto x = spec();
  x.state.snapshot.kind = snapshot_kind::local;
  auto id = make(x);
  output(id, "head -c 30000000 /dev/urandom > big");
  auto target = session(id);
  result<session_view> stopped = unexpected(make_error(errc::none, op::stop, ""));
  std::thread stop{[&] { stopped = host().ask<session_view>(target, stop_session{}); }};
  kill(host().shared().directory.snapshots());
  stop.join();
  if (!stopped)
    BOOST_TEST((stopped.error().code == errc::workspace_stop_error));
  for (int i = 0; i < 1000 && !stopped; ++i) {
    stopped = host().ask<session_view>(target, stop_session{});
    std::this_thread::sleep_for(2ms); // until the node has made another
  }
  BOOST_TEST(stopped.has_value());
  for (const auto& left :
       std::filesystem::recursive_directory_iterator{folder() + "/state/snapshots"})
    BOOST_TEST(left.path().extension() != ".tmp");
}

BOOST_AUTO_TEST_CASE(after_a_death_of_the_process_sessions_run_again_over_what_they_had) {
  auto x = spec();
  x.state.manifest.entries = {file("from_manifest", "m")};
  auto id = make(x);
  auto stopped = make();
  output(id, "echo edited > from_manifest; echo kept > f; sleep 7171 >/dev/null 2>&1 &");
  BOOST_REQUIRE(ask<session_view>(stopped, shutdown_session{}).has_value());
  reboot();
  wait_until_running(id);
  BOOST_TEST(output(id, "cat from_manifest f") == "edited\nkept\n");
  BOOST_TEST(processes_with("7171") == 0);
  BOOST_TEST((view(stopped)->record.live.status == session_status::stopped));
}

BOOST_AUTO_TEST_CASE(folders_without_a_record_are_swept_at_start) {
  auto stray = folder() + "/state/sessions/" + make_uuid();
  std::filesystem::create_directories(stray + "/workspace");
  auto id = make();
  reboot();
  BOOST_TEST(!std::filesystem::exists(stray));
  BOOST_TEST(std::filesystem::exists(folder() + "/state/sessions/" + id));
}

BOOST_AUTO_TEST_SUITE_END()
