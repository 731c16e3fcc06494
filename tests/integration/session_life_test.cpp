#include "support.hpp"

#include "workspace/dependencies.hpp"

#include <any>
#include <atomic>

using namespace troupe;
using namespace troupe::tests;
using namespace std::chrono_literals;

namespace {

struct fixture : node_fixture {
  session_spec with_snapshot() {
    auto x = spec();
    x.state.snapshot.kind = snapshot_kind::local;
    x.state.snapshot.base_path = folder() + "/snap";
    return x;
  }
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(session_life, fixture)

BOOST_AUTO_TEST_CASE(a_manifest_is_there_when_create_answers) {
  auto x = spec();
  named_entry dir;
  dir.path = "d";
  dir.entry.kind = entry_kind::dir;
  dir.entry.children = {file("e/f.txt", "deep"), file("g", "flat")};
  x.state.manifest.entries = {file("a.txt", "hello"), dir};
  auto id = make(x);
  BOOST_TEST(output(id, "cat a.txt d/e/f.txt d/g") == "hellodeepflat");
  BOOST_TEST((view(id)->record.live.status == session_status::running));
}

BOOST_AUTO_TEST_CASE(an_exit_code_is_a_result_and_a_signal_is_negative) {
  auto id = make();
  BOOST_TEST(exec(id, "exit 7")->exit_code == 7);
  BOOST_TEST(exec(id, "kill -9 $$")->exit_code == -9);
}

BOOST_AUTO_TEST_CASE(a_timeout_carries_the_output_so_far) {
  auto id = make();
  auto x = exec(id, "echo before; sleep 60", 200ms);
  BOOST_REQUIRE(!x.has_value());
  BOOST_TEST((x.error().code == errc::exec_timeout));
  BOOST_TEST(x.error().context.find("before") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(commands_of_one_session_run_side_by_side) {
  auto id = make();
  // Each waits for the other's file: one after the other they would never end.
  auto one = std::thread{[&] { output(id, "touch 1; until test -e 2; do :; done"); }};
  BOOST_TEST(output(id, "touch 2; until test -e 1; do :; done; echo ok") == "ok\n");
  one.join();
}

BOOST_AUTO_TEST_CASE(a_cancelled_command_ends_with_its_whole_tree) {
  auto id = make();
  auto target = session(id);
  exec_call call;
  call.call_id = 99;
  call.request.command = {"echo started > started; setsid sleep 4242; true"};
  caf::scoped_actor self{host().system()};
  auto pending = self->request(target, caf::infinite, call);
  output(id, "until test -s started; do :; done");
  BOOST_TEST(host().ask<void>(target, exec_cancel{99}).has_value());
  std::optional<error> failure;
  pending.receive([](exec_result&) {}, [&](caf::error& e) { failure = from_caf(e); });
  BOOST_REQUIRE(failure.has_value());
  BOOST_TEST((failure->code == errc::cancelled));
  BOOST_TEST(processes_with("4242") == 0);
}

BOOST_AUTO_TEST_CASE(a_stop_writes_a_snapshot_that_another_node_resumes) {
  auto x = with_snapshot();
  auto eph = file("eph", "fresh");
  eph.entry.ephemeral = true;
  x.state.manifest.entries = {file("keep", "m"), eph};
  auto id = make(x);
  output(id, "echo changed > keep; echo stale > eph; echo new > other; ln -s /nowhere link");
  auto stopped = ask<session_view>(id, stop_session{});
  BOOST_REQUIRE_MESSAGE(stopped.has_value(), why(stopped));
  BOOST_TEST(stopped->record.spec.state.snapshot_fingerprint.has_value());
  BOOST_TEST(std::filesystem::exists(folder() + "/snap/" + id + ".tar"));
  auto state = stopped->record.spec.state;

  node_fixture elsewhere;
  session_spec again;
  again.id = id;
  again.state = state;
  again.resumed = true;
  auto resumed
    = elsewhere.host().ask<session_view>(elsewhere.host().supervisor_of(id), resume_session{again});
  BOOST_REQUIRE_MESSAGE(resumed.has_value(), why(resumed));
  BOOST_TEST(elsewhere.output(id, "cat keep eph other; readlink link")
             == "changed\nfreshnew\n/nowhere\n");
}

BOOST_AUTO_TEST_CASE(a_start_after_a_stop_brings_the_snapshot_back) {
  auto id = make(with_snapshot());
  output(id, "echo one > f");
  BOOST_REQUIRE(ask<session_view>(id, stop_session{}).has_value());
  output(id, "echo two > f; touch stray");
  BOOST_REQUIRE(ask<session_view>(id, start_session{}).has_value());
  BOOST_TEST(output(id, "cat f; ls") == "one\nf\n");
}

BOOST_AUTO_TEST_CASE(a_damaged_snapshot_fails_the_start_and_leaves_the_tree) {
  auto id = make(with_snapshot());
  output(id, "echo one > f");
  BOOST_REQUIRE(ask<session_view>(id, stop_session{}).has_value());
  output(id, "echo live > f");
  auto path = folder() + "/snap/" + id + ".tar";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  auto again = ask<session_view>(id, start_session{});
  BOOST_REQUIRE(!again.has_value());
  BOOST_TEST((view(id)->record.live.status == session_status::failed));
  BOOST_TEST(slurp(view(id)->record.spec.state.manifest.root + "/f") == "live\n");
}

BOOST_AUTO_TEST_CASE(a_delete_leaves_no_process_and_no_file) {
  auto id = make(with_snapshot());
  output(id, "setsid sh -c 'env -i sleep 5151 & wait' > /dev/null 2>&1 &");
  BOOST_REQUIRE(ask<session_view>(id, stop_session{}).has_value());
  BOOST_REQUIRE(remove(id).has_value());
  BOOST_TEST(processes_with("5151") == 0);
  BOOST_TEST(!std::filesystem::exists(folder() + "/state/sessions/" + id));
  BOOST_TEST(!std::filesystem::exists(folder() + "/snap/" + id + ".tar"));
  BOOST_TEST(remove(id).has_value()); // again is fine
}

BOOST_AUTO_TEST_CASE(a_create_that_fails_leaves_nothing) {
  auto x = spec();
  named_entry missing;
  missing.path = "a";
  missing.entry.kind = entry_kind::local_file;
  missing.entry.src = "nope";
  x.state.manifest.entries = {file("first", "x"), missing};
  auto id = x.id;
  auto made = create(x);
  BOOST_REQUIRE(!made.has_value());
  BOOST_TEST((made.error().code == errc::local_file_read_error));
  BOOST_TEST(!view(id).has_value());
  BOOST_TEST(!std::filesystem::exists(folder() + "/state/sessions/" + id));
}

BOOST_AUTO_TEST_CASE(a_close_runs_hooks_then_stops_then_shuts_down) {
  auto id = make(with_snapshot());
  BOOST_REQUIRE(ask<std::string>(id, add_pre_stop_hook{{"echo hook > hook.txt"}, {}}).has_value());
  auto closed = ask<session_view>(id, close_session{});
  BOOST_REQUIRE_MESSAGE(closed.has_value(), why(closed));
  BOOST_TEST((closed->record.live.status == session_status::stopped));
  BOOST_TEST(!ask<bool>(id, session_running{}).value());
  BOOST_REQUIRE(ask<session_view>(id, start_session{}).has_value());
  BOOST_TEST(output(id, "cat hook.txt") == "hook\n");
}

BOOST_AUTO_TEST_CASE(a_failing_hook_is_reported_and_the_work_is_still_persisted) {
  auto id = make(with_snapshot());
  BOOST_REQUIRE(ask<std::string>(id, add_pre_stop_hook{{"exit 3"}, {}}).has_value());
  output(id, "echo work > f");
  auto closed = ask<session_view>(id, close_session{});
  BOOST_REQUIRE(!closed.has_value());
  BOOST_TEST((closed.error().code == errc::exec_nonzero));
  BOOST_TEST(std::filesystem::exists(folder() + "/snap/" + id + ".tar"));
}

BOOST_AUTO_TEST_CASE(files_are_written_whole_and_read_by_the_piece) {
  auto id = make();
  auto handle = ask<file_handle>(id, file_open_write{"d/big", {}, {}});
  BOOST_REQUIRE(handle.has_value());
  std::vector<char> piece(200'000, 'x');
  for (int i = 0; i < 3; ++i)
    BOOST_REQUIRE(ask<void>(id, file_write_chunk{handle->handle, piece}).has_value());
  BOOST_TEST(output(id, "ls d") == ""); // nothing before the commit but the hidden temporary
  BOOST_REQUIRE(ask<void>(id, file_commit{handle->handle, 0640}).has_value());
  BOOST_TEST(output(id, "stat -c '%s %a' d/big") == "600000 640\n");
  auto opened = ask<file_opened>(id, file_open_read{"d/big", {}, 1000});
  BOOST_REQUIRE(opened.has_value());
  BOOST_TEST(opened->size == 600'000u);
  BOOST_TEST(opened->data.size() == 1000u);
  auto rest = ask<file_chunk>(id, file_read_chunk{opened->handle, 599'990, 100});
  BOOST_REQUIRE(rest.has_value());
  BOOST_TEST(rest->data.size() == 10u);
}

BOOST_AUTO_TEST_CASE(a_workspace_goes_out_and_comes_back_as_a_tar) {
  auto id = make();
  output(id, "mkdir d; echo x > d/f");
  auto out = ask<file_opened>(id, export_workspace{});
  BOOST_REQUIRE_MESSAGE(out.has_value(), why(out));
  auto bytes = ask<file_chunk>(id, file_read_chunk{out->handle, 0, 1 << 20});
  BOOST_REQUIRE(bytes.has_value());
  BOOST_TEST(bytes->data.size() == out->size);
  auto other = make();
  auto in = ask<file_handle>(other, import_workspace{});
  BOOST_REQUIRE(in.has_value());
  BOOST_REQUIRE(ask<void>(other, file_write_chunk{in->handle, bytes->data}).has_value());
  auto done = ask<void>(other, commit_import{in->handle});
  BOOST_REQUIRE_MESSAGE(done.has_value(), why(done));
  BOOST_TEST(output(other, "cat d/f") == "x\n");
}

BOOST_AUTO_TEST_CASE(an_idle_session_closes_itself) {
  auto x = with_snapshot();
  x.idle_timeout_ms = 500;
  auto id = make(x);
  for (int i = 0; i < 2000; ++i) {
    if (view(id)->record.live.status == session_status::stopped)
      break;
    std::this_thread::sleep_for(5ms); // the timeout is wall-clock time
  }
  BOOST_TEST((view(id)->record.live.status == session_status::stopped));
  BOOST_TEST(std::filesystem::exists(folder() + "/snap/" + id + ".tar"));
}

BOOST_AUTO_TEST_CASE(every_session_has_objects_of_its_own_until_it_is_closed) {
  auto objects = std::make_shared<workspace::dependencies>();
  auto made = std::make_shared<std::atomic<int>>(0);
  auto closed = std::make_shared<std::atomic<int>>(0);
  workspace::dependencies::factory_options options;
  options.close_result = [closed](std::any&) { ++*closed; };
  BOOST_REQUIRE(objects->bind_value("name", std::string{"x"}));
  BOOST_REQUIRE(objects->bind_factory(
    "number", [made](workspace::dependencies&) { return result<std::any>{++*made}; }, options));
  node_config config;
  config.dependencies = objects;
  node_fixture own{config};
  auto number = [&](const std::string& id) {
    return std::any_cast<int>(**own.host().dependencies_of(id)->get("number"));
  };
  auto a = own.make();
  auto b = own.make();
  BOOST_TEST(number(a) == 1);
  BOOST_TEST(number(b) == 2);
  BOOST_TEST(number(a) == 1);
  BOOST_TEST(std::any_cast<std::string>(**own.host().dependencies_of(b)->get("name")) == "x");
  BOOST_TEST(!own.host().dependencies_of("nobody"));
  BOOST_REQUIRE(own.host().ask<session_view>(own.session(a), close_session{}));
  BOOST_TEST(*closed == 1);
  BOOST_TEST(number(a) == 3); // a closed session may be started again
}

BOOST_AUTO_TEST_SUITE_END()
