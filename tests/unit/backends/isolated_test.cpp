#include "backends/isolated/isolated.hpp"

#include "support.hpp"

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <fstream>

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::backends;
using namespace troupe::backends::test;

namespace {

struct isolated_fixture : sandbox_fixture {
  isolated_fixture()
    : sandbox_fixture(true, {"LANG"}, backend_kind::isolated,
                      [](runtime::options&, sandbox_config& c) {
                        c.users = {user{"alice"}};
                        c.limits.memory_bytes = int64_t{256} << 20;
                        c.limits.pids = 200;
                      }) {}
};

/// Only root may make everything that these sandboxes are made of.
boost::test_tools::assertion_result is_root(boost::unit_test::test_unit_id) {
  boost::test_tools::assertion_result out{::geteuid() == 0};
  out.message() << "not root";
  return out;
}

std::string mode_of(const sandbox& box, const std::string& name) {
  for (const auto& x : box.walls())
    if (x.name == name)
      return x.enforced ? "enforced" : "missing";
  return "unknown";
}

} // namespace

BOOST_AUTO_TEST_SUITE(isolated_sandboxes, *boost::unit_test::precondition(is_root))

BOOST_FIXTURE_TEST_SUITE(commands, isolated_fixture)

// -- results -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(output_and_exit_code_come_back) {
  auto x = run_script("echo out; echo err >&2; exit 3");
  BOOST_TEST(x.exit_code == 3);
  BOOST_TEST(x.stdout_data == "out\n");
  BOOST_TEST(x.stderr_data == "err\n");
  BOOST_TEST(run_script("kill -KILL $$").exit_code == -9);
}

BOOST_AUTO_TEST_CASE(a_command_that_is_not_found_is_an_error) {
  auto x = run(plain({"no-such-program"}));
  BOOST_REQUIRE(!x);
  BOOST_TEST(to_string(x.error().code) == "exec_transport_error");
  auto request = plain({"true"});
  request.cwd = "missing";
  BOOST_TEST(to_string(run(request).error().code) == "workspace_root_not_found");
}

