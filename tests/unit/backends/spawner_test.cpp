#include "backends/spawner.hpp"

#include "support.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <future>

using namespace troupe;
using namespace troupe::backends;
using troupe::backends::test::temporary_directory;

namespace {

void await_end(int pidfd) {
  pollfd p{pidfd, POLLIN, 0};
  BOOST_REQUIRE(::poll(&p, 1, 60'000) == 1);
}

spawn_request request(std::vector<std::string> argv) {
  spawn_request out;
  out.argv = std::move(argv);
  out.env = {"PATH=/usr/local/bin:/usr/bin:/bin"};
  out.cwd = "/";
  return out;
}

result<spawned> start(spawner& s, spawn_request r) {
  std::promise<result<spawned>> started;
  BOOST_REQUIRE(
    s.submit(std::move(r), [&](result<spawned> x) { started.set_value(std::move(x)); }));
  return started.get_future().get();
}

int32_t run(spawner& s, spawn_request r) {
  auto process = start(s, std::move(r));
  BOOST_REQUIRE_MESSAGE(process, (process ? "" : process.error().message));
  await_end(process->pidfd.get());
  auto code = s.reap(*process);
  BOOST_REQUIRE(code.has_value());
  return *code;
}

error failure(spawner& s, spawn_request r) {
  auto process = start(s, std::move(r));
  BOOST_REQUIRE(!process);
  return process.error();
}

/// What a command writes to its output.
std::string output(spawner& s, spawn_request r) {
  int fds[2];
  BOOST_REQUIRE(::pipe2(fds, O_CLOEXEC) == 0);
  unique_fd in{fds[0]};
  unique_fd out{fds[1]};
  r.stdout_fd = out.get();
  auto process = start(s, std::move(r));
  BOOST_REQUIRE(process);
  out.reset();
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t n; (n = ::read(in.get(), buffer.data(), buffer.size())) > 0;)
    text.append(buffer.data(), static_cast<size_t>(n));
  await_end(process->pidfd.get());
  BOOST_TEST(s.reap(*process).has_value());
  return text;
}

void write_file(const std::string& path, const std::string& text, mode_t mode) {
  std::ofstream{path} << text;
  ::chmod(path.c_str(), mode);
}

} // namespace

BOOST_AUTO_TEST_CASE(exit_codes_and_signals_are_told_apart) {
  spawner s;
  BOOST_TEST(run(s, request({"true"})) == 0);
  BOOST_TEST(run(s, request({"sh", "-c", "exit 137"})) == 137);
  BOOST_TEST(run(s, request({"sh", "-c", "kill -KILL $$"})) == -9);
}

BOOST_AUTO_TEST_CASE(a_running_process_has_no_exit_code_yet) {
  spawner s;
  auto process = start(s, request({"sleep", "1000"}));
  BOOST_REQUIRE(process);
  BOOST_TEST(!s.reap(*process).has_value());
  ::kill(process->pid, SIGKILL);
  await_end(process->pidfd.get());
  BOOST_TEST(s.reap(*process).value() == -9);
}

BOOST_AUTO_TEST_CASE(a_missing_program_is_an_error_and_no_exit_code) {
  spawner s;
  auto e = failure(s, request({"no-such-program", "x"}));
  BOOST_TEST(to_string(e.code) == "exec_transport_error");
  BOOST_TEST(e.message == "failed to start: No such file or directory");
  BOOST_TEST(e.context
             == R"({"errno":2,"errno_name":"ENOENT","detail":"No such file or directory",)"
                R"("command":["no-such-program","x"],"command_str":"no-such-program x"})");
  BOOST_TEST(to_string(failure(s, request({"/no/such"})).code) == "exec_transport_error");
  BOOST_TEST(to_string(failure(s, request({""})).code) == "exec_transport_error");
}

BOOST_AUTO_TEST_CASE(failed_starts_leave_no_zombie) {
  spawner s;
  failure(s, request({"no-such-program"}));
  siginfo_t info{};
  BOOST_TEST(::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == -1);
  BOOST_TEST(errno == ECHILD);
}

BOOST_AUTO_TEST_CASE(a_missing_directory_has_an_error_of_its_own) {
  spawner s;
  auto r = request({"true"});
  r.cwd = "/no/such/place";
  auto e = failure(s, r);
  BOOST_TEST(to_string(e.code) == "workspace_root_not_found");
  BOOST_TEST(e.message == "workspace root not found: /no/such/place");
  BOOST_TEST(e.context == R"({"path":"/no/such/place"})");
}

BOOST_AUTO_TEST_CASE(arguments_beyond_the_limit_are_refused_in_words) {
  spawner s;
  auto e = failure(s, request({"true", std::string(200'000, 'x')}));
  BOOST_TEST(e.message.find("too large") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(malformed_requests_are_refused) {
  spawner s;
  using namespace std::string_literals;
  auto with_env = request({"true"});
  with_env.env.push_back("A=\0"s);
  auto with_cwd = request({"true"});
  with_cwd.cwd = "/\0x"s;
  for (const auto& r : {request({}), request({"true", "a\0b"s}), with_env, with_cwd})
    BOOST_TEST(to_string(failure(s, r).code) == "invalid_request");
}

BOOST_AUTO_TEST_CASE(the_path_of_the_request_is_searched_as_execvp_does) {
  spawner s;
  temporary_directory dir;
  std::filesystem::create_directories(dir.path + "/denied");
  std::filesystem::create_directories(dir.path + "/good");
  write_file(dir.path + "/denied/tool", "#!/bin/sh\nexit 1\n", 0644);
  auto r = request({"tool"});
  r.env = {"PATH=" + dir.path + "/missing:" + dir.path + "/denied:" + dir.path + "/good"};
  auto e = failure(s, r);
  BOOST_TEST(e.message == "failed to start: Permission denied");
  write_file(dir.path + "/good/tool", "#!/bin/sh\nexit 5\n", 0755);
  BOOST_TEST(run(s, r) == 5);
}

BOOST_AUTO_TEST_CASE(a_script_without_an_interpreter_line_is_no_program) {
  spawner s;
  temporary_directory dir;
  write_file(dir.path + "/script", "exit 42\n", 0755);
  auto e = failure(s, request({dir.path + "/script"}));
  BOOST_TEST(e.message == "failed to start: Exec format error");
}

BOOST_AUTO_TEST_CASE(signals_that_the_server_ignores_work_in_the_child) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  spawner s;
  ::signal(SIGHUP, SIG_DFL);
  BOOST_TEST(run(s, request({"sh", "-c", "kill -PIPE $$"})) == -SIGPIPE);
  BOOST_TEST(run(s, request({"sh", "-c", "kill -HUP $$"})) == -SIGHUP);
  struct sigaction ours {};
  ::sigaction(SIGPIPE, nullptr, &ours);
  BOOST_TEST((ours.sa_handler == SIG_IGN));
}

BOOST_AUTO_TEST_CASE(the_child_has_its_three_streams_and_nothing_else) {
  unique_fd leaky{::open("/dev/null", O_RDONLY)}; // as of a library that forgets O_CLOEXEC
  unique_fd leaky_high{::fcntl(leaky.get(), F_DUPFD, 500)};
  spawner s;
  // 3 is the directory that ls reads.
  BOOST_TEST(output(s, request({"ls", "/proc/self/fd"})) == "0\n1\n2\n3\n");
  BOOST_TEST(output(s, request({"readlink", "/proc/self/fd/0"})) == "/dev/null\n");
}

BOOST_AUTO_TEST_CASE(the_child_leads_its_own_session_with_an_empty_signal_mask) {
  spawner s;
  BOOST_TEST(output(s, request({"sh", "-c", "ps -o sid= -p $$ | tr -d ' ' | grep -cx $$"}))
             == "1\n");
  auto blocked = output(s, request({"grep", "SigBlk", "/proc/self/status"}));
  BOOST_TEST(blocked == "SigBlk:\t0000000000000000\n");
  BOOST_TEST(output(s, request({"sh", "-c", "umask"})) == "0022\n");
}

BOOST_AUTO_TEST_CASE(children_die_with_the_spawner) {
  result<spawned> process;
  {
    spawner s;
    process = start(s, request({"sleep", "1000"}));
    BOOST_REQUIRE(process);
  }
  await_end(process->pidfd.get());
  int status = 0;
  BOOST_TEST(::waitpid(process->pid, &status, 0) == process->pid);
  BOOST_TEST(WTERMSIG(status) == SIGKILL);
}

BOOST_AUTO_TEST_CASE(a_full_queue_refuses_and_a_stopping_one_answers) {
  std::promise<void> busy;
  std::promise<void> gate;
  std::promise<result<spawned>> waiting;
  {
    spawner s{1, 1};
    s.submit(request({"/no/such"}), [&](result<spawned>) {
      busy.set_value();
      gate.get_future().wait();
    });
    busy.get_future().wait();
    BOOST_TEST(
      s.submit(request({"true"}), [&](result<spawned> x) { waiting.set_value(std::move(x)); }));
    BOOST_TEST(!s.submit(request({"true"}), [](result<spawned>) {}));
    std::thread opener{[&] { gate.set_value(); }};
    s.stop();
    opener.join();
    BOOST_TEST(!s.submit(request({"true"}), [](result<spawned>) {}));
  }
  // It was started or refused, depending on who came first; it was not forgotten.
  auto x = waiting.get_future().get();
  if (x)
    ::waitpid(x->pid, nullptr, 0);
  else
    BOOST_TEST(to_string(x.error().code) == "cancelled");
}

BOOST_AUTO_TEST_CASE(orphans_are_reaped_and_children_of_ours_are_not) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  spawner s;
  auto orphan = test::pids_in(output(s, request({"sh", "-c", "sleep 0.2 >/dev/null & echo $!"})));
  BOOST_REQUIRE(orphan.size() == 1u);
  BOOST_TEST(test::eventually([&] {
    s.reap_orphans();
    return !read_process(orphan.front()).has_value();
  }));
  auto ours = start(s, request({"sh", "-c", "exit 7"}));
  BOOST_REQUIRE(ours);
  await_end(ours->pidfd.get());
  s.reap_orphans();
  BOOST_TEST(s.reap(*ours).value() == 7);
}
