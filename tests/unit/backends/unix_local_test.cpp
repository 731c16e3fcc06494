#include "backends/unix_local/unix_local.hpp"

#include "support.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::backends;
using namespace troupe::backends::test;

namespace {

/// A machine without cgroups.
struct bare_fixture : sandbox_fixture {
  bare_fixture() : sandbox_fixture(false) {}
};

boost::test_tools::assertion_result has_cgroups(boost::unit_test::test_unit_id) {
  cgroup_tree tree{unique_instance()};
  boost::test_tools::assertion_result out{tree.available()};
  out.message() << tree.reason();
  return out;
}

} // namespace

BOOST_FIXTURE_TEST_SUITE(unix_local, sandbox_fixture)

// -- results -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(output_and_exit_code_come_back) {
  auto x = run_script("echo out; echo err >&2; exit 3");
  BOOST_TEST(x.exit_code == 3);
  BOOST_TEST(x.stdout_data == "out\n");
  BOOST_TEST(x.stderr_data == "err\n");
  BOOST_TEST(!x.stdout_truncated);
  BOOST_TEST(!x.timed_out);
  BOOST_TEST(!x.cancelled);
  BOOST_TEST((x.wall > 0ns));
}

BOOST_AUTO_TEST_CASE(death_by_a_signal_is_a_negative_exit_code) {
  BOOST_TEST(run_script("kill -KILL $$").exit_code == -9);
}

BOOST_AUTO_TEST_CASE(a_command_that_is_not_found_is_an_error) {
  auto x = run(plain({"no-such-program"}));
  BOOST_REQUIRE(!x);
  BOOST_TEST(to_string(x.error().code) == "exec_transport_error");
  BOOST_TEST(run_script("no-such-program").exit_code == 127); // found out by the shell, not by us
}

BOOST_AUTO_TEST_CASE(a_root_that_vanished_is_an_error_for_every_kind_of_command) {
  std::filesystem::remove_all(config.workspace_root);
  for (const auto& request : {script("true"), plain({"true"})}) {
    auto x = run(request);
    BOOST_REQUIRE(!x);
    BOOST_TEST(to_string(x.error().code) == "workspace_root_not_found");
    BOOST_TEST(x.error().message == "workspace root not found: " + config.workspace_root);
  }
}

BOOST_AUTO_TEST_CASE(commands_run_in_the_root_or_where_they_are_asked_to) {
  auto line = [](const std::string& text) { return text + "\n"; };
  BOOST_TEST(run_script("pwd").stdout_data == line(config.workspace_root));
  BOOST_TEST(run(plain({"pwd"})).value().stdout_data == line(config.workspace_root));
  std::filesystem::create_directories(in_root("a b"));
  for (auto request : {script("pwd"), plain({"pwd"})}) {
    request.cwd = "a b";
    BOOST_TEST(run(request).value().stdout_data == line(in_root("a b")));
    request.cwd = "/tmp";
    BOOST_TEST(run(request).value().stdout_data == "/tmp\n");
    request.cwd = "missing";
    BOOST_TEST(to_string(run(request).error().code) == "workspace_root_not_found");
  }
}

BOOST_AUTO_TEST_CASE(what_this_backend_cannot_do_is_refused_before_anything_runs) {
  auto as_user = script("touch ran");
  as_user.user = "nobody";
  BOOST_TEST(to_string(run(as_user).error().code) == "sandbox_config_invalid");
  BOOST_TEST(to_string(run(exec_request{}).error().code) == "invalid_request");
  auto bad_name = script("touch ran");
  bad_name.env = {{"A=B", "c"}};
  BOOST_TEST(to_string(run(bad_name).error().code) == "invalid_request");
  BOOST_TEST(!exists("ran"));
}

// -- input ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(input_beyond_what_a_pipe_holds_arrives_whole) {
  auto request = script("cat");
  for (int i = 0; request.stdin_data.size() < 1'000'000; ++i)
    request.stdin_data += std::to_string(i) + '\n';
  request.output_limit = 2'000'000;
  auto x = run(request).value();
  BOOST_TEST((x.stdout_data == request.stdin_data));
}

BOOST_AUTO_TEST_CASE(a_command_need_not_read_its_input) {
  auto request = script("exec <&-; exit 4");
  request.stdin_data = std::string(1'000'000, 'x');
  BOOST_TEST(run(request).value().exit_code == 4);
}