BOOST_AUTO_TEST_CASE(input_and_long_arguments_arrive) {
  auto request = plain({"cat"});
  request.stdin_data = std::string(300'000, 'x');
  BOOST_TEST(run(request).value().stdout_data == request.stdin_data);
  std::vector<std::string> command{"printf", "%s"};
  command.insert(command.end(), 20, std::string(100'000, 'y'));
  request = plain(command);
  request.output_limit = 4'000'000;
  BOOST_TEST(run(request).value().stdout_data.size() == 2'000'000);
}

BOOST_AUTO_TEST_CASE(commands_run_as_the_sandbox_user_in_the_workspace) {
  BOOST_TEST(run_script("id -u; id -g; pwd; echo $HOME; touch file && stat -c %U file").stdout_data
             == "1000\n1000\n/workspace\n/workspace\nsandbox\n");
  struct stat info {};
  BOOST_REQUIRE(::stat(in_root("file").c_str(), &info) == 0);
  BOOST_TEST(info.st_uid == box->file_identity(std::nullopt).value()->uid);
  BOOST_TEST(info.st_uid >= 65536);
}

BOOST_AUTO_TEST_CASE(a_user_of_the_manifest_exists_and_can_be_asked_for) {
  auto request = script("id -un; id -Gn");
  request.user = "alice";
  BOOST_TEST(run(request).value().stdout_data == "alice\nalice sandbox\n");
  request.user = "nobody-of-this-name";
  BOOST_TEST(to_string(run(request).error().code) == "sandbox_config_invalid");
}

// -- ends ----------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_cancelled_command_dies_with_all_that_it_started) {
  auto marker = in_root("pids");
  auto x = start(prepare(script("setsid sh -c 'echo x >> pids; sleep 1000' & sleep 1000")));
  BOOST_REQUIRE(eventually([&] { return std::filesystem::exists(marker); }));
  box->cancel(x.id);
  auto ended = x.exit.get();
  BOOST_REQUIRE(ended);
  BOOST_TEST(ended->cancelled);
  BOOST_TEST(eventually([&] { return run_script("pgrep -c sleep").stdout_data == "0\n"; }));
}

BOOST_AUTO_TEST_CASE(a_command_that_takes_too_long_is_killed) {
  auto spec = prepare(script("sleep 1000"));
  spec.timeout = 50ms;
  BOOST_TEST(start(std::move(spec)).exit.get().value().timed_out);
}

BOOST_AUTO_TEST_CASE(shutdown_leaves_nothing_and_open_makes_it_anew) {
  auto x = start(prepare(script("setsid sleep 1000 & sleep 1000")));
  shutdown();
  BOOST_TEST(x.exit.get().value().cancelled);
  BOOST_TEST(to_string(run(script("true")).error().code) == "conflict");
  BOOST_REQUIRE(box->open());
  BOOST_TEST(run_script("ls /proc | grep -c '^[0-9]'; touch again").exit_code == 0);
  BOOST_TEST(exists("again"));
  shutdown();
  BOOST_REQUIRE(box->remove());
  BOOST_TEST(!std::filesystem::exists(config.private_dir));
  BOOST_TEST(std::filesystem::is_empty(dir.path + "/uids"));
}

BOOST_AUTO_TEST_CASE(commands_of_a_sandbox_whose_init_died_end_with_an_error) {
  auto x = start(prepare(script("echo up > up; sleep 1000")));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  std::vector<pid_t> inits;
  for (auto child : children_of(::getpid()).value_or(std::vector<pid_t>{}))
    if (read_kernel_file(AT_FDCWD, "/proc/" + std::to_string(child) + "/cmdline")
          .compare(0, 11, "troupe-init")
        == 0)
      inits.push_back(child);
  BOOST_REQUIRE(inits.size() == 1);
  ::kill(inits.front(), SIGKILL);
  auto ended = x.exit.get();
  BOOST_REQUIRE(!ended);
  BOOST_TEST(to_string(ended.error().code) == "backend_lost");
}

BOOST_AUTO_TEST_CASE(a_later_server_ends_what_an_earlier_one_left) {
  auto other = host->make_sandbox(backend_kind::isolated, config);
  BOOST_REQUIRE(other);
  auto x = start(prepare(script("echo up > up; sleep 1000")));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  // The control socket takes one controller at a time, so the first has to be gone; a sandbox
  // whose server vanished is one whose init has lost its controller.
  shutdown();
  BOOST_TEST(x.exit.get().value().cancelled);
  BOOST_REQUIRE((*other)->open());
  std::promise<void> gone;
  (*other)->shutdown([&] { gone.set_value(); });
  gone.get_future().wait();
}

// -- terminals, ports, files ---------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_terminal_is_one_of_the_sandbox_itself) {
  auto promise = std::make_shared<std::promise<result<command_exit>>>();
  transcript said;
  terminal_handlers handlers;
  handlers.on_exit = [promise](result<command_exit> x) { promise->set_value(std::move(x)); };
  handlers.on_output = [handler = said.handler()](std::vector<char> data) {
    handler(stream_id::out, std::move(data));
  };
  auto spec = prepare(script("tty; stat -c %U $(tty); stty size; read x; echo got $x"));
  auto id = box->open_terminal(std::move(spec), {.tty = true, .rows = 30, .cols = 90}, handlers);
  box->write_terminal(id, "line\n", [](const result<void>&) {});
  auto ended = promise->get_future().get();
  BOOST_REQUIRE(ended);
  BOOST_TEST(ended->exit_code == 0);
  auto text = said.text();
  BOOST_TEST_CONTEXT(text) {
    BOOST_TEST(text.find("/dev/pts/0") != std::string::npos);
    BOOST_TEST(text.find("sandbox") != std::string::npos);
    BOOST_TEST(text.find("30 90") != std::string::npos);
    BOOST_TEST(text.find("got line") != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(a_port_inside_is_reached_through_init) {
  auto server = start(prepare(script(
    "python3 -c 'import socket; s=socket.socket(); s.bind((\"127.0.0.1\", 8000)); s.listen(); "
    "open(\"up\",\"w\"); c,_=s.accept(); c.send(b\"hello\")'")));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  std::promise<result<unique_fd>> promise;
  box->connect(8000, [&](result<unique_fd> x) { promise.set_value(std::move(x)); });
  auto socket = promise.get_future().get();
  BOOST_REQUIRE(socket);
  ::fcntl(socket->get(), F_SETFL, 0);
  char text[16] = {};
  BOOST_TEST(::recv(socket->get(), text, 5, MSG_WAITALL) == 5);
  BOOST_TEST(std::string{text} == "hello");
}

BOOST_AUTO_TEST_CASE(usage_and_walls_are_reported) {
  auto x = start(prepare(script("echo up > up; sleep 1000")));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  BOOST_TEST(box->usage().pids >= 2);
  for (auto name : {"namespaces", "user_range", "mounts", "proc", "capabilities", "seccomp",
                    "landlock", "network", "memory", "pids"})
    BOOST_TEST(mode_of(*box, name) == "enforced", name << " is not");
}

// -- init's other end ----------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_second_controller_is_turned_away) {
  unique_fd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (config.private_dir + "/control").copy(address.sun_path, sizeof address.sun_path - 1);
  BOOST_REQUIRE(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)
                == 0);
  isolated::bare_message m{{isolated::message_type::end, sizeof(isolated::bare_message), 0}};
  (void) !::send(socket.get(), &m, sizeof m, MSG_NOSIGNAL);
  char byte;
  BOOST_TEST(::recv(socket.get(), &byte, 1, 0) <= 0);
  BOOST_TEST(run_script("echo alive").stdout_data == "alive\n");
}

BOOST_AUTO_TEST_CASE(the_death_of_init_ends_its_commands_and_is_told_once) {
  shutdown();
  std::promise<sandbox_notice> told;
  box->observe([&](sandbox_notice x) { told.set_value(std::move(x)); });
  BOOST_REQUIRE(box->open());
  auto command = start(prepare(script("touch up; sleep 1000")));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  pid_t init = 0;
  auto children = children_of(::getpid()).value_or(std::vector<pid_t>{});
  for (auto pid : children)
    if (read_kernel_file(AT_FDCWD, "/proc/" + std::to_string(pid) + "/comm") == "troupe-init\n"
        || read_kernel_file(AT_FDCWD, "/proc/" + std::to_string(pid) + "/cmdline")
               .find("troupe-init")
             != std::string::npos)
      init = pid;
  BOOST_REQUIRE(init > 0);
  ::kill(init, SIGKILL);
  auto ended = command.exit.get();
  BOOST_REQUIRE(!ended);
  BOOST_TEST((ended.error().code == errc::backend_lost));
  BOOST_TEST(ended.error().retryable.value_or(false));
  auto notice = told.get_future().get();
  BOOST_TEST(notice.lost);
  BOOST_TEST(notice.data.find("\"signal\":9") != std::string::npos);
  BOOST_TEST(!is_alive(init));
  auto refused = run(script("true"));
  BOOST_TEST((!refused && refused.error().code == errc::backend_lost));
  shutdown();
  BOOST_REQUIRE(box->open());
  BOOST_TEST(run_script("ls up").stdout_data == "up\n");
}

BOOST_AUTO_TEST_SUITE_END()

// -- what cannot be had --------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_wall_that_cannot_be_had_stops_the_start_and_is_named) {
  isolated_fixture x;
  for (auto change : {+[](sandbox_config& c) { c.network = network_mode::host; },
                      +[](sandbox_config& c) { c.limits.disk_bytes = 1; }}) {
    auto config = x.config;
    config.private_dir += "-other";
    config.workspace_root = config.private_dir + "/workspace";
    change(config);
    auto box = x.host->make_sandbox(backend_kind::isolated, config);
    BOOST_REQUIRE(box);
    auto opened = (*box)->open();
    BOOST_REQUIRE(!opened);
    BOOST_TEST(to_string(opened.error().code) == "sandbox_config_invalid");
    BOOST_TEST(opened.error().context.find("\"wall\"") != std::string::npos);
    BOOST_REQUIRE((*box)->remove());
  }
}

BOOST_AUTO_TEST_SUITE_END()