BOOST_AUTO_TEST_CASE(without_input_there_is_an_end_of_file) {
  BOOST_TEST(run_script("cat").stdout_data == "");
}

BOOST_AUTO_TEST_CASE(streams_that_are_given_go_to_the_command_as_they_are) {
  auto path = dir.path + "/out";
  auto spec = prepare(script("echo to the file; echo to us >&2"));
  spec.stdout_fd
    = std::make_shared<const unique_fd>(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  auto x = start(std::move(spec)).exit.get().value();
  BOOST_TEST(x.stdout_data == "");
  BOOST_TEST(x.stderr_data == "to us\n");
  BOOST_TEST(read_kernel_file(AT_FDCWD, path) == "to the file\n");
}

// -- output --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(output_beyond_the_limit_is_read_and_dropped) {
  auto request = script("head -c 104857600 /dev/zero; echo done >&2");
  request.output_limit = 1000;
  auto x = run(request).value();
  BOOST_TEST(x.exit_code == 0);
  BOOST_TEST(x.stdout_data.size() == 1000u);
  BOOST_TEST(x.stdout_truncated);
  BOOST_TEST(x.stderr_data == "done\n");
  BOOST_TEST(!x.stderr_truncated);
}

BOOST_AUTO_TEST_CASE(output_up_to_the_limit_is_not_truncated) {
  auto request = script("head -c 1000 /dev/zero");
  request.output_limit = 1000;
  auto x = run(request).value();
  BOOST_TEST(x.stdout_data.size() == 1000u);
  BOOST_TEST(!x.stdout_truncated);
}

BOOST_AUTO_TEST_CASE(a_streamed_command_without_credit_waits) {
  constexpr size_t total = 1'000'000;
  constexpr size_t credit = 1000;
  auto spec = prepare(script("echo $$ >pid; exec head -c 1000000 /dev/zero"));
  spec.streamed = true;
  spec.credit = credit;
  transcript said;
  auto command = start(std::move(spec), said.handler());
  BOOST_REQUIRE(eventually([&] {
    auto pids = pids_in(read_kernel_file(AT_FDCWD, in_root("pid")));
    return !pids.empty() && blocks_in_write(pids.front());
  }));
  BOOST_TEST(eventually([&] { return said.size() == credit; }));
  for (auto granted = credit; granted < total; granted += 100'000) {
    box->grant(command.id, 100'000);
    auto expected = std::min(total, granted + 100'000);
    BOOST_TEST(eventually([&] { return said.size() == expected; }));
  }
  auto x = command.exit.get().value();
  BOOST_TEST(x.exit_code == 0);
  BOOST_TEST(x.stdout_data == "");
  BOOST_TEST(said.size() == total);
  BOOST_TEST(said.largest_piece() <= 64u * 1024);
}

BOOST_AUTO_TEST_CASE(output_left_in_the_pipe_at_the_end_still_waits_for_credit) {
  auto spec = prepare(script("printf 0123456789"));
  spec.streamed = true;
  spec.credit = 4;
  transcript said;
  auto command = start(std::move(spec), said.handler());
  BOOST_REQUIRE(eventually([&] { return said.text() == "0123"; }));
  box->grant(command.id, 3);
  BOOST_REQUIRE(eventually([&] { return said.text() == "0123456"; }));
  box->grant(command.id, 3);
  BOOST_TEST(command.exit.get().value().exit_code == 0);
  BOOST_TEST(said.text() == "0123456789");
}

BOOST_AUTO_TEST_CASE(a_streamed_command_nobody_listens_to_can_be_cancelled_after_its_end) {
  auto spec = prepare(script("echo $$ >pid; printf 0123456789"));
  spec.streamed = true;
  spec.credit = 4;
  transcript said;
  auto command = start(std::move(spec), said.handler());
  BOOST_REQUIRE(eventually([&] {
    auto pids = pids_in(read_kernel_file(AT_FDCWD, in_root("pid")));
    return said.size() == 4 && !pids.empty() && !read_process(pids.front());
  }));
  box->cancel(command.id);
  BOOST_TEST(command.exit.get().value().cancelled);
  BOOST_TEST(said.text() == "0123");
}

// -- processes left behind -----------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_background_child_neither_delays_the_answer_nor_dies_of_it) {
  auto x = run_script("(while [ ! -e go ]; do sleep 0.02; done; echo late; echo late >&2; "
                      "touch alive) & echo now; exit 3");
  BOOST_TEST(x.exit_code == 3);
  BOOST_TEST(x.stdout_data == "now\n");
  std::ofstream{in_root("go")};
  BOOST_TEST(eventually([&] { return exists("alive"); }));
}

BOOST_AUTO_TEST_CASE(a_background_child_that_floods_its_pipe_ends_with_the_sandbox) {
  auto x = run_script("yes >&1 & echo $! >&2");
  auto pids = pids_in(x.stderr_data);
  BOOST_REQUIRE(pids.size() == 1u);
  BOOST_TEST(is_alive(pids.front()));
  shutdown();
  BOOST_TEST(!is_alive(pids.front()));
}

// -- timeout and cancel --------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_timeout_kills_the_whole_tree_and_keeps_the_output_so_far) {
  auto request = script("echo $$; setsid sh -c 'echo $$; exec sleep 1000' & "
                        "sh -c 'sh -c \"echo \\$\\$; exec setsid sleep 1000\" &'; "
                        "echo partial >&2; wait; sleep 1000");
  request.timeout = 3s;
  auto x = run(request).value();
  BOOST_TEST(x.timed_out);
  BOOST_TEST(!x.cancelled);
  BOOST_TEST(x.exit_code == -9);
  BOOST_TEST(x.stderr_data == "partial\n");
  auto pids = pids_in(x.stdout_data);
  BOOST_TEST(pids.size() == 3u);
  for (auto pid : pids)
    BOOST_TEST(!is_alive(pid));
}

BOOST_AUTO_TEST_CASE(cancel_kills_the_whole_tree) {
  auto spec = prepare(script("setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait"));
  spec.streamed = true;
  transcript said;
  auto command = start(std::move(spec), said.handler());
  BOOST_REQUIRE(eventually([&] { return pids_in(said.text()).size() == 2; }));
  box->cancel(command.id);
  auto x = command.exit.get().value();
  BOOST_TEST(x.cancelled);
  BOOST_TEST(!x.timed_out);
  BOOST_TEST(x.exit_code == -9);
  for (auto pid : pids_in(said.text()))
    BOOST_TEST(!is_alive(pid));
}

BOOST_AUTO_TEST_CASE(a_command_can_be_cancelled_before_it_was_started) {
  auto command = start(prepare(plain({"sleep", "1000"})));
  box->cancel(command.id);
  BOOST_TEST(command.exit.get().value().cancelled);
}

BOOST_AUTO_TEST_CASE(unknown_commands_can_be_granted_and_cancelled) {
  box->grant(0, 1);
  box->cancel(1'000'000);
  BOOST_TEST(run_script("exit 0").exit_code == 0);
}

// -- what commands see ---------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(later_environments_win_and_home_is_the_root) {
  auto request = script("echo $A $B $C $HOME $TROUPE_SESSION_ID");
  request.env = {{"B", "request"}, {"TROUPE_SESSION_ID", "forged"}};
  auto spec = box->prepare(request, {{"A", "manifest"}, {"B", "manifest"}, {"HOME", "/x"}}).value();
  BOOST_TEST(start(std::move(spec)).exit.get().value().stdout_data
             == "manifest request " + config.workspace_root + " " + config.session_id + "\n");
  request.env = {{"HOME", "/mine"}};
  spec = box->prepare(request, {}).value();
  BOOST_TEST(start(std::move(spec)).exit.get().value().stdout_data
             == "/mine " + config.session_id + "\n");
}

BOOST_AUTO_TEST_CASE(only_host_variables_on_the_allow_list_are_seen) {
  ::setenv("TROUPE_TEST_SECRET", "secret", 1);
  ::setenv("LC_TROUPE_TEST", "shown", 1);
  sandbox_fixture narrow{true, {"LC_*"}};
  auto text = narrow.run(plain({"env"})).value().stdout_data;
  BOOST_TEST(text.find("secret") == std::string::npos);
  BOOST_TEST(text.find("LC_TROUPE_TEST=shown\n") != std::string::npos);
  BOOST_TEST(text.find("PATH=/usr/local/sbin:")
             != std::string::npos); // ours, the host's is not let in
}

BOOST_AUTO_TEST_CASE(commands_inherit_no_descriptor) {
  unique_fd leaky{::open("/dev/null", O_RDONLY)};
  auto request = plain({"ls", "/proc/self/fd"});
  request.stdin_data = "x";
  BOOST_TEST(run(request).value().stdout_data == "0\n1\n2\n3\n");
}

// -- the server ----------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(commands_leave_no_descriptors_open_in_the_server) {
  run_script("true");
  auto before = count_entries("/proc/self/fd");
  for (int i = 0; i < 200; ++i) {
    auto request = plain({i % 10 == 0 ? "no-such-program" : "true"});
    request.stdin_data = "x";
    run(request);
  }
  BOOST_TEST(eventually([&] { return count_entries("/proc/self/fd") == before; }));
}

BOOST_AUTO_TEST_CASE(a_thousand_commands_at_once_need_no_more_threads) {
  constexpr int count = 1000;
  auto threads = count_entries("/proc/self/task");
  std::atomic<int> started{0};
  std::vector<running> commands;
  for (int i = 0; i < count; ++i) {
    auto spec = prepare(script("echo; exec sleep 1000"));
    spec.streamed = true;
    commands.push_back(start(std::move(spec), [&](stream_id, std::vector<char>) { ++started; }));
  }
  BOOST_TEST(eventually([&] { return started == count; }));
  BOOST_TEST(count_entries("/proc/self/task") == threads);
  BOOST_TEST(run_script("echo meanwhile").stdout_data == "meanwhile\n");
  shutdown();
  BOOST_TEST(std::all_of(commands.begin(), commands.end(),
                         [](running& x) { return x.exit.get().value().cancelled; }));
}

// -- life and death ------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(open_makes_a_private_directory_and_the_root) {
  struct stat info {};
  BOOST_REQUIRE(::stat(config.private_dir.c_str(), &info) == 0);
  BOOST_TEST((info.st_mode & 07777) == 0700u);
  struct stat root_info {};
  BOOST_REQUIRE(::fstat(box->root()->get(), &root_info) == 0);
  BOOST_REQUIRE(::stat(config.workspace_root.c_str(), &info) == 0);
  BOOST_TEST(root_info.st_ino == info.st_ino);
}

BOOST_AUTO_TEST_CASE(a_root_that_cannot_be_made_is_a_start_error) {
  std::ofstream{dir.path + "/file"};
  config.private_dir = dir.path + "/other";
  config.workspace_root = dir.path + "/file/root";
  auto other = host->make_sandbox(backend_kind::unix_local, config).value()->open();
  BOOST_REQUIRE(!other);
  BOOST_TEST(to_string(other.error().code) == "workspace_start_error");
  BOOST_TEST(other.error().context.find("file/root") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(reopening_finds_the_directory_that_took_the_place_of_the_root) {
  auto before = box->root();
  std::filesystem::rename(config.workspace_root, dir.path + "/old");
  BOOST_REQUIRE(box->reopen_root());
  struct stat old_info {};
  struct stat new_info {};
  ::fstat(before->get(), &old_info);
  ::fstat(box->root()->get(), &new_info);
  BOOST_TEST(old_info.st_ino != new_info.st_ino);
  BOOST_TEST(run_script("pwd").stdout_data == config.workspace_root + "\n");
}

BOOST_AUTO_TEST_CASE(remove_leaves_nothing) {
  run_script("mkdir -p a/b; echo x >a/b/c; ln -s /etc link; mkfifo fifo; chmod 0 a/b");
  shutdown();
  BOOST_REQUIRE(box->remove());
  BOOST_TEST(!std::filesystem::exists(config.private_dir));
  BOOST_TEST(box->remove().has_value());
  BOOST_TEST(std::filesystem::exists("/etc"));
}

BOOST_AUTO_TEST_CASE(a_root_that_is_not_owned_stays) {
  config.private_dir = dir.path + "/other";
  config.workspace_root = dir.path + "/mine";
  config.root_owned = false;
  auto other = host->make_sandbox(backend_kind::unix_local, config).value();
  BOOST_REQUIRE(other->open());
  BOOST_REQUIRE(other->remove());
  BOOST_TEST(!std::filesystem::exists(config.private_dir));
  BOOST_TEST(std::filesystem::exists(config.workspace_root));
}

BOOST_AUTO_TEST_CASE(after_a_shutdown_commands_are_refused_until_it_is_opened_again) {
  shutdown();
  auto x = start(prepare(script("true"))).exit.get();
  BOOST_REQUIRE(!x);
  BOOST_TEST(to_string(x.error().code) == "conflict");
  BOOST_REQUIRE(box->open());
  BOOST_TEST(run_script("echo again").stdout_data == "again\n");
}

BOOST_AUTO_TEST_CASE(every_shutdown_is_answered_after_the_last_process_is_gone) {
  auto pids = pids_in(run_script("sleep 1000 >/dev/null 2>&1 & echo $!").stdout_data);
  BOOST_REQUIRE(pids.size() == 1u);
  std::promise<bool> first;
  std::promise<bool> second;
  box->shutdown([&] { first.set_value(is_alive(pids.front())); });
  box->shutdown([&] { second.set_value(is_alive(pids.front())); });
  BOOST_TEST(!first.get_future().get());
  BOOST_TEST(!second.get_future().get());
}

BOOST_AUTO_TEST_CASE(dropping_the_sandbox_kills_what_runs) {
  auto command = start(prepare(plain({"sleep", "1000"})));
  auto pids = pids_in(run_script("sleep 1000 >/dev/null 2>&1 & echo $!").stdout_data);
  auto other = host->make_sandbox(backend_kind::unix_local, config).value();
  std::swap(box, other);
  other.reset();
  BOOST_TEST(command.exit.get().value().cancelled);
  BOOST_TEST(eventually([&] { return !is_alive(pids.front()); }));
}

BOOST_AUTO_TEST_CASE(shutdown_kills_daemons_that_covered_their_tracks,
                     *boost::unit_test::precondition(has_cgroups)) {
  auto x = run_script("env -i setsid sh -c 'echo $$; exec sleep 1000' &\n"
                      "while [ $(ps -o comm= | grep -c sleep) = 0 ]; do :; done");
  auto pids = pids_in(x.stdout_data);
  BOOST_REQUIRE(pids.size() == 1u);
  BOOST_TEST(is_alive(pids.front()));
  shutdown();
  BOOST_TEST(!is_alive(pids.front()));
}

BOOST_AUTO_TEST_CASE(use_is_counted, *boost::unit_test::precondition(has_cgroups)) {
  auto spec = prepare(script("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; exec cat"));
  spec.streamed = true;
  int fds[2];
  BOOST_REQUIRE(::pipe2(fds, O_CLOEXEC) == 0);
  unique_fd hold{fds[1]};
  spec.stdin_fd = std::make_shared<const unique_fd>(fds[0]);
  transcript said;
  auto command = start(std::move(spec), said.handler());
  BOOST_REQUIRE(eventually([&] { return said.size() == 1; }));
  BOOST_TEST(box->usage().pids == 1);
  BOOST_TEST(box->usage().cpu_ms > 0);
}

BOOST_AUTO_TEST_CASE(the_missing_wall_is_named) {
  auto walls = box->walls();
  BOOST_REQUIRE(walls.size() == 1u);
  BOOST_TEST(walls.front().name == "isolation");
  BOOST_TEST(!walls.front().enforced);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_FIXTURE_TEST_SUITE(without_cgroups, bare_fixture)

BOOST_AUTO_TEST_CASE(shutdown_finds_leftovers_by_their_marks) {
  auto by_environment = run_script("setsid sleep 1000 >/dev/null 2>&1 & echo $!");
  auto by_session = run_script("env -i sleep 1000 >/dev/null 2>&1 & echo $!");
  auto pids = pids_in(by_environment.stdout_data + by_session.stdout_data);
  BOOST_REQUIRE(pids.size() == 2u);
  shutdown();
  for (auto pid : pids)
    BOOST_TEST(!is_alive(pid));
}

BOOST_AUTO_TEST_CASE(shutdown_spares_other_sandboxes) {
  auto other_config = config;
  other_config.session_id = "99999999-2222-4333-8444-555555555555";
  auto other = host->make_sandbox(backend_kind::unix_local, other_config).value();
  BOOST_REQUIRE(other->open());
  auto pids = pids_in(run_script("sleep 1000 >/dev/null 2>&1 & echo $!").stdout_data);
  BOOST_REQUIRE(pids.size() == 1u);
  std::promise<void> gone;
  other->shutdown([&] { gone.set_value(); });
  gone.get_future().wait();
  BOOST_TEST(is_alive(pids.front()));
}

BOOST_AUTO_TEST_SUITE_END()
